"""Detectors as files: for us, for Detectron2 and for torchvision."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mrcnn_zoo.checkpoint import load_weights, read_weights
from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.interop.detectron2 import save_detector
from mrcnn_zoo.interop.torchvision.export import save_for_torchvision
from mrcnn_zoo.modeling import build_model
from support.small_models import DIGITS, TINY_LAYERS

TINY = [
    *TINY_LAYERS,
    *("MODEL.ROI_HEADS.NUM_CLASSES", 3, "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]),
    *("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"]),
]
NAMES = ("cat", "dog", "cow")


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return build_model(load_config(DIGITS, TINY)).state_dict()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_saved_weights_config_and_class_names_are_read_back(
    suffix: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "new" / f"model{suffix}"
    best = {"dataset": "val", "by_class": dict.fromkeys(NAMES, 0.7)}
    settings = {"class_names": NAMES, "category_ids": (7, 3, 40), "score_thresholds": best}
    save_detector(path, state, config="MODEL: {}\n", **settings)
    file = read_weights(path)
    assert file.meta["score_thresholds"] == best
    assert file.weights.keys() == state.keys()
    assert all(torch.equal(file.weights[name], tensor) for name, tensor in state.items())
    assert file.meta["config"] == "MODEL: {}\n"
    assert tuple(file.meta["class_names"]) == NAMES
    assert tuple(file.meta["category_ids"]) == (7, 3, 40)


def test_pth_file_has_the_layout_of_detectron2(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_detector(tmp_path / "model.pth", state, config="", class_names=NAMES)
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    assert list(content["model"]) == list(state)
    assert content["class_names"] == list(NAMES)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_half_precision_halves_the_file_and_loads_into_float32(
    suffix: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    whole, half = tmp_path / f"whole{suffix}", tmp_path / f"half{suffix}"
    save_detector(whole, state, config="", class_names=())
    save_detector(half, state, config="", class_names=(), half=True)
    assert half.stat().st_size < 0.6 * whole.stat().st_size or whole.stat().st_size < 400_000
    model = build_model(load_config(DIGITS, TINY))
    assert load_weights(model, half).is_complete
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, state[name].half().float())


def test_values_beyond_half_precision_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    name = "roi_heads.box_head.fc1.weight"
    large = {**state, name: torch.full_like(state[name], 1e5)}
    with pytest.raises(UserError, match=r"fc1\.weight has values up to 1e\+05"):
        save_detector(tmp_path / "model.pth", large, config="", class_names=(), half=True)
    assert list(tmp_path.iterdir()) == []


def test_views_are_saved_without_their_base(tmp_path: Path) -> None:
    save_detector(tmp_path / "model.pth", {"a": torch.zeros(1_000_000)[:3]}, config="", class_names=())
    assert (tmp_path / "model.pth").stat().st_size < 10_000


def test_torchvision_gets_a_bare_state_dict(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_for_torchvision(tmp_path / "theirs.pth", state)
    content = torch.load(tmp_path / "theirs.pth", weights_only=True)
    assert "backbone.body.conv1.weight" in content
    assert len(content["roi_heads.box_predictor.bbox_pred.bias"]) == 16
    save_for_torchvision(tmp_path / "theirs.safetensors", state)
    assert read_weights(tmp_path / "theirs.safetensors").weights.keys() == content.keys()


def test_another_suffix_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.onnx should end in \.safetensors or \.pth"):
        save_detector(tmp_path / "model.onnx", state, config="", class_names=())
    with pytest.raises(UserError, match=r"model\.pkl should end in"):
        save_for_torchvision(tmp_path / "model.pkl", state)


def test_class_names_that_are_not_json_are_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "broken.safetensors", metadata={"class_names": "cat, dog"})
    with pytest.raises(UserError, match=r"broken\.safetensors: class_names in its metadata is not JSON"):
        read_weights(tmp_path / "broken.safetensors")
