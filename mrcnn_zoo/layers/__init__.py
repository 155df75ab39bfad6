"""Layers that networks are built of."""

from mrcnn_zoo.layers.conv import Conv2d, fill_for_linear, fill_for_relu, relu_
from mrcnn_zoo.layers.deform_conv import DeformConv2d
from mrcnn_zoo.layers.norm import FrozenBatchNorm2d, build_norm, freeze_batch_norms

__all__ = [
    "Conv2d",
    "DeformConv2d",
    "FrozenBatchNorm2d",
    "build_norm",
    "fill_for_linear",
    "fill_for_relu",
    "freeze_batch_norms",
    "relu_",
]
