"""Loading of trained models from a checkpoint, with or without a config."""

from pathlib import Path

import pytest
import torch

from mrcnn_zoo.checkpoint import Checkpointer, WeightsFile
from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation import load_trained
from mrcnn_zoo.inference.trained import category_ids_of
from mrcnn_zoo.interop import coco_classes
from mrcnn_zoo.modeling import build_model
from support.small_models import DIGITS, TINY_LAYERS

TINY = (*TINY_LAYERS, "MODEL.ROI_HEADS.NUM_CLASSES=3")
NAMES = ("cat", "dog", "cow")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A checkpoint with config and class names, like those of a training."""
    cfg = load_config(DIGITS, list(TINY))
    torch.manual_seed(1)
    state = {"model": build_model(cfg).state_dict(), "config": cfg.dump(), "class_names": list(NAMES)}
    return Checkpointer(tmp_path_factory.mktemp("run")).save("model_final", state)


def test_checkpoint_alone_gives_model_config_and_class_names(weights: Path) -> None:
    model, cfg, class_names = load_trained(weights)
    assert class_names == NAMES
    assert cfg.MODEL.FPN.OUT_CHANNELS == 8
    assert not model.training
    stored = torch.load(weights, weights_only=True)["model"]
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items() if name in stored)


def test_category_ids_are_those_of_the_file_or_of_coco_or_counted_from_1() -> None:
    assert category_ids_of(WeightsFile("", {}, {"category_ids": [7, 3, 40]}), NAMES, count=3) == (7, 3, 40)
    assert category_ids_of(WeightsFile("", {}, {}), NAMES, count=3) == (1, 2, 3)
    assert category_ids_of(WeightsFile("", {}, {"category_ids": []}), (), count=2) == (1, 2)
    coco_ids = category_ids_of(WeightsFile("", {}), coco_classes.COCO_CLASSES, count=80)
    assert dict(zip(coco_classes.COCO_CLASSES, coco_ids, strict=True))["toothbrush"] == 90


def test_device_of_the_training_machine_is_ignored(
    weights: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    state = torch.load(weights, weights_only=True)
    elsewhere = tmp_path / "trained_elsewhere.pth"
    torch.save({**state, "config": state["config"].replace("DEVICE: cpu", "DEVICE: cuda:3")}, elsewhere)
    _, cfg, _ = load_trained(elsewhere)
    assert cfg.MODEL.DEVICE == "auto"
    assert not recwarn.list
    assert load_trained(weights, overrides=["MODEL.DEVICE=cpu"])[1].MODEL.DEVICE == "cpu"


def test_overrides_change_the_config_of_the_checkpoint(weights: Path) -> None:
    _, cfg, _ = load_trained(weights, overrides=["TEST.DETECTIONS_PER_IMAGE", "7", "TEST.NUM_IMAGES=5"])
    assert (cfg.TEST.DETECTIONS_PER_IMAGE, cfg.TEST.NUM_IMAGES, cfg.MODEL.FPN.OUT_CHANNELS) == (7, 5, 8)
    assert cfg.is_frozen()


def test_weights_may_be_named_by_the_config(weights: Path) -> None:
    model, _, class_names = load_trained(config=DIGITS, overrides=[*TINY, f"MODEL.WEIGHTS={weights}"])
    assert class_names == NAMES
    stored = torch.load(weights, weights_only=True)["model"]
    assert torch.equal(model.state_dict()["backbone.fpn_output2.weight"], stored["backbone.fpn_output2.weight"])


def test_unknown_key_in_overrides_is_refused(weights: Path) -> None:
    with pytest.raises(UserError, match="DETECTIONS_PER_IMAGE"):
        load_trained(weights, overrides=["TEST.DETECTION_PER_IMAGE=7"])


def test_weights_without_a_config_require_one(weights: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.pth"
    torch.save(torch.load(weights, weights_only=True)["model"], bare)
    with pytest.raises(UserError, match=r"bare\.pth contains no config: name one with --config-file"):
        load_trained(bare)
    _, _, class_names = load_trained(bare, config=DIGITS, overrides=list(TINY))
    assert class_names == ()


def test_missing_weights_are_refused() -> None:
    with pytest.raises(UserError, match="no weights are given: name a checkpoint"):
        load_trained()
    with pytest.raises(UserError, match="no weights to load: give --weights"):
        load_trained(config=DIGITS, overrides=[*TINY, "MODEL.WEIGHTS="])


def test_weights_of_another_class_count_are_refused(weights: Path) -> None:
    with pytest.raises(UserError, match=r"NUM_CLASSES = 4, but .*trained on 3 classes: cat, dog, cow\. Set .* to 3"):
        load_trained(weights, config=DIGITS, overrides=[*TINY, "MODEL.ROI_HEADS.NUM_CLASSES=4"])


def test_missing_file_is_named() -> None:
    with pytest.raises(UserError, match=r"nowhere\.pth does not exist"):
        load_trained("nowhere.pth")
