"""Dataset formats, one file per format. Every module of this folder is imported, and so registered."""

import importlib
import pkgutil

from mrcnn_zoo.data.synthetic import scenes

__all__ = ["scenes"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
