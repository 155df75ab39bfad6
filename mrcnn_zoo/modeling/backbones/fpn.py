"""Feature pyramid network.

Source: Lin et al. 2017 (Feature Pyramid Networks), sec. 3 and 4.1.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.layers import Conv2d, build_norm, fill_for_linear
from mrcnn_zoo.modeling.backbones.resnet import build_resnet_backbone
from mrcnn_zoo.modeling.contracts import Backbone
from mrcnn_zoo.registries import BACKBONES
from mrcnn_zoo.structures import FeatureSpec

Fusion = Callable[[Tensor, Tensor], Tensor]  # (lateral, coarser map at its size) -> fused; may work in place on lateral


class MaxPoolLevel(nn.Module):
    """One more level by dropping every second cell of the coarsest map; it has no parameters."""

    num_levels = 1

    def forward(self, coarsest: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> [(N, C, H / 2, W / 2)]."""
        return [F.max_pool2d(coarsest, kernel_size=1, stride=2)]


class FPN(nn.Module):
    """Maps of equal depth from fine to coarse, each with the meaning of the coarser ones added; named p2, p3, ...

    The number in a name is the logarithm of the stride.

    Args:
        bottom_up: the network that the pyramid stands on.
        in_features: its maps to use, from fine to coarse, each half the resolution of the one before.
        out_channels: C of every level.
        build_norm: channels -> norm after each convolution.
        fuse: joins a lateral map with the coarser one.
        top_block: makes coarser levels out of the last one.

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
        top_block: MaxPoolLevel,
    ) -> None:
        super().__init__()
        _check_levels(in_features, bottom_up)
        specs = [bottom_up.output_specs[name] for name in in_features]
        self.levels = [int(math.log2(spec.stride)) for spec in specs]
        for level, spec in zip(self.levels, specs, strict=True):
            lateral = Conv2d(spec.channels, out_channels, 1, norm=build_norm(out_channels))
            output = Conv2d(out_channels, out_channels, 3, norm=build_norm(out_channels))
            fill_for_linear(lateral)
            fill_for_linear(output)
            self.add_module(f"fpn_lateral{level}", lateral)
            self.add_module(f"fpn_output{level}", output)
        self.bottom_up = bottom_up
        self.in_features = in_features
        self.fuse = fuse
        self.top_block = top_block
        names = range(self.levels[0], self.levels[-1] + top_block.num_levels + 1)
        self.output_specs = {f"p{level}": FeatureSpec(out_channels, stride=2**level) for level in names}
        self.size_divisibility = specs[-1].stride

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
        outputs += self.top_block(outputs[-1])
        return dict(zip(self.output_specs, outputs, strict=True))


def add(lateral: Tensor, coarser: Tensor) -> Tensor:
    """The sum, in place: a convolution's result is not needed for its gradient."""
    return lateral.add_(coarser)


def average(lateral: Tensor, coarser: Tensor) -> Tensor:
    """The mean, in place."""
    return lateral.add_(coarser).mul_(0.5)


FUSIONS: dict[str, Fusion] = {"sum": add, "avg": average}


@BACKBONES.register("build_resnet_fpn_backbone")
def build_resnet_fpn_backbone(cfg: CfgNode, input_channels: int) -> FPN:
    """A ResNet under the pyramid that `MODEL.FPN` describes, with max-pooling for the level above."""
    settings = cfg.MODEL.FPN
    if settings.FUSE_TYPE not in FUSIONS:
        raise UserError(f"MODEL.FPN.FUSE_TYPE = {settings.FUSE_TYPE!r} should be one of {', '.join(FUSIONS)}.")
    return FPN(
        build_resnet_backbone(cfg, input_channels),
        in_features=list(settings.IN_FEATURES),
        out_channels=settings.OUT_CHANNELS,
        build_norm=partial(build_norm, settings.NORM, key="MODEL.FPN.NORM"),
        fuse=FUSIONS[settings.FUSE_TYPE],
        top_block=MaxPoolLevel(),
    )


def _check_levels(in_features: list[str], bottom_up: Backbone) -> None:
    missing = [name for name in in_features if name not in bottom_up.output_specs]
    if missing or not in_features:
        raise UserError(
            f"MODEL.FPN.IN_FEATURES = {in_features} should name maps that the bottom-up network returns: "
            f"{', '.join(bottom_up.output_specs)} (for a ResNet, MODEL.RESNETS.OUT_FEATURES decides)."
        )
    strides = [bottom_up.output_specs[name].stride for name in in_features]
    if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
        raise UserError(f"MODEL.FPN.IN_FEATURES = {in_features} have strides {strides}; each should be twice the last.")
