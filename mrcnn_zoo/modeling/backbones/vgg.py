"""VGG networks without their fully connected layers, which are the box head's: see MODEL.ROI_BOX_HEAD.

Source: Simonyan & Zisserman 2015 (Very Deep Convolutional Networks), table 1; Girshick 2015 (Fast R-CNN), sec. 2.3 for
leaving out the last max-pooling and sec. 4.5 for which stages to freeze.
"""

from functools import partial

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.layers import build_norm
from mrcnn_zoo.modeling.backbones.conv_stages import ConvStages
from mrcnn_zoo.registries import BACKBONES

# Convolutions of each stage by depth (configurations A, B, D and E), and the width of each stage relative to the first.
CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDENING = (1, 2, 4, 8, 8)
MAPS = ("conv1", "conv2", "conv3", "conv4", "conv5", "pool5")


@BACKBONES.register("build_vgg_backbone")
def build_vgg_backbone(cfg: CfgNode, input_channels: int) -> ConvStages:
    """The VGG of `MODEL.VGG` as deep as its outputs need, frozen up to stage `MODEL.BACKBONE.FREEZE_AT`."""
    settings = cfg.MODEL.VGG
    if settings.DEPTH not in CONVOLUTIONS:
        raise UserError(f"MODEL.VGG.DEPTH = {settings.DEPTH} should be one of {', '.join(map(str, CONVOLUTIONS))}.")
    wanted = settings.OUT_FEATURES
    if not wanted or not set(wanted) <= set(MAPS):
        raise UserError(f"MODEL.VGG.OUT_FEATURES = {wanted} should name some of {', '.join(MAPS)}.")
    needed = 1 + max(min(MAPS.index(name), len(WIDENING) - 1) for name in wanted)
    counts = CONVOLUTIONS[settings.DEPTH][:needed]
    vgg = ConvStages(
        input_channels,
        stages=[
            [settings.CONV1_OUT_CHANNELS * factor] * count for factor, count in zip(WIDENING, counts, strict=False)
        ],
        build_norm=partial(build_norm, settings.NORM, key="MODEL.VGG.NORM"),
        out_features=wanted,
    )
    vgg.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)
    return vgg
