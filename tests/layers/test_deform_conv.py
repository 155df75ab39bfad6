import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mrcnn_zoo.layers import DeformConv2d, FrozenBatchNorm2d, relu_


def interpolated(plane: Tensor, y: float, x: float) -> Tensor:
    """Bilinear interpolation of an (H, W) map; 0 outside."""
    value = torch.zeros((), dtype=plane.dtype)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
                value = value + plane[row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return value


def slow_deform_conv(conv: DeformConv2d, features: Tensor, offsets: Tensor, tap_weights: Tensor | None) -> Tensor:
    """Loop over the output values of one image, from the definition in the papers."""
    out_channels, per_group, side, _ = conv.weight.shape
    groups = features.shape[0] // per_group
    offset_groups = offsets.shape[0] // (2 * side * side)
    height, width = offsets.shape[1:]
    output = torch.zeros(out_channels, height, width)
    for out in range(out_channels):
        for row in range(height):
            for column in range(width):
                for channel in range(per_group):
                    source = channel + out // (out_channels // groups) * per_group
                    offset_group = source // (features.shape[0] // offset_groups)
                    for tap in range(side * side):
                        number = offset_group * side * side + tap
                        y = (
                            row * conv.stride
                            - conv.padding
                            + tap // side * conv.dilation
                            + offsets[2 * number, row, column]
                        )
                        x = (
                            column * conv.stride
                            - conv.padding
                            + tap % side * conv.dilation
                            + offsets[2 * number + 1, row, column]
                        )
                        factor = 1 if tap_weights is None else tap_weights[number, row, column]
                        value = interpolated(features[source], float(y), float(x))
                        output[out, row, column] += conv.weight[out, channel, tap // side, tap % side] * factor * value
    return output + (0 if conv.bias is None else conv.bias[:, None, None])


@pytest.mark.parametrize(
    ("stride", "dilation", "groups", "offset_groups", "modulated"),
    [(1, 1, 1, 1, False), (2, 1, 1, 1, True), (1, 2, 2, 1, False), (1, 1, 1, 2, True)],
)
@torch.no_grad()
def test_output_equals_loop_over_definition(
    stride: int, dilation: int, groups: int, offset_groups: int, modulated: bool
) -> None:
    torch.manual_seed(0)
    conv = DeformConv2d(4, 2, 3, stride=stride, dilation=dilation, groups=groups)
    conv.bias.copy_(torch.randn(2))
    features, side = torch.randn(1, 4, 5, 4), (3, 2) if stride == 2 else (5, 4)
    offsets = 2 * torch.randn(1, 18 * offset_groups, *side)
    tap_weights = torch.rand(1, 9 * offset_groups, *side) if modulated else None
    expected = slow_deform_conv(conv, features[0], offsets[0], None if tap_weights is None else tap_weights[0])
    torch.testing.assert_close(conv(features, offsets, tap_weights)[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_zero_offsets_give_a_plain_convolution(layout: torch.memory_format) -> None:
    conv = DeformConv2d(4, 6, 3, stride=2, dilation=2, groups=2).to(memory_format=layout)
    features = torch.randn(2, 4, 9, 8).to(memory_format=layout)
    expected = F.conv2d(features, conv.weight, conv.bias, stride=2, padding=2, dilation=2, groups=2)
    torch.testing.assert_close(conv(features, torch.zeros(2, 18, 5, 4)), expected, atol=1e-5, rtol=1e-5)
    halved = conv(features, torch.zeros(2, 18, 5, 4), torch.full((2, 9, 5, 4), 0.5))
    torch.testing.assert_close(halved, expected / 2, atol=1e-5, rtol=1e-5)


def test_gradients_of_all_inputs_equal_finite_differences() -> None:
    torch.manual_seed(0)
    conv = DeformConv2d(2, 2, 3).requires_grad_(False)
    inputs = [torch.randn(1, 2, 4, 4), 0.3 * torch.randn(1, 18, 4, 4) + 0.5, torch.rand(1, 9, 4, 4)]
    inputs = [value.requires_grad_() for value in inputs]
    conv(*inputs).square().sum().backward()
    step = 1e-2
    for value in inputs:
        flat = value.detach().flatten()
        for index in (0, len(flat) // 2, len(flat) - 1):
            losses = []
            for sign in (1, -1):
                moved = flat.clone()
                moved[index] += sign * step
                arguments = [moved.view_as(value) if other is value else other.detach() for other in inputs]
                losses.append(conv(*arguments).square().sum().item())
            expected = (losses[0] - losses[1]) / (2 * step)
            assert value.grad is not None
            assert value.grad.flatten()[index].item() == pytest.approx(expected, rel=0.02, abs=0.02)


def test_frozen_norm_is_folded_before_activation() -> None:
    norm = FrozenBatchNorm2d(4)
    for buffer in norm.buffers():
        buffer.copy_(torch.rand(4) + 0.5)
    conv = DeformConv2d(4, 4, 3, norm=norm, activation=relu_)
    assert next(iter(conv.state_dict())) == "weight"
    assert "bias" not in conv.state_dict()
    features, offsets = torch.randn(1, 4, 6, 6), torch.zeros(1, 18, 6, 6)
    expected = F.relu(norm(F.conv2d(features, conv.weight, padding=1)))
    torch.testing.assert_close(conv(features, offsets), expected, atol=1e-5, rtol=1e-5)


def test_deformable_convolution_runs_under_autocast() -> None:
    conv = DeformConv2d(4, 4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = conv(torch.randn(1, 4, 6, 6).bfloat16(), torch.zeros(1, 18, 6, 6).bfloat16())
    assert output.dtype == torch.bfloat16
    output.float().sum().backward()
    assert conv.weight.grad is not None


def test_empty_batch_gives_empty_output_and_zero_gradient() -> None:
    conv = DeformConv2d(4, 4, 3)
    output = conv(torch.zeros(0, 4, 6, 6), torch.zeros(0, 18, 6, 6))
    assert output.shape == (0, 4, 6, 6)
    output.sum().backward()
    assert conv.weight.grad is not None
    assert not conv.weight.grad.any()
