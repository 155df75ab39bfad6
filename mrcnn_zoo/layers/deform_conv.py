"""Deformable convolution: the taps of the kernel are shifted by predicted offsets."""

import torch
from torch import Tensor, nn

from mrcnn_zoo.layers.conv import Activation, folded, normalized_and_activated


class DeformConv2d(nn.Module):
    """Deformable convolution, then norm, then activation; the layer has a bias exactly when it has no norm.

    The taps of a k x k kernel are numbered row by row. For each of them and each offset group, `offsets` has two
    channels, the shift downwards and the shift to the right in cells; pixels outside the map are 0.

    Source: Dai et al. 2017 (Deformable Convolutional Networks), sec. 2.1; Zhu et al. 2019 (Deformable ConvNets v2),
    sec. 3.2 for the weight of each tap.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        kernel_size: k, odd; the map is padded so that stride 1 keeps the size.
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
        super().__init__()
        self.stride = stride
        self.dilation = dilation
        self.padding = dilation * (kernel_size - 1) // 2
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if norm is None else None
        self.norm = norm
        self.activation = activation
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, input: Tensor, offsets: Tensor, tap_weights: Tensor | None = None) -> Tensor:
        """Convolve, with each tap sampled at its offset.

        Args:
            input: (N, C_in, H, W).
            offsets: (N, 2 G k k, H / stride, W / stride) cells of the input, G offset groups.
            tap_weights: (N, G k k, H / stride, W / stride) factors of the values read; None for 1.

        Returns:
            (N, C_out, H / stride, W / stride), rounded up.
        """
        from torchvision.ops import deform_conv2d

        weight, bias = folded(self.weight, self.bias, self.norm)
        # torchvision has no bfloat16 kernel, and half-precision offsets are a quarter of a cell apart on wide maps.
        with torch.autocast(input.device.type, enabled=False):
            output = deform_conv2d(
                input.float(),
                offsets.float(),
                weight.float(),
                bias if bias is None else bias.float(),
                stride=self.stride,
                padding=self.padding,
                dilation=self.dilation,
                mask=tap_weights if tap_weights is None else tap_weights.float(),
            ).to(input.dtype)
        return normalized_and_activated(output, self.norm, self.activation)
