"""Layers of networks: convolutions with norm and activation, deformable convolutions, norms."""

from mrcnn_zoo.layers.conv import Conv2d, caffe2_xavier_init_, kaiming_init_, relu_
from mrcnn_zoo.layers.deform_conv import DeformConv2d
from mrcnn_zoo.layers.norm import FrozenBatchNorm2d, build_norm, freeze_batch_norms

__all__ = [
    "Conv2d",
    "DeformConv2d",
    "FrozenBatchNorm2d",
    "build_norm",
    "caffe2_xavier_init_",
    "freeze_batch_norms",
    "kaiming_init_",
    "relu_",
]
