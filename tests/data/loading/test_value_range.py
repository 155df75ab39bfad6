"""One range of values for all images deeper than 8 bits: from the training set, in the config of its checkpoint."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrcnn_zoo.checkpoint import WeightsFile
from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.data.images.pixels import RangeScaling, depth_reduction_of, stretch
from mrcnn_zoo.data.loading import value_range as module
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference.trained import with_value_range_of
from mrcnn_zoo.training.preflight import plan_training
from support.small_models import TINY_YAML

SIZE = (20, 30)


def _image(path: Path, low: int, high: int, dtype: str = "uint16") -> None:
    """An image of `low` on the left and `high` on the right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full(SIZE, low, dtype)
    pixels[:, 15:] = high
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten label images of one object; images of 1000 + number to 3000 + number."""
    for number in range(10):
        _image(tmp_path / f"cells/images/{number}.png", 1000 + number, 3000 + number)
        _image(tmp_path / f"cells/masks/{number}.png", 0, 1)
    return tmp_path / "cells"


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRCNN_ZOO_CACHE", str(tmp_path / "cache"))


def _plan(root: Path, *overrides: str) -> CfgNode:
    data = ["DATASETS.TRAIN", f"[{root}:all]", "DATASETS.TEST", "[]", "MODEL.ROI_HEADS.NUM_CLASSES", "1"]
    cfg = load_config(TINY_YAML, ["OUTPUT_DIR", str(root / "output"), *data, "INPUT.SIXTEEN_BIT", "range", *overrides])
    return plan_training(cfg, resume=False).cfg


def test_range_is_that_of_the_training_images(root: Path) -> None:
    cfg = _plan(root, "INPUT.PERCENTILES", "[0, 100]")
    assert cfg.INPUT.VALUE_RANGE == [1000.0, 3009.0]
    pixels = np.array([[[1000], [2004.5], [3009], [900], [4000]]], np.float32)
    assert depth_reduction_of(cfg)(pixels)[0, :, 0].tolist() == [0, 128, 255, 0, 255]  # half of 255 rounds to even


def test_range_that_is_given_stays(root: Path) -> None:
    assert _plan(root, "INPUT.VALUE_RANGE", "[5, 10]").INPUT.VALUE_RANGE == [5, 10]


def test_images_of_8_bits_need_no_range(root: Path) -> None:
    for number in range(10):
        _image(root / f"images/{number}.png", 1, 200, "uint8")
    assert _plan(root).INPUT.VALUE_RANGE == []


def test_images_of_one_value_are_refused(root: Path) -> None:
    for number in range(10):
        _image(root / f"images/{number}.png", 700, 700)
    with pytest.raises(UserError, match=r"have one value, 700, .* Give INPUT\.VALUE_RANGE the lowest"):
        _plan(root)


def test_sample_is_spread_over_all_images(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NUM_IMAGES", 3)  # images 0, 3 and 6
    assert _plan(root, "INPUT.PERCENTILES", "[0, 100]").INPUT.VALUE_RANGE == [1000.0, 3006.0]


def test_evaluation_takes_the_range_of_the_checkpoint(root: Path) -> None:
    trained = _plan(root, "INPUT.PERCENTILES", "[0, 100]")
    file = WeightsFile("model.pth", {}, {"config": trained.dump()})
    cfg = load_config(TINY_YAML, ["INPUT.SIXTEEN_BIT", "range"])
    assert with_value_range_of(cfg, file).INPUT.VALUE_RANGE == [1000.0, 3009.0]
    assert with_value_range_of(cfg, WeightsFile("other.pth", {})).INPUT.VALUE_RANGE == []
    assert with_value_range_of(load_config(TINY_YAML), file).INPUT.VALUE_RANGE == []


def test_each_channel_may_have_a_range() -> None:
    pixels = np.array([[[10, 1000], [20, 3000]]], np.uint16)
    assert RangeScaling((10, 20, 1000, 5000))(pixels).tolist() == [[[0, 0], [255, 128]]]


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ((5, 5), "must be pairs of a low and a higher value"),
        ((5, 6, 7), "must be pairs of a low and a higher value"),
        ((), "INPUT.VALUE_RANGE is empty"),
        ((1, 2, 3, 4), "2 pairs of values, but this image has 3 channels"),
    ],
)
def test_wrong_range_is_named(bounds: tuple[float, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RangeScaling(bounds)(np.zeros((2, 2, 3), np.uint16))


def test_percentiles_are_those_of_the_key() -> None:
    cfg = load_config(TINY_YAML, ["INPUT.PERCENTILES", "[0, 50]"])
    pixels = np.arange(101, dtype=np.uint16).reshape(1, 101, 1).repeat(3, axis=2)
    assert depth_reduction_of(cfg)(pixels)[0, [0, 25, 50, 100], 0].tolist() == [0, 128, 255, 255]
    default = depth_reduction_of(load_config(TINY_YAML))(pixels)
    assert np.array_equal(default, stretch(pixels))
