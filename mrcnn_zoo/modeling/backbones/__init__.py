"""Networks that turn pixels into feature maps."""

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.modeling.backbones.fpn import FPN
from mrcnn_zoo.modeling.backbones.resnet import ResNet, build_res5_stage
from mrcnn_zoo.modeling.backbones.simple_pyramid import SimplePyramid
from mrcnn_zoo.modeling.contracts import Backbone
from mrcnn_zoo.registries import BACKBONES

__all__ = ["FPN", "ResNet", "SimplePyramid", "build_backbone", "build_res5_stage"]


def build_backbone(cfg: CfgNode, input_channels: int) -> Backbone:
    """The backbone that `MODEL.BACKBONE.NAME` names.

    Args:
        cfg: the whole config.
        input_channels: C of the images.
    """
    return BACKBONES.get(cfg.MODEL.BACKBONE.NAME)(cfg, input_channels)
