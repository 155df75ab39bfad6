"""Weights of other projects under our names, one file a source.

A module of this folder that registers a converter is found by being here.
"""

import importlib
import pkgutil

from mrcnn_zoo.interop.converter import (
    Conversion,
    Converter,
    DetectorSource,
    background_first,
    background_last,
    find_converter,
    renamed,
)

__all__ = [
    "Conversion",
    "Converter",
    "DetectorSource",
    "background_first",
    "background_last",
    "find_converter",
    "renamed",
]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
