"""Dataset formats. Importing this package imports, and so registers, every module in it."""

import importlib
import pkgutil

from mrcnn_zoo.data.synthetic import scenes

__all__ = ["scenes"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
