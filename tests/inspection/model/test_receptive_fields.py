"""Receptive fields against published numbers, arithmetic by hand, and gradients of the pixels."""

import logging

import pytest
import torch
from torch import Tensor, nn

from mrcnn_zoo.config import load_config
from mrcnn_zoo.inspection.model.receptive_fields import receptive_fields
from mrcnn_zoo.modeling.backbones import build_backbone
from mrcnn_zoo.structures import FeatureSpec

NARROW_50 = (
    "MODEL.RESNETS.STEM_OUT_CHANNELS=8",
    "MODEL.RESNETS.RES2_OUT_CHANNELS=16",
    "MODEL.RESNETS.WIDTH_PER_GROUP=4",
)
TINY_18 = ("MODEL.RESNETS.DEPTH=18", "MODEL.RESNETS.STEM_OUT_CHANNELS=8", "MODEL.RESNETS.RES2_OUT_CHANNELS=8")


def fields_of(base: str, *overrides: str) -> dict[str, int]:
    return receptive_fields(build_backbone(load_config(base, [*overrides]), 3), 3)


def test_resnet_50_has_the_published_receptive_fields() -> None:
    # Araujo et al. 2019, table 1: ResNet-50 v1 has 483 pixels; its strides are in the 1 x 1 convolutions. By hand:
    # 7 + 2 * 2 = 11 after the stem, + 3 * 8 + 4 * 16 + 6 * 32 = 291, + 3 * 64 = 483, also with dilation for stride.
    both = "MODEL.RESNETS.OUT_FEATURES=[res4,res5]"
    assert fields_of("Base-RCNN-DilatedC5", *NARROW_50, both) == {"res4": 291, "res5": 483}


def test_a_pyramid_adds_its_own_convolutions() -> None:
    found = fields_of("Base-RetinaNet", *TINY_18, "MODEL.FPN.OUT_CHANNELS=8")
    # res5 has 435; 3 x 3 at stride 32 adds 64; at finer levels the taps are in two cells of stride 32: 32 more. P6 is a
    # 3 x 3 convolution on res5, P7 one on P6 of stride 64.
    assert found == {"p3": 435 + 32, "p4": 435 + 32, "p5": 435 + 64, "p6": 435 + 64, "p7": 435 + 64 + 128}


def extent_of_gradients(backbone: nn.Module, name: str, side: int) -> int:
    """Rows of pixels with a gradient of a cell in the middle half, the largest of some cells and random inputs."""
    extents = []
    for seed in range(4):
        torch.manual_seed(seed)
        pixels = torch.rand(1, 3, side, side, requires_grad=True)
        features: Tensor = backbone(pixels)[name]
        middle = features.shape[2] // 2
        for row in range(middle, min(middle + 4, features.shape[2])):
            (gradient,) = torch.autograd.grad(features[0, :, row, middle].sum(), pixels, retain_graph=True)
            rows = gradient.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
            extents.append(int(rows.max() - rows.min()) + 1)
    return max(extents)


def test_receptive_fields_are_the_extents_of_gradients() -> None:
    overrides = (*TINY_18, "MODEL.RESNETS.OUT_FEATURES=[res2,res3]", "MODEL.FPN.IN_FEATURES=[res2,res3]")
    cfg = load_config("Base-RCNN-FPN", [*overrides, "MODEL.FPN.OUT_CHANNELS=8", "MODEL.BACKBONE.FREEZE_AT=0"])
    torch.manual_seed(0)
    backbone = build_backbone(cfg, 3).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():  # positive, so that no ReLU stops a gradient and none cancel
            parameter.abs_()
    found = receptive_fields(backbone, 3)
    # By hand: 11 + 4 * 8 = 43 for res2, + 8 + 3 * 16 = 99 for res3.
    assert found == {"p2": 99 + 8, "p3": 99 + 16, "p4": 99 + 16}
    assert {name: extent_of_gradients(backbone, name, 192) for name in ("p2", "p3")} == {"p2": 107, "p3": 115}


class OneMap(nn.Module):
    """A backbone of one layer."""

    size_divisibility = 1

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers, nn.Conv2d(3, 3, 1))
        self.output_specs = {"c1": FeatureSpec(3, stride=2)}

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"c1": self.layers(pixels)}


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ((nn.Conv2d(3, 3, 3, padding=2, dilation=2), nn.ReLU(), nn.Conv2d(3, 3, 3, stride=2)), 7),
        ((nn.AvgPool2d(4, stride=2), nn.MaxPool2d(3, stride=2, padding=1)), 4 + 2 * 2),
        ((nn.ZeroPad2d(1), nn.Conv2d(3, 3, 5, groups=3), nn.BatchNorm2d(3)), 5),
        ((nn.Upsample(scale_factor=2), nn.Conv2d(3, 3, 3, padding=1)), 2),
        ((nn.Upsample(scale_factor=2), nn.Conv2d(3, 3, 5, padding=2)), 3),
    ],
)
def test_single_operations(layers: tuple[nn.Module, ...], expected: int) -> None:
    assert receptive_fields(OneMap(*layers), 3) == {"c1": expected}


class SqueezeAndScale(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features * features.mean(dim=(2, 3), keepdim=True)


class Flattened(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features.flatten(2).softmax(dim=2).view_as(features)


def test_maps_that_depend_on_whole_images_have_no_entry(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert receptive_fields(OneMap(SqueezeAndScale()), 3) == {}
        assert receptive_fields(OneMap(Flattened()), 3) == {}
    assert "the cells of c1 depend on whole images" in caplog.text
    assert "receptive fields of OneMap are not known: an operation makes" in caplog.text
