"""Checkpoints of MMEngine, which keep the objects of a training run beside the weights.

Nothing of those objects is needed. They are read as empty shells, so that no code of theirs is there to be run.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

MARK = "mmengine."  # a file without any of its objects is none of its
HARMLESS = (MARK, "mmdet.", "mmcv.", "numpy.", "_codecs.encode", "builtins.getattr", "collections.")


class Shell:
    """Stands for an object of any class or the result of any function."""

    def __new__(cls, *_args: Any) -> "Shell":
        return super().__new__(cls)

    def __init__(self, *_args: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


@contextlib.contextmanager
def shells_for_mmengine(path: Path) -> Iterator[None]:
    """While it lasts, `torch.load(weights_only=True)` takes the file if only MMEngine's objects kept it from that."""
    names = _foreign_globals(path)
    is_known = any(name.startswith(MARK) for name in names) and all(name.startswith(HARMLESS) for name in names)
    # One class each: torch keeps them by class.
    shells = [(type("Shell", (Shell,), {}), name) for name in names] if is_known else []
    with torch.serialization.safe_globals(shells):  # type: ignore[arg-type]
        yield


def _foreign_globals(path: Path) -> list[str]:
    try:
        return list(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # of any kind, on files that are not torch's; reading them again says what is wrong
        return []
