import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mrcnn_zoo.layers import Conv2d, FrozenBatchNorm2d, relu_


def conv_with_statistics(**settings: int) -> Conv2d:
    generator = torch.Generator().manual_seed(0)
    norm = FrozenBatchNorm2d(6)
    for buffer in norm.buffers():
        buffer.copy_(torch.rand(6, generator=generator) + 0.5)
    return Conv2d(4, 6, 3, norm=norm, activation=relu_, **settings)


def test_folded_frozen_norm_equals_separate_norm_in_values_and_gradients() -> None:
    conv = conv_with_statistics(stride=2)
    assert conv.norm is not None
    features = torch.randn(2, 4, 9, 9, requires_grad=True)
    weights_of_loss = torch.randn(2, 6, 5, 5)
    separate = F.relu(conv.norm(F.conv2d(features, conv.weight, stride=2, padding=1)))
    folded = conv(features)
    torch.testing.assert_close(folded, separate, atol=1e-5, rtol=1e-5)
    inputs = (features, conv.weight)
    expected = torch.autograd.grad((separate * weights_of_loss).sum(), inputs)
    actual = torch.autograd.grad((folded * weights_of_loss).sum(), inputs)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-5)


def test_folding_saves_one_feature_map_for_the_gradient() -> None:
    conv = conv_with_statistics()
    features = torch.randn(1, 4, 32, 32, requires_grad=True)
    kept: dict[int, int] = {}

    def remember(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() == 4 and tensor.shape[-1] == 32:
            kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        output = conv(features)
    # The input, for the gradient of the weights, and the output, which the next layer saves anyway.
    assert set(kept) == {features.untyped_storage().data_ptr(), output.untyped_storage().data_ptr()}


def test_state_dict_has_names_of_detectron2() -> None:
    names = list(conv_with_statistics().state_dict())
    assert names == ["weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"]
    assert list(Conv2d(4, 6, 1).state_dict()) == ["weight", "bias"]


def test_norm_is_applied_before_the_activation() -> None:
    conv = Conv2d(2, 4, 1, norm=nn.GroupNorm(1, 4), activation=relu_)
    features = torch.randn(1, 2, 5, 5)
    assert conv.norm is not None
    expected = F.relu(conv.norm(F.conv2d(features, conv.weight)))
    torch.testing.assert_close(conv(features), expected)


def test_stride_one_keeps_size_for_any_kernel_and_dilation() -> None:
    features = torch.zeros(1, 2, 9, 11)
    for kernel_size, dilation in ((1, 1), (3, 1), (3, 2), (7, 1)):
        assert Conv2d(2, 3, kernel_size, dilation=dilation)(features).shape == (1, 3, 9, 11)


def test_channels_last_format_is_preserved() -> None:
    features = torch.randn(2, 4, 9, 9).to(memory_format=torch.channels_last)
    conv = conv_with_statistics().to(memory_format=torch.channels_last)
    assert conv(features).is_contiguous(memory_format=torch.channels_last)


def test_empty_batch_gives_empty_output_and_zero_gradient() -> None:
    conv = conv_with_statistics()
    output = conv(torch.zeros(0, 4, 8, 8))
    assert output.shape == (0, 6, 8, 8)
    output.sum().backward()
    assert conv.weight.grad is not None
    assert not conv.weight.grad.any()


@pytest.mark.parametrize("channels", [3, 8, 15])
def test_weight_gradient_of_narrow_strided_1x1_convolution_is_exact(channels: int) -> None:
    """The oneDNN kernel writes past its buffer, at least in bfloat16 with two threads."""
    torch.manual_seed(0)
    pixels = torch.randn(1, channels, 16, 16).contiguous(memory_format=torch.channels_last)
    conv = Conv2d(channels, 16, 1, stride=2).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = conv(pixels)
    output.float().sum().backward()
    assert output.shape == (1, 16, 8, 8)
    expected = pixels[:, :, ::2, ::2].sum(dim=(0, 2, 3)).expand(16, channels)
    torch.testing.assert_close(conv.weight.grad[:, :, 0, 0], expected, rtol=0.05, atol=0.3)
