"""The kinds of files that weights are read from."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from mrcnn_zoo.checkpoint.sources import read_weights
from mrcnn_zoo.errors import UserError

WEIGHTS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a.bias": np.float32([1, 2])}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_detectron2_pickles_of_every_protocol_are_read(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    content = {"model": OrderedDict(WEIGHTS), "__author__": "x", "matching_heuristics": True, "scale": np.float32(2)}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    weights = read_weights(path).weights
    assert {name: value.tolist() for name, value in weights.items()} == {
        "a.weight": [[0, 1, 2], [3, 4, 5]],
        "a.bias": [1, 2],
    }


def test_pickles_of_numpy_1_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": WEIGHTS}, protocol=2).replace(b"numpy._core", b"numpy.core"))
    assert sorted(read_weights(path).weights) == ["a.bias", "a.weight"]


def test_early_pointrend_names_are_renamed(tmp_path: Path) -> None:
    # As in the published model_final_3c3198.pkl.
    names = {
        "roi_heads.mask_coarse_head.coarse_mask_fc1.weight": "roi_heads.mask_head.coarse_head.fc1.weight",
        "roi_heads.mask_coarse_head.reduce_spatial_dim_conv.bias": (
            "roi_heads.mask_head.coarse_head.reduce_spatial_dim_conv.bias"
        ),
        "roi_heads.mask_coarse_head.prediction.bias": "roi_heads.mask_head.coarse_head.prediction.bias",
        "roi_heads.mask_point_head.fc3.weight": "roi_heads.mask_head.point_head.fc3.weight",
        "roi_heads.box_predictor.cls_score.bias": "roi_heads.box_predictor.cls_score.bias",
    }
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": {name: np.float32([number]) for number, name in enumerate(names)}}))
    assert {name: value.item() for name, value in read_weights(path).weights.items()} == {
        later: number for number, later in enumerate(names.values())
    }


class RunsCommand:
    """Unpickling it with Python's unpickler creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    path, marker = tmp_path / "model.pkl", tmp_path / "marker"
    path.write_bytes(pickle.dumps({"model": {**WEIGHTS, "b": RunsCommand(marker)}}))
    with pytest.raises(UserError, match=r"is refused: reading it would run posix\.system"):
        read_weights(path)
    assert not marker.exists()


def test_codecs_that_do_more_than_encode_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(b"c_codecs\nencode\n(Vtext\nVzlib\ntR.")
    with pytest.raises(UserError, match="'zlib'"):
        read_weights(path)


def test_pickle_cut_short_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": WEIGHTS})[:100])
    with pytest.raises(UserError, match=r"model\.pkl \(100 bytes\) is cut short or not a pickle"):
        read_weights(path)


def test_safetensors_are_read(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="needs the optional package safetensors")
    path = tmp_path / "model.safetensors"
    safetensors.save_file({"a.weight": torch.ones(2)}, str(path))
    assert read_weights(path).weights["a.weight"].tolist() == [1, 1]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"model\.safetensors .* is cut short"):
        read_weights(path)


@pytest.mark.parametrize("name", ["model.pth", "model.pkl"])
def test_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{name} do(es)? not exist"):
        read_weights(tmp_path / name)
