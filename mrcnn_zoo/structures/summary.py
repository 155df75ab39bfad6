"""`repr` of tables and records: counts and shapes instead of all numbers."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from torch import Tensor

from mrcnn_zoo.errors import counted

LONGEST = 60  # characters of a value that is shown in full


def summary(record: Any) -> str:
    """The `repr` of a dataclass with tensors and arrays as shape and dtype, and long values as their length.

    Args:
        record: an instance of a dataclass.
    """
    values = {item.name: getattr(record, item.name) for item in fields(record)}
    shown = [f"{name}={_short(value)}" for name, value in values.items() if value is not None]
    parts = [counted(len(record), "row")] if hasattr(record, "__len__") else []
    return f"{type(record).__name__}({', '.join([*parts, *shown])})"


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        place = "" if value.device.type == "cpu" else f" on {value.device}"
        return f"<{'x'.join(map(str, value.shape)) or 'scalar'} {str(value.dtype).removeprefix('torch.')}{place}>"
    if isinstance(value, np.ndarray):
        return f"<{'x'.join(map(str, value.shape)) or 'scalar'} {value.dtype}>"
    if isinstance(value, str):
        return repr(value) if len(value) <= LONGEST else f"{value[:LONGEST]!r}..."
    if isinstance(value, Mapping | list | tuple):
        return _short_collection(value)
    return repr(value)


def _short_collection(value: Any) -> str:
    is_small = len(value) <= 12 and not any(isinstance(item, Tensor | np.ndarray | dict) for item in _items(value))
    text = repr(value) if is_small else ""
    return text if is_small and len(text) <= LONGEST else f"<{type(value).__name__} of {len(value):,}>"


def _items(value: Any) -> Any:
    return value.values() if isinstance(value, Mapping) else value
