"""Convolution with its normalisation and activation in one layer."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrcnn_zoo.layers.norm import FrozenBatchNorm2d
from mrcnn_zoo.ops import winograd

Activation = Callable[[Tensor], Tensor]
relu_: Activation = torch.relu_  # in place: the backward pass does not need its input

# oneDNN (through 3.14) writes past a buffer in the weight gradient of strided 1 x 1 convolutions of channels-last maps
# with fewer channels than this: wrong gradients, or the process is killed.
# Source: issue 6035 of uxlfoundation/oneDNN.
ONEDNN_CHANNEL_BLOCK = 16


class Conv2d(nn.Conv2d):
    """Convolution, then norm, then activation; odd kernels are padded so that stride 1 keeps the size.

    A frozen batch norm is multiplied into the weights: one convolution instead of three passes over the feature map,
    and less memory for the gradient, which still flows to the weights. Parameters and buffers are those of an unfused
    layer. On the CPU 3 x 3 convolutions of large maps are computed by `ops.winograd`, equal up to rounding.

    The layer has a bias exactly when it has no norm.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        kernel_size: in pixels.
        stride: in pixels.
        dilation: distance of the kernel's taps in pixels.
        groups: number of channel groups that are convolved separately.
        norm: applied to the result, e.g. from `build_norm`.
        activation: applied last; may work in place.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        norm: nn.Module | None = None,
        activation: Activation | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=dilation * (kernel_size - 1) // 2,
            dilation=dilation,
            groups=groups,
            bias=norm is None,
        )
        self.norm = norm
        self.activation = activation

    def forward(self, input: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H / stride, W / stride), rounded up."""
        weight, bias = folded(self.weight, self.bias, self.norm)
        if winograd.is_faster(input, weight, stride=self.stride, dilation=self.dilation, groups=self.groups):
            return normalized_and_activated(winograd.convolve(input, weight, bias), self.norm, self.activation)
        stride = self.stride
        if self.kernel_size == (1, 1) and self.in_channels < ONEDNN_CHANNEL_BLOCK and input.device.type == "cpu":
            input, stride = input[:, :, :: self.stride[0], :: self.stride[1]], (1, 1)
        output = F.conv2d(input, weight, bias, stride, self.padding, self.dilation, self.groups)
        return normalized_and_activated(output, self.norm, self.activation)


def folded(weight: Tensor, bias: Tensor | None, norm: nn.Module | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a convolution with the frozen batch norm after it, if any, multiplied in.

    Args:
        weight: (C_out, C_in / groups, k, k).
        bias: (C_out,) or None.
        norm: the norm after the convolution; only a frozen batch norm is folded.
    """
    if not isinstance(norm, FrozenBatchNorm2d):
        return weight, bias
    scale, shift = norm.scale_and_shift()
    return weight * scale[:, None, None, None], shift


def normalized_and_activated(output: Tensor, norm: nn.Module | None, activation: Activation | None) -> Tensor:
    """Apply the norm, unless it was `folded`, and the activation.

    Args:
        output: (N, C, H, W) of the convolution.
        norm: the norm after the convolution, or None.
        activation: applied last, or None.
    """
    if norm is not None and not isinstance(norm, FrozenBatchNorm2d):
        output = norm(output)
    return output if activation is None else activation(output)


def kaiming_init_(conv: nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Normal weights that preserve the variance of the gradient through a ReLU, biases of 0.

    Source: He et al. 2015 (Delving Deep into Rectifiers), sec. 2.2, backward case.

    Args:
        conv: initialised in place.
    """
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def caffe2_xavier_init_(layer: nn.Conv2d | nn.Linear) -> None:
    """Uniform weights that preserve the variance of the signal without activation, biases of 0.

    Args:
        layer: initialised in place.
    """
    nn.init.kaiming_uniform_(layer.weight, a=1)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def add_linear_layers(module: nn.Module, size: int, widths: Sequence[int]) -> tuple[list[str], int]:
    """Add fully connected layers fc1, fc2, ... to a module; the caller applies them.

    Args:
        module: gets the layers.
        size: input features of the first layer.
        widths: output features of each layer.

    Returns:
        Layer names, and the output features of the last layer, or `size` without layers.
    """
    names = [f"fc{number}" for number in range(1, len(widths) + 1)]
    for name, width in zip(names, widths, strict=True):
        linear = nn.Linear(size, width)
        caffe2_xavier_init_(linear)
        module.add_module(name, linear)
        size = width
    return names, size
