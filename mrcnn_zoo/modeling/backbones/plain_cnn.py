"""A small network of convolutions and max-pooling, enough for images as simple as digits.

Source: Schwalbe 2018 (Image Segmentation with Mask R-CNN, seminar notes), sec. 2.2.1 and the example of sec. 4.4.
"""

from functools import partial

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.layers import build_norm
from mrcnn_zoo.modeling.backbones.conv_stages import ConvStages
from mrcnn_zoo.registries import BACKBONES


@BACKBONES.register("build_plain_cnn_backbone")
def build_plain_cnn_backbone(cfg: CfgNode, input_channels: int) -> ConvStages:
    """The network of `MODEL.PLAIN_CNN`, frozen up to stage `MODEL.BACKBONE.FREEZE_AT`."""
    settings = cfg.MODEL.PLAIN_CNN
    stages = [[channels] * settings.CONVS_PER_STAGE for channels in settings.CHANNELS]
    maps = [*(f"conv{number}" for number in range(1, len(stages) + 1)), f"pool{len(stages)}"]
    if not settings.OUT_FEATURES or not set(settings.OUT_FEATURES) <= set(maps):
        raise UserError(
            f"MODEL.PLAIN_CNN.OUT_FEATURES = {settings.OUT_FEATURES} should name some of {', '.join(maps)}, "
            "a stage for each of MODEL.PLAIN_CNN.CHANNELS."
        )
    network = ConvStages(
        input_channels,
        stages=stages,
        build_norm=partial(build_norm, settings.NORM, key="MODEL.PLAIN_CNN.NORM"),
        out_features=settings.OUT_FEATURES,
    )
    network.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)
    return network
