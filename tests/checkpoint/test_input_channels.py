"""The first convolution of a file for images with another number of channels."""

from pathlib import Path

import pytest
import torch
from torch import nn

from mrcnn_zoo.checkpoint import load_weights
from mrcnn_zoo.checkpoint.adaptation import differs_in_input_channels, with_input_channels
from mrcnn_zoo.config import load_config
from mrcnn_zoo.modeling import build_model
from support.small_models import DIGITS, TINY_LAYERS

STEM = "backbone.bottom_up.stem.conv1.weight"


def model_for(channels: int) -> nn.Module:
    values = [f"MODEL.PIXEL_MEAN={[100.0] * channels}", f"MODEL.PIXEL_STD={[50.0] * channels}"]
    return build_model(load_config(DIGITS, [*TINY_LAYERS, *values]))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7, 16])
def test_response_to_a_grey_image_stays_the_same(channels: int) -> None:
    weight = torch.randn(5, 3, 7, 7, dtype=torch.float64)
    grey = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    response = nn.functional.conv2d(grey.expand(-1, channels, -1, -1), with_input_channels(weight, channels))
    torch.testing.assert_close(response, nn.functional.conv2d(grey.expand(-1, 3, -1, -1), weight))


def test_new_channels_repeat_the_old_ones_in_turn() -> None:
    weight = torch.tensor([6.0, 10.0, 20.0]).reshape(1, 3, 1, 1)
    assert with_input_channels(weight, 4).flatten().tolist() == [3, 10, 20, 3]
    assert with_input_channels(weight, 3).flatten().tolist() == [6, 10, 20]
    assert with_input_channels(weight, 2).flatten().tolist() == [26, 10]
    assert with_input_channels(weight, 1).flatten().tolist() == [36]


@pytest.mark.parametrize(("of_file", "of_model"), [(3, 1), (3, 4), (3, 16), (1, 3)])
def test_pretrained_stem_is_adapted_and_reported(of_file: int, of_model: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, model = model_for(of_file), model_for(of_model)
    torch.save({"model": source.state_dict()}, tmp_path / "weights.pth")
    report = load_weights(model, tmp_path / "weights.pth")
    assert report.converted == (STEM,)
    assert report.is_complete
    assert STEM not in report.loaded
    assert torch.equal(model.state_dict()[STEM], with_input_channels(source.state_dict()[STEM], of_model))


@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [
        ("backbone.stem.conv1.weight", (8, 3, 7, 7), (16, 4, 7, 7)),  # another width
        ("backbone.stem.conv1.weight", (8, 3, 7, 7), (8, 4, 3, 3)),  # another kernel
        ("backbone.stem.conv1.weight", (8, 4, 7, 7), (8, 4, 7, 7)),  # the same
        ("backbone.res2.0.conv1.weight", (8, 3, 3, 3), (8, 64, 3, 3)),  # not the first convolution
        ("roi_heads.mask_head.mask_fcn1.weight", (8, 3, 3, 3), (8, 4, 3, 3)),
        ("backbone.stem.conv1.bias", (8,), (4,)),
    ],
)
def test_only_input_channels_of_the_first_convolution_may_differ(
    name: str, theirs: tuple[int, ...], ours: tuple[int, ...]
) -> None:
    assert not differs_in_input_channels(name, theirs, ours, input_channels=4)


def test_first_convolution_of_another_name_is_recognised_by_its_channels() -> None:
    shapes = (8, 3, 3, 3), (8, 4, 3, 3)
    assert differs_in_input_channels("backbone.conv1_1.weight", *shapes, input_channels=4)
    assert not differs_in_input_channels("backbone.conv1_1.weight", *shapes, input_channels=5)
