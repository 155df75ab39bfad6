"""ResNet and ResNeXt.

Source: He et al. 2016 (Deep Residual Learning); Xie et al. 2017 (ResNeXt) for groups.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.layers import Conv2d, build_norm, fill_for_relu, freeze_batch_norms, relu_
from mrcnn_zoo.registries import BACKBONES
from mrcnn_zoo.structures import FeatureSpec

NormBuilder = Callable[[int], nn.Module | None]  # channels -> norm

STAGES = ("res2", "res3", "res4", "res5")  # the stem counts as stage 1
# Blocks of each stage. Source: He et al. 2016, table 1.
BASIC_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
BOTTLENECK_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BOTTLENECK_RES2_CHANNELS = 256


@dataclass(frozen=True)
class BottleneckWidth:
    """The narrow part of a bottleneck block."""

    channels: int
    groups: int = 1


class Stem(nn.Module):
    """From pixels to a quarter of their resolution: convolution and max-pooling."""

    stride = 4

    def __init__(self, in_channels: int, out_channels: int, *, build_norm: NormBuilder) -> None:
        super().__init__()
        self.conv1 = Conv2d(in_channels, out_channels, 7, stride=2, norm=build_norm(out_channels), activation=relu_)
        fill_for_relu(self.conv1)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C_stem, H / 4, W / 4)."""
        return F.max_pool2d(self.conv1(pixels), kernel_size=3, stride=2, padding=1)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        stride: of the first convolution.
        build_norm: makes the norm of each convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, build_norm: NormBuilder) -> None:
        super().__init__()
        self.shortcut = _shortcut(in_channels, out_channels, stride, build_norm)
        norm1, norm2 = build_norm(out_channels), build_norm(out_channels)
        self.conv1 = Conv2d(in_channels, out_channels, 3, stride=stride, norm=norm1, activation=relu_)
        self.conv2 = Conv2d(out_channels, out_channels, 3, norm=norm2)
        _initialize(self)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""
        return _add_and_activate(self.conv2(self.conv1(features)), self.shortcut(features))


class BottleneckBlock(nn.Module):
    """A 3 x 3 convolution between two 1 x 1 convolutions that narrow and widen, beside a shortcut.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        width: channels and groups of the 3 x 3 convolution.
        strides: of the first 1 x 1 and of the 3 x 3 convolution.
        dilation: of the 3 x 3 convolution.
        build_norm: makes the norm of each convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: BottleneckWidth,
        strides: tuple[int, int],
        dilation: int,
        build_norm: NormBuilder,
    ) -> None:
        super().__init__()
        inner, groups = width.channels, width.groups
        self.shortcut = _shortcut(in_channels, out_channels, strides[0] * strides[1], build_norm)
        norm1, norm2, norm3 = build_norm(inner), build_norm(inner), build_norm(out_channels)
        self.conv1 = Conv2d(in_channels, inner, 1, stride=strides[0], norm=norm1, activation=relu_)
        self.conv2 = Conv2d(
            inner, inner, 3, stride=strides[1], dilation=dilation, groups=groups, norm=norm2, activation=relu_
        )
        self.conv3 = Conv2d(inner, out_channels, 1, norm=norm3)
        _initialize(self)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""
        return _add_and_activate(self.conv3(self.conv2(self.conv1(features))), self.shortcut(features))


class ResNet(nn.Module):
    """A stem and stages named res2, res3, ..., each half the resolution of the one before unless dilated.

    Args:
        stem: pixels to features.
        stages: the blocks of each stage by its name, from fine to coarse.
        specs: what the stem ("stem") and each stage return.
        out_features: names to return.
    """

    size_divisibility = 1

    def __init__(
        self,
        stem: Stem,
        *,
        stages: Mapping[str, Iterable[nn.Module]],
        specs: Mapping[str, FeatureSpec],
        out_features: list[str],
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stage_names = tuple(stages)
        for name, blocks in stages.items():
            self.add_module(name, nn.Sequential(*blocks))
        self.output_specs = {name: spec for name, spec in specs.items() if name in out_features}

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) pixels -> the requested maps, from fine to coarse."""
        features = self.stem(pixels)
        outputs = {"stem": features} if "stem" in self.output_specs else {}
        for name in self.stage_names:
            features = self.get_submodule(name)(features)
            if name in self.output_specs:
                outputs[name] = features
        return outputs

    def freeze(self, at: int) -> None:
        """Turn the stem (1) and the stages up to res`at` into constants, batch norms into frozen ones."""
        frozen: list[nn.Module] = [self.stem] if at >= 1 else []
        frozen += [self.get_submodule(name) for name in self.stage_names if int(name.removeprefix("res")) <= at]
        for part in frozen:
            part.requires_grad_(False)
            freeze_batch_norms(part)


def _shortcut(in_channels: int, out_channels: int, stride: int, build_norm: NormBuilder) -> nn.Module:
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    return Conv2d(in_channels, out_channels, 1, stride=stride, norm=build_norm(out_channels))


def _initialize(block: nn.Module) -> None:
    for module in block.modules():
        if isinstance(module, Conv2d):
            fill_for_relu(module)


