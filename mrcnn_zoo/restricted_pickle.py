"""Pickled files read without running their code: Detectron2's arrays, MMEngine's checkpoints.

Nothing of those objects is needed. They are read as empty shells, so that no code of theirs is there to be run.
"""

import contextlib
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mrcnn_zoo.errors import UserError

_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
# Taken from arrays themselves: the modules that hold these functions moved between numpy 1 and 2.
_ARRAY_BUILDERS = {
    "_reconstruct": np.zeros(1).__reduce__()[0],
    "_frombuffer": np.zeros(1).__reduce_ex__(5)[0],
    "scalar": np.float32(0).__reduce__()[0],
}


class ForbiddenGlobalError(pickle.UnpicklingError):
    """The pickle asks for something that is not needed for arrays."""


class ArrayUnpickler(pickle.Unpickler):
    """Builds plain Python values and numpy arrays."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if module_name in _ARRAY_MODULES and global_name in _ARRAY_BUILDERS:
            return _ARRAY_BUILDERS[global_name]
        allowed = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("collections", "OrderedDict"): OrderedDict,
            ("_codecs", "encode"): _encode,
        }
        if (module_name, global_name) not in allowed:
            raise ForbiddenGlobalError(f"{module_name}.{global_name}")
        return allowed[module_name, global_name]


def load_numpy_pickle(path: Path) -> Any:
    """What a `.pkl` holds, Python 2's included; no code in it is run.

    Raises:
        UserError: it is cut short, not a pickle, or holds more than arrays and plain values.
    """
    try:
        with path.open("rb") as file:
            return ArrayUnpickler(file, encoding="latin1").load()
    except ForbiddenGlobalError as error:
        raise UserError(
            f"{path} is refused: it asks to run {error} while it is read. Only numpy arrays and plain values are taken."
        ) from error
    except Exception as error:  # of any kind, on bytes that are not a pickle's
        raise UserError(
            f"{path} ({path.stat().st_size:,} bytes) is cut short or not a pickle: {error or type(error).__name__}. "
            f"Copy or download it again."
        ) from error


def _encode(text: str, encoding: str = "latin1") -> bytes:
    # How Python 3 pickles bytes under protocol 2; any other codec could do more than encode.
    if encoding not in ("latin1", "latin-1"):
        raise ForbiddenGlobalError(f"_codecs.encode with {encoding!r}")
    return text.encode("latin1")


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
