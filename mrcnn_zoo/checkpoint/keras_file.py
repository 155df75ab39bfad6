"""Weights that Keras saved in HDF5, by the names of their layers."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mrcnn_zoo.errors import UserError

SUFFIXES = (".h5", ".hdf5")
OPTIMIZER = "optimizer_weights/"


def read_keras_weights(path: Path) -> dict[str, Tensor]:
    """Every array of a `.h5` file as "layer/weight", e.g. "conv1/kernel", in the layout that it has there.

    Models inside models, such as a region proposal network in a detector, stand beside the other layers.

    Raises:
        UserError: h5py is missing, the file is missing or not HDF5, or two layers have one name.
    """
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"{path} needs the package h5py: `pip install h5py`.") from error
    if not path.is_file():
        raise UserError(f"weights {path} do not exist.")
    arrays: dict[str, np.ndarray] = {}

    def collect(name: str, item: object) -> None:
        if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiu" or name.startswith(OPTIMIZER):
            return
        short = "/".join(name.split("/")[-2:]).partition(":")[0]
        if short in arrays:
            raise UserError(f"{path} has two weights named {short}; they cannot be told apart.")
        arrays[short] = item[()]

    try:
        with h5py.File(path, "r") as file:
            file.visititems(collect)
    except OSError as error:
        raise UserError(
            f"{path} ({path.stat().st_size:,} bytes) is cut short or not HDF5: {error}. Copy or download it again."
        ) from error
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
