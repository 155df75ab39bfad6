"""Metrics of detections beside COCO AP, a file per metric. Importing this package imports, and so registers, each."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
