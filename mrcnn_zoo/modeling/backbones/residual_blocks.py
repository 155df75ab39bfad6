"""The stem and the residual blocks of ResNets."""

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


@dataclass(frozen=True)
class Deformation:
    """What is predicted for the taps of a deformable 3 x 3 convolution.

    Args:
        offset_groups: groups of channels with separate offsets.
        learns_tap_weights: whether each tap also has a weight between 0 and 1 (version 2).
    """

    offset_groups: int = 1
    learns_tap_weights: bool = False

    @property
    def num_outputs(self) -> int:
        """Channels to predict: two offsets per tap and group, and the logit of its weight if it has one."""
        return (3 if self.learns_tap_weights else 2) * KERNEL_TAPS * self.offset_groups

    def split(self, predicted: Tensor) -> tuple[Tensor, Tensor | None]:
        """The offsets and tap weights of `DeformConv2d` from the predicted channels.

        Args:
            predicted: (N, num_outputs, H, W).

        Returns:
            Offsets in cells, and weights in [0, 1] or None.
        """
        num_offsets = 2 * KERNEL_TAPS * self.offset_groups
        offsets, tap_logits = predicted.split((num_offsets, predicted.shape[1] - num_offsets), dim=1)
        return offsets, tap_logits.sigmoid() if self.learns_tap_weights else None


def centred_max_pool(features: Tensor) -> Tensor:
    """Maximum of the 3 x 3 cells around every second cell.

    Args:
        features: (N, C, H, W).

    Returns:
        (N, C, H / 2, W / 2).
    """
    return F.max_pool2d(features, kernel_size=3, stride=2, padding=1)


def following_max_pool(features: Tensor) -> Tensor:
    """Maximum of every second cell and the two after it, as with TensorFlow's "same" padding of an even side.

    Args:
        features: (N, C, H, W), not negative; padded with zeros.

    Returns:
        (N, C, H / 2, W / 2).
    """
    return F.max_pool2d(F.pad(features, (0, 1, 0, 1)), kernel_size=3, stride=2)


# "following" is for models of Keras (matterport).
STEM_POOLS = {"centred": centred_max_pool, "following": following_max_pool}


class Stem(nn.Module):
    """Convolution and max-pooling, from pixels to a quarter of their resolution.

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

    The 3 x 3 convolution can be deformable. Its offsets start at 0 and the weights of its taps at one half.

    Source: He et al. 2016 (Deep Residual Learning), fig. 5; for deformation Dai et al. 2017 (Deformable Convolutional
    Networks), sec. 3, and Zhu et al. 2019 (Deformable ConvNets v2), sec. 3.2.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        width: channels and groups of the 3 x 3 convolution.
        strides: of the first 1 x 1 and of the 3 x 3 convolution.
        dilation: of the 3 x 3 convolution.
        build_norm: makes the norm of each convolution.
        deformation: makes the 3 x 3 convolution deformable; None for a plain one.
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
        deformation: Deformation | None = None,
    ) -> None:
        super().__init__()
        inner = width.channels
        self.deformation = deformation
        self.shortcut = _shortcut(in_channels, out_channels, strides[0] * strides[1], build_norm)
        norm1, norm2, norm3 = build_norm(inner), build_norm(inner), build_norm(out_channels)
        self.conv1 = Conv2d(in_channels, inner, 1, stride=strides[0], norm=norm1, activation=relu_)
        if deformation is not None:
            self.conv2_offset = Conv2d(inner, deformation.num_outputs, 3, stride=strides[1], dilation=dilation)
        conv_type = Conv2d if deformation is None else DeformConv2d
        self.conv2 = conv_type(
            inner, inner, 3, stride=strides[1], dilation=dilation, groups=width.groups, norm=norm2, activation=relu_
        )
        self.conv3 = Conv2d(inner, out_channels, 1, norm=norm3)
        _initialize(self)
        if deformation is not None:
            nn.init.zeros_(self.conv2_offset.weight)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""
        inner = self.conv1(features)
        if self.deformation is None:
            inner = self.conv2(inner)
        else:
            inner = self.conv2(inner, *self.deformation.split(self.conv2_offset(inner)))
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
    # In place on the residual, which no gradient needs, not on the shortcut, which may be the block's input.
    return torch.relu_(residual.add_(shortcut))