def _add_and_activate(residual: Tensor, shortcut: Tensor) -> Tensor:
    # In place on the residual, which no gradient needs; never on the shortcut, which is the block's input.
    return torch.relu_(residual.add_(shortcut))


def basic_stage(
    num_blocks: int, in_channels: int, out_channels: int, *, stride: int, build_norm: NormBuilder
) -> list[nn.Module]:
    """Basic blocks one after another; the first one changes the channels and the resolution."""
    first = BasicBlock(in_channels, out_channels, stride=stride, build_norm=build_norm)
    others = (BasicBlock(out_channels, out_channels, stride=1, build_norm=build_norm) for _ in range(num_blocks - 1))
    return [first, *others]


def bottleneck_stage(
    num_blocks: int,
    in_channels: int,
    out_channels: int,
    *,
    first_strides: tuple[int, int],
    width: BottleneckWidth,
    dilation: int,
    build_norm: NormBuilder,
) -> list[nn.Module]:
    """Bottleneck blocks one after another; the first one changes the channels and the resolution."""
    return [
        BottleneckBlock(
            in_channels if position == 0 else out_channels,
            out_channels,
            width=width,
            strides=first_strides if position == 0 else (1, 1),
            dilation=dilation,
            build_norm=build_norm,
        )
        for position in range(num_blocks)
    ]


@BACKBONES.register("build_resnet_backbone")
def build_resnet_backbone(cfg: CfgNode, input_channels: int) -> ResNet:
    """The ResNet of `MODEL.RESNETS` as deep as its outputs need, frozen up to `MODEL.BACKBONE.FREEZE_AT`."""
    settings = cfg.MODEL.RESNETS
    _check_settings(settings)
    norm = partial(build_norm, settings.NORM, key="MODEL.RESNETS.NORM")
    channels, stride = settings.STEM_OUT_CHANNELS, Stem.stride
    stem = Stem(input_channels, channels, build_norm=norm)
    stages, specs = {}, {"stem": FeatureSpec(channels, stride)}
    for index, name in enumerate(_needed_stages(settings.OUT_FEATURES)):
        dilation = settings.RES5_DILATION if name == "res5" else 1
        first_stride = 1 if index == 0 or dilation > 1 else 2
        out_channels = settings.RES2_OUT_CHANNELS * 2**index
        if settings.DEPTH in BASIC_BLOCKS:
            blocks = BASIC_BLOCKS[settings.DEPTH][index]
            stages[name] = basic_stage(blocks, channels, out_channels, stride=first_stride, build_norm=norm)
        else:
            stages[name] = bottleneck_stage(
                BOTTLENECK_BLOCKS[settings.DEPTH][index],
                channels,
                out_channels,
                first_strides=(first_stride, 1) if settings.STRIDE_IN_1X1 else (1, first_stride),
                width=BottleneckWidth(settings.NUM_GROUPS * settings.WIDTH_PER_GROUP * 2**index, settings.NUM_GROUPS),
                dilation=dilation,
                build_norm=norm,
            )
        channels, stride = out_channels, stride * first_stride
        specs[name] = FeatureSpec(channels, stride)
    resnet = ResNet(stem, stages=stages, specs=specs, out_features=settings.OUT_FEATURES)
    resnet.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)
    return resnet


def _needed_stages(out_features: list[str]) -> tuple[str, ...]:
    return STAGES[: max((STAGES.index(name) + 1 for name in out_features if name in STAGES), default=0)]


def _check_settings(settings: CfgNode) -> None:
    depths = sorted(BASIC_BLOCKS | BOTTLENECK_BLOCKS)
    if settings.DEPTH not in depths:
        raise UserError(f"MODEL.RESNETS.DEPTH = {settings.DEPTH} should be one of {', '.join(map(str, depths))}.")
    known = ("stem", *STAGES)
    if not settings.OUT_FEATURES or not set(settings.OUT_FEATURES) <= set(known):
        raise UserError(f"MODEL.RESNETS.OUT_FEATURES = {settings.OUT_FEATURES} should name some of {', '.join(known)}.")
    if settings.RES5_DILATION not in (1, 2):
        raise UserError(f"MODEL.RESNETS.RES5_DILATION = {settings.RES5_DILATION} should be 1 or 2.")
    if settings.DEPTH not in BASIC_BLOCKS:
        return
    if settings.RES2_OUT_CHANNELS == BOTTLENECK_RES2_CHANNELS:
        raise UserError(
            f"MODEL.RESNETS.RES2_OUT_CHANNELS = {BOTTLENECK_RES2_CHANNELS} belongs to ResNet-50 and deeper; "
            f"set it to 64 for ResNet-{settings.DEPTH}."
        )
    if settings.NUM_GROUPS != 1 or settings.RES5_DILATION != 1:
        raise UserError(
            f"ResNet-{settings.DEPTH} has neither groups nor dilation: set MODEL.RESNETS.NUM_GROUPS and "
            f"MODEL.RESNETS.RES5_DILATION to 1 (they are {settings.NUM_GROUPS} and {settings.RES5_DILATION})."
        )
