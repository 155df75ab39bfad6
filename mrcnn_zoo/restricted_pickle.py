"""Reads pickled files without running code in them: numpy arrays of Detectron2, checkpoints of MMEngine.

Only arrays and plain values are read. MMEngine's other objects become placeholders, so that none of their code runs.
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

ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
# Taken from arrays themselves: the modules of these functions moved between numpy 1 and 2.
ARRAY_BUILDERS = {
    "_reconstruct": np.zeros(1).__reduce__()[0],
    "_frombuffer": np.zeros(1).__reduce_ex__(5)[0],
    "scalar": np.float32(0).__reduce__()[0],
}
MMENGINE = "mmengine."  # every checkpoint of MMEngine holds objects of this package
PLACEHOLDER_PREFIXES = (MMENGINE, "mmdet.", "mmcv.", "numpy.", "_codecs.encode", "builtins.getattr", "collections.")


class ForbiddenGlobalError(pickle.UnpicklingError):
    """The pickle names a class or function that arrays do not need."""


def load_numpy_pickle(path: Path) -> Any:
    """The content of a `.pkl` file, Python 2's included; no code in it is run.

    Raises:
        UserError: it is cut short, not a pickle, or holds more than arrays and plain values.
    """
    try:
        with path.open("rb") as file:
            return ArrayUnpickler(file, encoding="latin1").load()
    except ForbiddenGlobalError as error:
        raise UserError(
            f"{path} is refused: reading it would run {error}. Only numpy arrays and plain values are read."
        ) from error
    except Exception as error:  # of any kind, on bytes that are not a pickle's
        raise UserError(
            f"{path} ({path.stat().st_size:,} bytes) is cut short or not a pickle: {error or type(error).__name__}. "
            f"Copy or download it again."
        ) from error


class ArrayUnpickler(pickle.Unpickler):
    """Builds plain Python values and numpy arrays; everything else raises ForbiddenGlobalError."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if module_name in ARRAY_MODULES and global_name in ARRAY_BUILDERS:
            return ARRAY_BUILDERS[global_name]
        allowed = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("collections", "OrderedDict"): OrderedDict,
            ("_codecs", "encode"): _encode,
        }
        if (module_name, global_name) not in allowed:
            raise ForbiddenGlobalError(f"{module_name}.{global_name}")
        return allowed[module_name, global_name]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    # How Python 3 pickles bytes under protocol 2. Other codecs can do more than encode.
    if encoding not in ("latin1", "latin-1"):
        raise ForbiddenGlobalError(f"_codecs.encode with {encoding!r}")
    return text.encode("latin1")


class PlaceholderObject:
    """Replaces an object of any class, or the result of any function, while a file is read."""

    def __new__(cls, *_args: Any) -> "PlaceholderObject":
        return super().__new__(cls)

    def __init__(self, *_args: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


@contextlib.contextmanager
def restricted_unpickling(path: Path) -> Iterator[None]:
    """Lets `torch.load(weights_only=True)` read a checkpoint of MMEngine, whose objects become placeholders.

    A file that holds objects of other packages is still refused.

    Args:
        path: of the checkpoint, of any project.
    """
    names = _unsafe_globals(path)
    is_mmengine = any(name.startswith(MMENGINE) for name in names)
    is_allowed = is_mmengine and all(name.startswith(PLACEHOLDER_PREFIXES) for name in names)
    # One class per name: torch keeps the allowed classes in a dict by class.
    placeholders = [(type("Placeholder", (PlaceholderObject,), {}), name) for name in names] if is_allowed else []
    with torch.serialization.safe_globals(placeholders):  # type: ignore[arg-type]
        yield


def _unsafe_globals(path: Path) -> list[str]:
    try:
        return list(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # of any kind, on files that are not torch's; torch.load reports what is wrong with them
        return []
