"""Bit depth and order of the channels."""

import numpy as np
import pytest
import torch
from PIL import Image

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.images.pixels import (
    as_image_tensor,
    check_pixel_statistics,
    depth_reduction_of,
    divide,
    keep,
    luma,
    order_channels,
    stretch,
)
from mrcnn_zoo.errors import UserError


def test_stretch_spreads_twelve_bits_over_eight() -> None:
    ramp = np.linspace(1000, 4000, 5000).astype(np.uint16).reshape(50, 100)
    stretched = stretch(ramp)
    assert (stretched.min(), stretched.max()) == (0, 255)
    assert int(stretched[25, 0]) == pytest.approx(127, abs=1)


def test_stretch_ignores_one_hot_pixel() -> None:
    image = np.tile(np.arange(100, dtype=np.uint16), (100, 1))
    image[0, 0] = 65535
    assert int(stretch(image)[50, 50]) == pytest.approx(128, abs=3)


def test_stretch_of_a_constant_image_is_black() -> None:
    assert stretch(np.full((4, 4), 700, np.uint16)).max() == 0


def test_divide_keeps_brightness() -> None:
    assert divide(np.array([[0, 257, 65535]], np.uint16)).tolist() == [[0, 1, 255]]


def test_keep_gives_floats() -> None:
    kept = as_image_tensor(np.full((2, 3, 3), 4095, np.uint16), keep)
    assert kept.dtype == torch.float32
    assert kept.max() == 4095


def test_eight_bit_pixels_are_unchanged() -> None:
    pixels = np.array([[[1, 2, 3]]], np.uint8)
    assert as_image_tensor(pixels, stretch).flatten().tolist() == [1, 2, 3]


@pytest.mark.parametrize(("name", "expected"), [("RGB", [1, 2, 3]), ("BGR", [3, 2, 1])])
def test_channels_are_ordered(name: str, expected: list[int]) -> None:
    image = torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None, None]
    assert order_channels(image, name).flatten().tolist() == expected


def test_grey_equals_pillow() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).convert("L"))
    grey = luma(torch.from_numpy(pixels).permute(2, 0, 1))
    assert np.array_equal(grey[0].numpy(), expected)


def test_unknown_depth_reduction_is_named(cfg: CfgNode) -> None:
    cfg.INPUT.SIXTEEN_BIT = "strech"
    with pytest.raises(UserError, match="Did you mean 'stretch'"):
        depth_reduction_of(cfg)


@pytest.mark.parametrize(("mean", "std", "key"), [([600.0], [57.0], "PIXEL_MEAN"), ([100.0], [4000.0], "PIXEL_STD")])
@pytest.mark.parametrize("sixteen_bit", ["stretch", "divide"])
def test_statistics_above_255_need_kept_values(mean: list[float], std: list[float], key: str, sixteen_bit: str) -> None:
    check_pixel_statistics(mean, std, sixteen_bit="keep")
    with pytest.raises(UserError, match=rf"MODEL\.{key} = \[.*INPUT\.SIXTEEN_BIT is {sixteen_bit}"):
        check_pixel_statistics(mean, std, sixteen_bit=sixteen_bit)
