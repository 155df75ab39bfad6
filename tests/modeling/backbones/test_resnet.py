from typing import Any

import pytest
import torch
from torch import nn

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.layers import DeformConv2d, FrozenBatchNorm2d
from mrcnn_zoo.modeling.backbones.residual_blocks import STEM_POOLS, BasicBlock
from mrcnn_zoo.modeling.backbones.resnet import ResNet, build_res5_stage, build_resnet_backbone

TINY = {
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.RESNETS.OUT_FEATURES": ["stem", "res2", "res3", "res4", "res5"],
    "MODEL.DEVICE": "cpu",
}


def config(**changes: Any) -> CfgNode:
    values = TINY | {f"MODEL.{name.replace('__', '.')}": value for name, value in changes.items()}
    return load_config(None, [part for item in values.items() for part in item])


def build(**changes: Any) -> ResNet:
    return build_resnet_backbone(config(**changes), 3)


@pytest.mark.parametrize(("depth", "blocks"), [(18, (2, 2, 2, 2)), (34, (3, 4, 6, 3)), (50, (3, 4, 6, 3))])
def test_stages_have_the_blocks_of_the_paper(depth: int, blocks: tuple[int, ...]) -> None:
    resnet = build(RESNETS__DEPTH=depth)
    assert tuple(len(resnet.get_submodule(name)) for name in resnet.stage_names) == blocks


def test_maps_have_the_channels_and_strides_of_their_specs() -> None:
    resnet = build()
    maps = resnet(torch.zeros(1, 3, 64, 96))
    assert {name: spec.stride for name, spec in resnet.output_specs.items()} == {
        "stem": 4,
        "res2": 4,
        "res3": 8,
        "res4": 16,
        "res5": 32,
    }
    for name, spec in resnet.output_specs.items():
        assert maps[name].shape == (1, spec.channels, 64 // spec.stride, 96 // spec.stride)


def test_dilation_keeps_the_resolution_in_res5() -> None:
    resnet = build(RESNETS__RES5_DILATION=2)
    assert resnet.output_specs["res5"].stride == 16
    assert resnet(torch.zeros(1, 3, 64, 64))["res5"].shape[-1] == 4
    assert all(block.conv2.dilation == (2, 2) for block in resnet.get_submodule("res5"))


def test_stages_beyond_the_outputs_are_not_built() -> None:
    resnet = build(RESNETS__OUT_FEATURES=["res3"])
    assert resnet.stage_names == ("res2", "res3")
    assert list(resnet(torch.zeros(1, 3, 32, 32))) == ["res3"]


@pytest.mark.parametrize(("in_1x1", "strides"), [(True, ((2, 2), (1, 1))), (False, ((1, 1), (2, 2)))])
def test_stride_in_1x1_selects_the_convolution_with_stride(in_1x1: bool, strides: tuple) -> None:
    block = build(RESNETS__STRIDE_IN_1X1=in_1x1).get_submodule("res3.0")
    assert (block.conv1.stride, block.conv2.stride) == strides


def test_groups_and_width_make_a_resnext() -> None:
    block = build(RESNETS__NUM_GROUPS=8, RESNETS__WIDTH_PER_GROUP=2).get_submodule("res3.0")
    assert block.conv2.groups == 8
    assert block.conv2.weight.shape == (32, 4, 3, 3)


def test_a_basic_block_adds_its_input() -> None:
    block = BasicBlock(2, 2, stride=1, build_norm=lambda _: None)
    for conv in (block.conv1, block.conv2):
        nn.init.zeros_(conv.weight)
    features = torch.tensor([-1.0, 2.0]).reshape(1, 2, 1, 1)
    assert block(features).flatten().tolist() == [0.0, 2.0]
    assert features.flatten().tolist() == [-1.0, 2.0]


def test_only_the_blocks_that_change_shape_have_a_shortcut_convolution() -> None:
    names = build(RESNETS__DEPTH=18, RESNETS__RES2_OUT_CHANNELS=8).state_dict()
    assert "res3.0.shortcut.weight" in names
    assert not any("res2.0.shortcut" in name or "1.shortcut" in name for name in names)


def test_initial_weights_have_the_variance_of_he() -> None:
    conv = build(RESNETS__RES2_OUT_CHANNELS=256, RESNETS__WIDTH_PER_GROUP=64).get_submodule("res2.1.conv2")
    assert abs(conv.weight.std().item() / (2 / (64 * 9)) ** 0.5 - 1) < 0.03


@pytest.mark.parametrize(("at", "trained"), [(0, ["stem", "res2", "res3"]), (1, ["res2", "res3"]), (3, [])])
def test_freezing_stops_training_up_to_a_stage(at: int, trained: list[str]) -> None:
    resnet = build(BACKBONE__FREEZE_AT=at, RESNETS__NORM="BN", RESNETS__OUT_FEATURES=["res3"])
    resnet(torch.randn(2, 3, 32, 32))["res3"].sum().backward() if trained else None
    with_gradient = {name.split(".")[0] for name, value in resnet.named_parameters() if value.grad is not None}
    assert with_gradient == set(trained)
    has_frozen_norm = {n.split(".")[0] for n, m in resnet.named_modules() if isinstance(m, FrozenBatchNorm2d)}
    assert has_frozen_norm == {"stem", "res2", "res3"} - set(trained)


def test_frozen_stage_saves_no_tensors_for_the_gradient() -> None:
    resnet = build(BACKBONE__FREEZE_AT=2, RESNETS__OUT_FEATURES=["res2", "res3"])
    maps = resnet(torch.randn(1, 3, 32, 32))
    assert not maps["res2"].requires_grad
    assert maps["res3"].requires_grad


@pytest.mark.parametrize("channels", [1, 3, 4, 16])
def test_images_may_have_any_number_of_channels(channels: int) -> None:
    resnet = build_resnet_backbone(config(RESNETS__OUT_FEATURES=["res2"]), channels)
    assert resnet(torch.randn(1, channels, 32, 32))["res2"].shape == (1, 16, 8, 8)


@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "SyncBN", "GN", "LN", ""])
def test_all_norms_work_and_all_weights_get_gradients(norm: str) -> None:
    sizes = {"STEM_OUT_CHANNELS": 32, "RES2_OUT_CHANNELS": 32, "WIDTH_PER_GROUP": 32, "OUT_FEATURES": ["res2"]}
    resnet = build(BACKBONE__FREEZE_AT=0, RESNETS__NORM=norm, **{f"RESNETS__{k}": v for k, v in sizes.items()})
    resnet(torch.randn(2, 3, 32, 32))["res2"].square().sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in resnet.parameters())


