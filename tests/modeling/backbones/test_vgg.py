from typing import Any

import pytest
import torch

from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.layers import FrozenBatchNorm2d
from mrcnn_zoo.modeling.backbones.fpn import build_vgg_fpn_backbone
from mrcnn_zoo.modeling.backbones.vgg import ConvStages, build_vgg_backbone

NARROW = {"MODEL.VGG.CONV1_OUT_CHANNELS": 4, "MODEL.BACKBONE.FREEZE_AT": 0}


def overrides(**changes: Any) -> list:
    values = NARROW | {f"MODEL.{name.replace('__', '.')}": value for name, value in changes.items()}
    return [part for item in values.items() for part in item]


def build(channels: int = 3, **changes: Any) -> ConvStages:
    return build_vgg_backbone(load_config(None, overrides(**changes)), channels)


@pytest.mark.parametrize(("depth", "count"), [(11, 8), (13, 10), (16, 13), (19, 16)])
def test_networks_have_the_convolutions_of_the_paper(depth: int, count: int) -> None:
    names = [name for name in build(VGG__DEPTH=depth).state_dict() if name.endswith(".weight")]
    assert len(names) == count  # and three fully connected layers, which the box head has
    assert names[-1] == f"conv5_{ {8: 2, 10: 2, 13: 3, 16: 4}[count] }.weight"


def test_conv5_is_returned_at_stride_16_without_the_last_pooling() -> None:
    vgg = build()
    maps = vgg(torch.randn(1, 3, 32, 48))
    assert {name: tuple(level.shape) for name, level in maps.items()} == {"conv5": (1, 32, 2, 3)}
    assert vgg.output_specs["conv5"].stride == vgg.size_divisibility == 16


def test_maps_have_the_strides_and_channels_of_their_specs() -> None:
    vgg = build(VGG__OUT_FEATURES=["conv1", "conv2", "conv3", "conv4", "conv5", "pool5"])
    maps = vgg(torch.randn(1, 3, 32, 64))
    assert list(maps) == list(vgg.output_specs)
    assert [spec.stride for spec in vgg.output_specs.values()] == [1, 2, 4, 8, 16, 32]
    for name, spec in vgg.output_specs.items():
        assert maps[name].shape == (1, spec.channels, 32 // spec.stride, 64 // spec.stride)


def test_stages_beyond_the_outputs_are_not_built() -> None:
    assert {name.split("_")[0] for name in build(VGG__OUT_FEATURES=["conv3"]).state_dict()} == {
        "conv1",
        "conv2",
        "conv3",
    }


def test_freezing_stops_training_of_the_first_stages_and_their_batch_norms() -> None:
    vgg = build(BACKBONE__FREEZE_AT=2, VGG__NORM="BN")
    assert {name.split("_")[0] for name, weight in vgg.named_parameters() if weight.requires_grad} == {
        *("conv3", "conv4", "conv5", "norm3", "norm4", "norm5")
    }
    frozen = {name for name, module in vgg.named_modules() if isinstance(module, FrozenBatchNorm2d)}
    assert frozen == {"norm1_1", "norm1_2", "norm2_1", "norm2_2"}


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "LN", "FrozenBN", ""])
def test_all_norms_and_numbers_of_channels_work(norm: str) -> None:
    for channels in (1, 4, 16):
        vgg = build(channels, VGG__DEPTH=11, VGG__NORM=norm)
        vgg(torch.randn(2, channels, 32, 32))["conv5"].sum().backward()
        assert all(weight.grad is not None for weight in vgg.parameters())


def test_pyramid_on_the_last_stages() -> None:
    features = ["conv3", "conv4", "conv5", "pool5"]
    changes = {"VGG__OUT_FEATURES": features, "FPN__IN_FEATURES": features, "FPN__OUT_CHANNELS": 8}
    fpn = build_vgg_fpn_backbone(load_config(None, overrides(**changes)), 3)
    maps = fpn(torch.randn(1, 3, 64, 64))
    assert {name: level.shape[-1] for name, level in maps.items()} == {"p2": 16, "p3": 8, "p4": 4, "p5": 2, "p6": 1}
    assert fpn.size_divisibility == 32


def test_no_images_give_empty_maps() -> None:
    assert build(VGG__NORM="BN")(torch.zeros(0, 3, 32, 32))["conv5"].shape == (0, 32, 2, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"VGG__DEPTH": 17}, "MODEL.VGG.DEPTH = 17 is not one of 11, 13, 16, 19"),
        ({"VGG__OUT_FEATURES": ["conv5_3"]}, "MODEL.VGG.OUT_FEATURES = .* should name some of conv1"),
        ({"VGG__OUT_FEATURES": []}, "should name some of"),
    ],
)
def test_impossible_settings_are_refused_with_their_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(**changes)
