"""A pyramid on a single map, for networks of one resolution such as a plain ViT.

Source: Li et al. 2022 (Exploring Plain Vision Transformer Backbones for Object Detection), sec. 3 and appendix A.2.
"""

import math
from functools import partial

from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.layers import Conv2d, build_norm, caffe2_xavier_init_
from mrcnn_zoo.layers.norm import ChannelLayerNorm
from mrcnn_zoo.modeling.backbones.fpn import MaxPoolLevel
from mrcnn_zoo.modeling.backbones.residual_blocks import NormBuilder
from mrcnn_zoo.modeling.backbones.timm_features import build_timm_backbone
from mrcnn_zoo.modeling.contracts import Backbone
from mrcnn_zoo.registries import BACKBONES
from mrcnn_zoo.structures import FeatureSpec


class SimplePyramid(nn.Module):
    """Levels at a quarter, half, one and two times the stride of one map, each computed from this map alone.

    They are named p2, p3, ... after the rounded logarithm of their stride; max-pooling adds one more.

    Args:
        bottom_up: network below the pyramid.
        in_feature: name of its map.
        out_channels: C of every level.
        build_norm: channels -> norm after each convolution, or None.
    """

    def __init__(self, bottom_up: Backbone, *, in_feature: str, out_channels: int, build_norm: NormBuilder) -> None:
        super().__init__()
        spec = bottom_up.output_specs[in_feature]
        finest = round(math.log2(spec.stride)) - 2
        for level, resizing in enumerate(_resizing_layers(spec.channels), start=finest):
            widths = [layer.out_channels for layer in resizing if isinstance(layer, nn.ConvTranspose2d)]
            channels = widths[-1] if widths else spec.channels
            lateral = Conv2d(channels, out_channels, 1, norm=build_norm(out_channels))
            output = Conv2d(out_channels, out_channels, 3, norm=build_norm(out_channels))
            caffe2_xavier_init_(lateral)
            caffe2_xavier_init_(output)
            self.add_module(f"simfp_{level}", nn.Sequential(*resizing, lateral, output))
        self.net = bottom_up
        self.in_feature = in_feature
        self.top_block = MaxPoolLevel()
        self.levels = range(finest, finest + 4)
        self.output_specs = {
            f"p{finest + step}": FeatureSpec(out_channels, stride=spec.stride * 2**step // 4) for step in range(5)
        }
        self.size_divisibility = math.lcm(2 * spec.stride, bottom_up.size_divisibility)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) pixels -> every level, from fine to coarse."""
        features = self.net(pixels)[self.in_feature]
        outputs = [self.get_submodule(f"simfp_{level}")(features) for level in self.levels]
        outputs += self.top_block(outputs[-1])
        return dict(zip(self.output_specs, outputs, strict=True))


def _resizing_layers(channels: int) -> list[list[nn.Module]]:
    """Layers that resize a map to 4, 2, 1 and 1/2 times its resolution."""
    half, quarter = channels // 2, channels // 4
    return [
        [
            nn.ConvTranspose2d(channels, half, 2, stride=2),
            ChannelLayerNorm(half),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, stride=2),
        ],
        [nn.ConvTranspose2d(channels, half, 2, stride=2)],
        [],
        [nn.MaxPool2d(2)],
    ]


@BACKBONES.register("build_timm_simple_fpn_backbone")
def build_timm_simple_fpn_backbone(cfg: CfgNode, input_channels: int) -> SimplePyramid:
    """A pyramid on the one map of a timm network, usually a ViT, that `MODEL.FPN.IN_FEATURES` names.

    Args:
        cfg: the whole config.
        input_channels: C of the images.
    """
    settings = cfg.MODEL.FPN
    bottom_up = build_timm_backbone(cfg, input_channels)
    if len(settings.IN_FEATURES) != 1 or settings.IN_FEATURES[0] not in bottom_up.output_specs:
        raise UserError(
            f"MODEL.FPN.IN_FEATURES = {settings.IN_FEATURES} should be one map for a simple pyramid, of "
            f"{', '.join(bottom_up.output_specs)}."
        )
    if bottom_up.output_specs[settings.IN_FEATURES[0]].stride % 4:
        raise UserError(
            f"MODEL.TIMM.NAME = {cfg.MODEL.TIMM.NAME!r}: a simple pyramid needs a stride that is a multiple of 4, as a "
            "ViT with patches of 16 pixels has."
        )
    return SimplePyramid(
        bottom_up,
        in_feature=settings.IN_FEATURES[0],
        out_channels=settings.OUT_CHANNELS,
        build_norm=partial(build_norm, settings.NORM, key="MODEL.FPN.NORM"),
    )
