"""The parts that ResNets are made of: the stem and residual blocks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrcnn_zoo.layers import Conv2d, DeformConv2d, kaiming_init_, relu_

NormBuilder = Callable[[int], nn.Module | None]  # channels -> norm

KERNEL_TAPS = 9  # of a 3 x 3 convolution


@dataclass(frozen=True)
class BottleneckWidth:
    """The narrow part of a bottleneck block."""

    channels: int
    groups: int = 1


def centred_max_pool(features: Tensor) -> Tensor:
    """Greatest of the 3 x 3 cells around every second cell: (N, C, H, W) -> (N, C, H / 2, W / 2)."""
    return F.max_pool2d(features, kernel_size=3, stride=2, padding=1)


def following_max_pool(features: Tensor) -> Tensor:
    """Greatest of every second cell and the two after it, as TensorFlow's "same" padding of an even side has it.

    Args:
        features: (N, C, H, W), none negative; beyond the last row and column there are zeros.
    """
    return F.max_pool2d(F.pad(features, (0, 1, 0, 1)), kernel_size=3, stride=2)


STEM_POOLS = {"centred": centred_max_pool, "following": following_max_pool}


class Stem(nn.Module):
    """From pixels to a quarter of their resolution: convolution and max-pooling.

    Args:
        in_channels: C of the pixels.
        out_channels: C of the features.
        build_norm: makes the norm of the convolution.
        pool: halves the resolution of the convolution's features.
    """

    stride = 4

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        build_norm: NormBuilder,
        pool: Callable[[Tensor], Tensor] = centred_max_pool,
    ) -> None:
        super().__init__()
        self.pool = pool
        self.conv1 = Conv2d(in_channels, out_channels, 7, stride=2, norm=build_norm(out_channels), activation=relu_)
        kaiming_init_(self.conv1)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C_stem, H / 4, W / 4)."""
        return self.pool(self.conv1(pixels))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        stride: of the first convolution.
        build_norm: makes the norm of each convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, build_norm: NormBuilder) -> None:
        super().__init__()
        self.shortcut = _shortcut(in_channels, out_channels, stride, build_norm)
        norm1, norm2 = build_norm(out_channels), build_norm(out_channels)
        self.conv1 = Conv2d(in_channels, out_channels, 3, stride=stride, norm=norm1, activation=relu_)
        self.conv2 = Conv2d(out_channels, out_channels, 3, norm=norm2)
        _initialize(self)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""
        return _add_and_activate(self.conv2(self.conv1(features)), self.shortcut(features))


class BottleneckBlock(nn.Module):
    """A 3 x 3 convolution between two 1 x 1 convolutions that narrow and widen, beside a shortcut.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        width: channels and groups of the 3 x 3 convolution.
        strides: of the first 1 x 1 and of the 3 x 3 convolution.
        dilation: of the 3 x 3 convolution.
        build_norm: makes the norm of each convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: BottleneckWidth,
        strides: tuple[int, int],
        dilation: int,
        build_norm: NormBuilder,
    ) -> None:
        super().__init__()
        inner, groups = width.channels, width.groups
        self.shortcut = _shortcut(in_channels, out_channels, strides[0] * strides[1], build_norm)
        norm1, norm2, norm3 = build_norm(inner), build_norm(inner), build_norm(out_channels)
        self.conv1 = Conv2d(in_channels, inner, 1, stride=strides[0], norm=norm1, activation=relu_)
        self.conv2 = Conv2d(
            inner, inner, 3, stride=strides[1], dilation=dilation, groups=groups, norm=norm2, activation=relu_
        )
        self.conv3 = Conv2d(inner, out_channels, 1, norm=norm3)
        _initialize(self)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""
        return _add_and_activate(self.conv3(self.conv2(self.conv1(features))), self.shortcut(features))


class DeformBottleneckBlock(nn.Module):
    """A bottleneck block whose 3 x 3 convolution is deformable; offsets start at 0, weights of taps at one half.

    Source: Dai et al. 2017 (Deformable Convolutional Networks), sec. 3; Zhu et al. 2019 (Deformable ConvNets v2),
    sec. 3.2.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        width: channels and groups of the 3 x 3 convolution.
        strides: of the first 1 x 1 and of the 3 x 3 convolution.
        dilation: of the 3 x 3 convolution.
        build_norm: makes the norm of each convolution.
        offset_groups: groups of channels with offsets of their own.
        learns_tap_weights: whether each tap also has a weight between 0 and 1 (version 2).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: BottleneckWidth,
        strides: tuple[int, int],
        dilation: int,
        build_norm: NormBuilder,
        offset_groups: int = 1,
        learns_tap_weights: bool = False,
    ) -> None:
        super().__init__()
        inner, groups = width.channels, width.groups
        self.shortcut = _shortcut(in_channels, out_channels, strides[0] * strides[1], build_norm)
        norm1, norm2, norm3 = build_norm(inner), build_norm(inner), build_norm(out_channels)
        self.conv1 = Conv2d(in_channels, inner, 1, stride=strides[0], norm=norm1, activation=relu_)
        self.num_offsets = 2 * KERNEL_TAPS * offset_groups
        predicted = self.num_offsets + (KERNEL_TAPS * offset_groups if learns_tap_weights else 0)
        self.conv2_offset = Conv2d(inner, predicted, 3, stride=strides[1], dilation=dilation)
        self.conv2 = DeformConv2d(
            inner, inner, 3, stride=strides[1], dilation=dilation, groups=groups, norm=norm2, activation=relu_
        )
        self.conv3 = Conv2d(inner, out_channels, 1, norm=norm3)
        _initialize(self)
        nn.init.zeros_(self.conv2_offset.weight)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""
        inner = self.conv1(features)
        predicted = self.conv2_offset(inner)
        offsets, tap_logits = predicted.split((self.num_offsets, predicted.shape[1] - self.num_offsets), dim=1)
        inner = self.conv2(inner, offsets, tap_logits.sigmoid() if tap_logits.shape[1] else None)
        return _add_and_activate(self.conv3(inner), self.shortcut(features))


def _shortcut(in_channels: int, out_channels: int, stride: int, build_norm: NormBuilder) -> nn.Module:
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    return Conv2d(in_channels, out_channels, 1, stride=stride, norm=build_norm(out_channels))


def _initialize(block: nn.Module) -> None:
    for module in block.modules():
        if isinstance(module, Conv2d):
            kaiming_init_(module)


def _add_and_activate(residual: Tensor, shortcut: Tensor) -> Tensor:
    # In place on the residual, which no gradient needs; never on the shortcut, which is the block's input.
    return torch.relu_(residual.add_(shortcut))
