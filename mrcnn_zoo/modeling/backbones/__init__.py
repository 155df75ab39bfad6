"""Networks that turn pixels into feature maps."""

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.modeling.backbones.fpn import FPN
from mrcnn_zoo.modeling.backbones.resnet import ResNet
from mrcnn_zoo.modeling.contracts import Backbone
from mrcnn_zoo.registries import BACKBONES

__all__ = ["FPN", "ResNet", "build_backbone"]


def build_backbone(cfg: CfgNode, input_channels: int) -> Backbone:
    """The backbone that `MODEL.BACKBONE.NAME` names, for images with that many channels."""
    return BACKBONES.get(cfg.MODEL.BACKBONE.NAME)(cfg, input_channels)
