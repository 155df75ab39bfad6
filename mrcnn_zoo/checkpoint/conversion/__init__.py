"""Weights of other projects under our names, one file a source."""

from mrcnn_zoo.checkpoint.conversion import relative_backbone, torchvision_resnet
from mrcnn_zoo.checkpoint.conversion.converter import Converter, find_converter

__all__ = ["Converter", "find_converter", "relative_backbone", "torchvision_resnet"]
