"""Weights of other projects, converted to and from ours; one module or folder per project.

Converters register themselves: every module of this folder is imported.
"""

import importlib
import pkgutil

from mrcnn_zoo.interop.converter import BackboneConverter, Conversion, DetectorConverter, find_converter
from mrcnn_zoo.interop.renaming import RenameTable

__all__ = ["BackboneConverter", "Conversion", "DetectorConverter", "RenameTable", "find_converter"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
