"""Convolutions for inference: norms folded once, additions and activations in oneDNN's kernels."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrcnn_zoo.layers.conv import Conv2d, folded, relu_
from mrcnn_zoo.layers.norm import FrozenBatchNorm2d, freeze_batch_norms
from mrcnn_zoo.modeling.backbones.residual_blocks import BasicBlock, BottleneckBlock
from mrcnn_zoo.ops import winograd


class FusedConv2d(nn.Module):
    """A convolution with its norm and activation as constants of one kernel; it cannot be trained.

    Batch norms, frozen or in evaluation mode, are folded into weight and bias; other norms are applied after it.

    Args:
        conv: in evaluation mode.
        dtype: of weight and result.
        uses_kernel: of oneDNN, where there is one; else of torch.
    """

    def __init__(self, conv: Conv2d, dtype: torch.dtype = torch.float32, *, uses_kernel: bool = True) -> None:
        super().__init__()
        norm = freeze_batch_norms(conv.norm) if isinstance(conv.norm, nn.BatchNorm2d) else conv.norm
        with torch.no_grad():
            weight, bias = folded(conv.weight, conv.bias, norm)
        self.norm = None if isinstance(norm, FrozenBatchNorm2d) else norm
        self.activation = conv.activation
        self.padding = [int(side) for side in conv.padding]
        self.stride, self.dilation, self.groups = list(conv.stride), list(conv.dilation), conv.groups
        constant = None if bias is None else nn.Parameter(bias.to(dtype), requires_grad=False)
        self.bias = constant
        # Not packed in an order of oneDNN's: packed without the size of the map, some 1 x 1 convolutions of 1024 and
        # 2048 channels took four to six times longer (avx512_vnni, torch 2.14.1; dev/BENCHMARKS.md).
        weight = weight.to(dtype).contiguous(memory_format=torch.channels_last)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.has_kernel = uses_kernel and has_fused_kernel(weight)
        self._transformed_weight: Tensor | None = None  # computed for the first large map

    def forward(self, features: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H / stride, W / stride), rounded up."""
        features = features.to(self.weight.dtype)
        is_fused = self.norm is None and self.activation is relu_
        if winograd.is_faster(features, self.weight, stride=self.stride, dilation=self.dilation, groups=self.groups):
            if self._transformed_weight is None:
                self._transformed_weight = winograd.transformed(self.weight.detach())
            output = winograd.convolve_with_transformed(features, self._transformed_weight, self.bias)
            is_fused = False
        elif self.has_kernel:
            output = torch.ops.mkldnn._convolution_pointwise(
                features, self.weight, self.bias, *self._settings(), "relu" if is_fused else "none", [], ""
            )
        else:
            output = self._plain(features)
            is_fused = False
        if self.norm is not None:
            output = self.norm(output)
        return output if is_fused or self.activation is None else self.activation(output)

    def add_and_activate(self, features: Tensor, other: Tensor, *, overwrites: bool = False) -> Tensor:
        """The ReLU of the convolution plus a map.

        Args:
            features: (N, C_in, H, W).
            other: (N, C_out, H, W) of the result's size, of any type.
            overwrites: whether the result may take the place of `other`, which saves the memory of a map.
        """
        if not self.has_kernel or self.norm is not None or self.activation is not None:
            return torch.relu_(self(features).add_(other))
        features, other = features.to(self.weight.dtype), other.to(self.weight.dtype)
        if overwrites and other.is_contiguous(memory_format=torch.channels_last):
            return torch.ops.mkldnn._convolution_pointwise_.binary(
                other, features, self.weight, self.bias, *self._settings(), "add", 1.0, "relu", [], ""
            )
        return torch.ops.mkldnn._convolution_pointwise.binary(
            features, other, self.weight, self.bias, *self._settings(), "add", 1.0, "relu", [], ""
        )

    def _plain(self, features: Tensor) -> Tensor:
        return F.conv2d(features, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def _settings(self) -> tuple[list[int], list[int], list[int], int]:
        return self.padding, self.stride, self.dilation, self.groups


class FusedBlock(nn.Module):
    """A residual block whose last convolution adds the shortcut.

    Args:
        block: a `BasicBlock` or `BottleneckBlock` with fused convolutions.
        overwrites_input: whether nothing else needs the input, as between two blocks of a stage.
    """

    def __init__(self, block: Any, *, overwrites_input: bool = False) -> None:
        super().__init__()
        self.overwrites = overwrites_input or not isinstance(block.shortcut, nn.Identity)
        self.shortcut: nn.Module = block.shortcut
        self.conv1: nn.Module = block.conv1
        self.conv2: Any = block.conv2
        self.conv3: Any = block.conv3 if isinstance(block, BottleneckBlock) else None

    def forward(self, features: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""
        inner, shortcut, last = self.conv1(features), self.shortcut(features), self.conv2
        if self.conv3 is not None:
            inner, last = self.conv2(inner), self.conv3
        return last.add_and_activate(inner, shortcut, overwrites=self.overwrites)


def has_fused_kernel(weight: Tensor) -> bool:
    """Whether this torch has oneDNN's fused kernels for a weight of this device and type.

    Args:
        weight: of a convolution.
    """
    has_kernels = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    return has_kernels and weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)


def fuse_layers(model: nn.Module, dtype: torch.dtype = torch.float32, *, uses_kernels: bool = True) -> None:
    """Replace the convolutions and residual blocks of a model in evaluation mode, in place.

    Args:
        model: any module.
        dtype: of the weights of the convolutions.
        uses_kernels: without, norms are folded into torch's convolutions, and nothing else is fused.
    """
    for name, child in list(model.named_children()):
        if type(child) is Conv2d:
            setattr(model, name, FusedConv2d(child, dtype, uses_kernel=uses_kernels))
            continue
        fuse_layers(child, dtype, uses_kernels=uses_kernels)
        is_block = type(child) is BasicBlock or (type(child) is BottleneckBlock and child.deformation is None)
        if is_block and _has_fused_end(child):
            follows_block = isinstance(model, nn.Sequential) and name != "0"
            setattr(model, name, FusedBlock(child, overwrites_input=follows_block))


def _has_fused_end(block: Any) -> bool:
    last = block.conv3 if isinstance(block, BottleneckBlock) else block.conv2
    return isinstance(last, FusedConv2d) and last.has_kernel and last.norm is None
