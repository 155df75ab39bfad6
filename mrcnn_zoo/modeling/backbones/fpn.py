"""Feature pyramid network and the levels above it.

Source: Lin et al. 2017 (Feature Pyramid Networks), sec. 3 and 4.1.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrcnn_zoo.config import CfgNode, choice_of
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.layers import Conv2d, build_norm, caffe2_xavier_init_
from mrcnn_zoo.modeling.backbones.resnet import build_resnet_backbone
from mrcnn_zoo.modeling.backbones.timm_features import build_timm_backbone
from mrcnn_zoo.modeling.backbones.vgg import build_plain_cnn_backbone, build_vgg_backbone
from mrcnn_zoo.modeling.contracts import Backbone
from mrcnn_zoo.registries import BACKBONES
from mrcnn_zoo.structures import FeatureSpec


class TopBlock(Protocol):
    """Makes coarser levels from one map, each at half the resolution of the one before."""

    num_levels: int

    def __call__(self, source: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> maps from fine to coarse; sides are halved and rounded up."""
        ...


class MaxPoolLevel(nn.Module):
    """One more level: every second cell of the coarsest map. It has no parameters.

    Source: Lin et al. 2017 (Feature Pyramid Networks), sec. 4.1, footnote on P6.
    """

    num_levels = 1

    def forward(self, source: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> [(N, C, H / 2, W / 2)]."""
        return [F.max_pool2d(source, kernel_size=1, stride=2)]


class ConvLevels(nn.Module):
    """Two more levels, P6 and P7, by 3 x 3 convolutions with stride 2.

    Source: Lin et al. 2017 (Focal Loss), sec. 4, footnote 2.

    Args:
        in_channels: C of the input of P6.
        out_channels: C of both levels.
    """

    num_levels = 2

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.p6 = Conv2d(in_channels, out_channels, 3, stride=2)
        self.p7 = Conv2d(out_channels, out_channels, 3, stride=2)
        caffe2_xavier_init_(self.p6)
        caffe2_xavier_init_(self.p7)

    def forward(self, source: Tensor) -> list[Tensor]:
        """(N, C_in, H, W) -> P6 of (N, C_out, H / 2, W / 2), P7 of half that."""
        p6 = self.p6(source)
        return [p6, self.p7(torch.relu(p6))]


Fusion = Callable[[Tensor, Tensor], Tensor]  # (lateral, coarser map at its size) -> fused; may work in place on lateral


class FPN(nn.Module):
    """Levels of equal depth, p2, p3, ... from fine to coarse, each with the coarser ones added.

    The number in a name is the logarithm of the stride, rounded for strides such as 14.

    Args:
        bottom_up: network below the pyramid.
        in_features: its maps to use, from fine to coarse, each at half the resolution of the one before.
        out_channels: C of every level.
        build_norm: channels -> norm after each convolution, or None.
        fuse: combines a lateral map with the coarser one.
        top_block: makes coarser levels; None for none.
        top_source: input of the top block, a map of the bottom-up network or a level; "" for the coarsest level.

    Raises:
        UserError: a map that the bottom-up network does not return, or strides that do not double.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        *,
        in_features: list[str],
        out_channels: int,
        build_norm: Callable[[int], nn.Module | None],
        fuse: Fusion,
        top_block: TopBlock | None = None,
        top_source: str = "",
    ) -> None:
        super().__init__()
        _check_levels(in_features, bottom_up)
        specs = [bottom_up.output_specs[name] for name in in_features]
        self.levels = [_level_of(spec) for spec in specs]
        for level, spec in zip(self.levels, specs, strict=True):
            lateral = Conv2d(spec.channels, out_channels, 1, norm=build_norm(out_channels))
            output = Conv2d(out_channels, out_channels, 3, norm=build_norm(out_channels))
            caffe2_xavier_init_(lateral)
            caffe2_xavier_init_(output)
            self.add_module(f"fpn_lateral{level}", lateral)
            self.add_module(f"fpn_output{level}", output)
        self.bottom_up = bottom_up
        self.in_features = in_features
        self.fuse = fuse
        self.top_block = top_block
        self.top_source = top_source or f"p{self.levels[-1]}"
        num_levels = len(self.levels) + (top_block.num_levels if top_block is not None else 0)
        self.output_specs = {
            f"p{self.levels[0] + step}": FeatureSpec(out_channels, stride=specs[0].stride * 2**step)
            for step in range(num_levels)
        }
        self.size_divisibility = math.lcm(specs[-1].stride, bottom_up.size_divisibility)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) pixels -> every level, from fine to coarse."""
        bottom_up = self.bottom_up(pixels)
        outputs: list[Tensor] = []
        fused: Tensor | None = None
        for name, level in zip(reversed(self.in_features), reversed(self.levels), strict=True):
            lateral = self.get_submodule(f"fpn_lateral{level}")(bottom_up[name])
            if fused is None:
                fused = lateral
            else:
                fused = self.fuse(lateral, F.interpolate(fused, size=lateral.shape[-2:], mode="nearest"))
            outputs.insert(0, self.get_submodule(f"fpn_output{level}")(fused))
        if self.top_block is not None:
            levels = dict(zip(self.output_specs, outputs, strict=False))
            outputs += self.top_block((bottom_up | levels)[self.top_source])
        return dict(zip(self.output_specs, outputs, strict=True))


def add(lateral: Tensor, coarser: Tensor) -> Tensor:
    """The sum, in place: the gradient does not need the result of the lateral convolution.

    Args:
        lateral: (N, C, H, W), overwritten.
        coarser: (N, C, H, W).
    """
    return lateral.add_(coarser)


def average(lateral: Tensor, coarser: Tensor) -> Tensor:
    """The mean, in place.

    Args:
        lateral: (N, C, H, W), overwritten.
        coarser: (N, C, H, W).
    """
    return lateral.add_(coarser).mul_(0.5)


FUSIONS: dict[str, Fusion] = {"sum": add, "avg": average}


def build_fpn(cfg: CfgNode, bottom_up: Backbone, *, default_top_block: str = "maxpool") -> FPN:
    """The pyramid of `MODEL.FPN` on any network.

    Args:
        cfg: the whole config.
        bottom_up: network below the pyramid.
        default_top_block: value of an empty `MODEL.FPN.TOP_BLOCK`.
    """
    settings = cfg.MODEL.FPN
    _check_levels(settings.IN_FEATURES, bottom_up)
    builders = TOP_BLOCKS | {"": TOP_BLOCKS[default_top_block]}
    top_block, top_source = choice_of(cfg, "MODEL.FPN.TOP_BLOCK", builders)(settings, bottom_up)
    return FPN(
        bottom_up,
        in_features=list(settings.IN_FEATURES),
        out_channels=settings.OUT_CHANNELS,
        build_norm=partial(build_norm, settings.NORM, key="MODEL.FPN.NORM"),
        fuse=choice_of(cfg, "MODEL.FPN.FUSE_TYPE", FUSIONS),
        top_block=top_block,
        top_source=top_source,
    )


@BACKBONES.register("build_resnet_fpn_backbone")
def build_resnet_fpn_backbone(cfg: CfgNode, input_channels: int) -> FPN:
    """A pyramid on a ResNet; P6 by max-pooling.

    Args:
        cfg: the whole config.
        input_channels: C of the images.
    """
    return build_fpn(cfg, build_resnet_backbone(cfg, input_channels))


@BACKBONES.register("build_retinanet_resnet_fpn_backbone")
def build_retinanet_resnet_fpn_backbone(cfg: CfgNode, input_channels: int) -> FPN:
    """A pyramid on a ResNet; P6 and P7 by convolutions.

    Args:
        cfg: the whole config.
        input_channels: C of the images.
    """
    return build_fpn(cfg, build_resnet_backbone(cfg, input_channels), default_top_block="p6p7")


@BACKBONES.register("build_vgg_fpn_backbone")
def build_vgg_fpn_backbone(cfg: CfgNode, input_channels: int) -> FPN:
    """A pyramid on a VGG.

    Args:
        cfg: the whole config.
        input_channels: C of the images.
    """
    return build_fpn(cfg, build_vgg_backbone(cfg, input_channels))


@BACKBONES.register("build_plain_cnn_fpn_backbone")
def build_plain_cnn_fpn_backbone(cfg: CfgNode, input_channels: int) -> FPN:
    """A pyramid on a small plain network.

    Args:
        cfg: the whole config.
        input_channels: C of the images.
    """
    return build_fpn(cfg, build_plain_cnn_backbone(cfg, input_channels))


@BACKBONES.register("build_timm_fpn_backbone")
def build_timm_fpn_backbone(cfg: CfgNode, input_channels: int) -> FPN:
    """A pyramid on a network of timm.

    Args:
        cfg: the whole config.
        input_channels: C of the images.
    """
    return build_fpn(cfg, build_timm_backbone(cfg, input_channels))


def _build_p6p7(settings: CfgNode, bottom_up: Backbone) -> tuple[TopBlock, str]:
    """Convolutions for P6 and P7, and the name of their input map."""
    last = settings.IN_FEATURES[-1]
    last_level = f"p{_level_of(bottom_up.output_specs[last])}"
    source = settings.TOP_BLOCK_IN_FEATURE or last
    if source == last_level:
        return ConvLevels(settings.OUT_CHANNELS, settings.OUT_CHANNELS), source
    if source != last:
        raise UserError(
            f"MODEL.FPN.TOP_BLOCK_IN_FEATURE = {source!r} should be {last!r} or {last_level!r}: the levels above "
            "continue the halving from there."
        )
    return ConvLevels(bottom_up.output_specs[last].channels, settings.OUT_CHANNELS), source


# (MODEL.FPN, bottom-up network) -> top block, and the name of its input map; by the choices of MODEL.FPN.TOP_BLOCK
TOP_BLOCKS: dict[str, Callable[[CfgNode, Backbone], tuple[TopBlock | None, str]]] = {
    "none": lambda *_: (None, ""),
    "maxpool": lambda *_: (MaxPoolLevel(), ""),
    "p6p7": _build_p6p7,
}


def _level_of(spec: FeatureSpec) -> int:
    return round(math.log2(spec.stride))


def _check_levels(in_features: list[str], bottom_up: Backbone) -> None:
    missing = [name for name in in_features if name not in bottom_up.output_specs]
    if missing or not in_features:
        raise UserError(
            f"MODEL.FPN.IN_FEATURES = {in_features} should name maps that the bottom-up network returns: "
            f"{', '.join(bottom_up.output_specs)} (the OUT_FEATURES of MODEL.RESNETS, MODEL.VGG, ... decide)."
        )
    strides = [bottom_up.output_specs[name].stride for name in in_features]
    if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
        raise UserError(f"MODEL.FPN.IN_FEATURES = {in_features} have strides {strides}; each should be twice the last.")
