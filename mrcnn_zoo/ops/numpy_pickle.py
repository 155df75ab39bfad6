"""Detectron2's `.pkl` files of weights and proposals: numpy arrays, read by an unpickler that builds nothing else."""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

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