@pytest.mark.parametrize(
    ("modulated", "groups", "channels"), [(False, 1, 18), (True, 1, 27), (False, 2, 36), (True, 2, 54)]
)
def test_selected_stages_are_deformable(modulated: bool, groups: int, channels: int) -> None:
    resnet = build(
        RESNETS__DEFORM_ON_PER_STAGE=[False, True, False, True],
        RESNETS__DEFORM_MODULATED=modulated,
        RESNETS__DEFORM_NUM_GROUPS=groups,
    )
    deformable = {name for name, module in resnet.named_modules() if isinstance(module, DeformConv2d)}
    assert {name.split(".")[0] for name in deformable} == {"res3", "res5"}
    assert resnet.get_submodule("res5.0.conv2_offset").weight.shape == (channels, 32, 3, 3)
    resnet(torch.randn(1, 3, 64, 64))["res5"].sum().backward()
    gradient = resnet.get_submodule("res3.0.conv2_offset").weight.grad
    assert gradient is not None
    assert gradient.any()


@pytest.mark.parametrize(("modulated", "factor"), [(False, 1.0), (True, 0.5)])
def test_initial_deformable_block_equals_a_plain_block_with_equal_tap_weights(modulated: bool, factor: float) -> None:
    settings = {"RESNETS__RES2_OUT_CHANNELS": 16, "RESNETS__OUT_FEATURES": ["res2"]}
    plain = build(**settings).get_submodule("res2.1")
    deformed = build(**settings, RESNETS__DEFORM_ON_PER_STAGE=[True] * 4, RESNETS__DEFORM_MODULATED=modulated)
    block = deformed.get_submodule("res2.1")
    block.load_state_dict(plain.state_dict(), strict=False)
    plain.conv2.weight.data.mul_(factor)
    features = torch.randn(1, 16, 8, 8)
    torch.testing.assert_close(block(features), plain(features), atol=1e-5, rtol=1e-5)


def test_shared_res5_stage_halves_pooled_maps_and_is_trained() -> None:
    stage, spec = build_res5_stage(config(BACKBONE__FREEZE_AT=5))
    assert stage(torch.zeros(3, 64, 14, 14)).shape == (3, spec.channels, 14 // spec.stride, 14 // spec.stride)
    assert stage(torch.zeros(0, 64, 14, 14)).shape == (0, 128, 7, 7)
    assert all(weight.requires_grad for weight in stage.parameters())
    assert len(stage) == 3


def test_no_images_give_empty_maps() -> None:
    assert build()(torch.zeros(0, 3, 32, 32))["res5"].shape == (0, 128, 1, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RESNETS__DEPTH": 42}, "MODEL.RESNETS.DEPTH = 42 is not one of 18, 34, 50, 101, 152"),
        ({"RESNETS__OUT_FEATURES": ["res6"]}, r"MODEL.RESNETS.OUT_FEATURES = \['res6'\]"),
        ({"RESNETS__RES5_DILATION": 3}, "RES5_DILATION = 3"),
        ({"RESNETS__DEPTH": 18, "RESNETS__RES2_OUT_CHANNELS": 256}, "set it to 64 for ResNet-18"),
        ({"RESNETS__DEPTH": 34, "RESNETS__NUM_GROUPS": 2}, "neither groups nor dilation"),
        ({"RESNETS__DEFORM_ON_PER_STAGE": [True]}, "must hold 4 values"),
        (
            {"RESNETS__DEPTH": 34, "RESNETS__DEFORM_ON_PER_STAGE": [True] * 4, "RESNETS__RES2_OUT_CHANNELS": 8},
            "50 or more",
        ),
        (
            {"RESNETS__DEFORM_ON_PER_STAGE": [False, True, True, True], "RESNETS__DEFORM_NUM_GROUPS": 3},
            "DEFORM_NUM_GROUPS = 3 should divide the 8 channels",
        ),
        ({"RESNETS__NORM": "FrozenBM"}, "MODEL.RESNETS.NORM = 'FrozenBM'.*'FrozenBN'"),
    ],
)
def test_impossible_settings_are_refused_with_their_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(**changes)


def test_stem_pool_following_pads_like_tensorflow() -> None:
    features = torch.arange(16.0).reshape(1, 1, 4, 4)
    # Rows and columns 0 to 2 and 2 to 4, of which 4 is padding; centred, they are -1 to 1 and 1 to 3.
    assert STEM_POOLS["following"](features).tolist() == [[[[10, 11], [14, 15]]]]
    assert STEM_POOLS["centred"](features).tolist() == [[[[5, 7], [13, 15]]]]
    assert build(RESNETS__STEM_POOL="following").stem.pool is STEM_POOLS["following"]
