"""Keras' HDF5 files, and broken ones."""

import sys
from pathlib import Path

import numpy as np
import pytest

from mrcnn_zoo.checkpoint.sources import read_keras_weights
from mrcnn_zoo.errors import UserError

h5py = pytest.importorskip("h5py", reason="h5py is an optional dependency")


def write(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def test_optimizer_weights_are_not_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "model.h5",
        {
            "model_weights/conv1/conv1/kernel:0": np.arange(4, dtype=np.float32).reshape(1, 2, 2, 1),
            "optimizer_weights/training/SGD/conv1/kernel/momentum:0": np.zeros(4, dtype=np.float32),
        },
    )
    weights = read_keras_weights(path)
    assert {name: value.tolist() for name, value in weights.items()} == {"conv1/kernel": [[[[0.0], [1.0]], [[2], [3]]]]}


def test_empty_file_has_no_weights(tmp_path: Path) -> None:
    assert read_keras_weights(write(tmp_path / "empty.h5", {})) == {}


def test_equal_layer_names_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "model.h5", {"a/conv/kernel:0": np.zeros(1), "b/conv/kernel:0": np.zeros(1)})
    with pytest.raises(UserError, match="two weights named conv/kernel"):
        read_keras_weights(path)


def test_files_cut_short_are_named(tmp_path: Path) -> None:
    whole = write(tmp_path / "model.h5", {"conv/kernel:0": np.zeros(1000)})
    whole.write_bytes(whole.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"model.h5 \(1,000 bytes\) is cut short or not HDF5"):
        read_keras_weights(whole)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone.h5 do not exist"):
        read_keras_weights(tmp_path / "gone.h5")


def test_without_h5py_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match="pip install h5py"):
        read_keras_weights(tmp_path / "model.h5")
