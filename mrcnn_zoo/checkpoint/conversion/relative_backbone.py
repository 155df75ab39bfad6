"""Backbones saved on their own under Detectron2's names, without the path to where a detector has them."""

from mrcnn_zoo.checkpoint.conversion.converter import Converter
from mrcnn_zoo.registries import CHECKPOINT_CONVERTERS


@CHECKPOINT_CONVERTERS.register("relative_backbone")
def build_relative_backbone_converter() -> Converter:
    """Detectron2's ResNets saved without a detector around them."""
    return Converter(
        source="Detectron2 ResNet backbone",
        signature=("stem.conv1.weight", "stem.conv1.norm.weight", "res2.0.conv1.weight"),
    )
