"""Winograd's 3 x 3 convolution against torch's in double precision."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from mrcnn_zoo.inference.fused_layers import FusedConv2d
from mrcnn_zoo.layers import Conv2d, FrozenBatchNorm2d, relu_
from mrcnn_zoo.ops import winograd

SHAPES = {
    "tiles cut at two sides": (2, 5, 3, 9, 14),  # images, channels, outputs, height, width
    "rows in several blocks": (1, 3, 4, 64, 90),
    "images in several blocks": (15, 4, 4, 14, 13),
    "smaller than a tile": (3, 2, 2, 1, 2),
    "whole tiles": (1, 4, 6, 8, 12),
}


def inputs_of(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    images, channels, outputs, height, width = shape
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(images, channels, height, width, generator=generator)
    weight = torch.randn(outputs, channels, 3, 3, generator=generator) / (9 * channels) ** 0.5
    return features, weight, torch.randn(outputs, generator=generator)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_result_and_gradients_are_those_of_the_plain_sum(shape: tuple[int, ...]) -> None:
    inputs = [tensor.requires_grad_() for tensor in inputs_of(shape)]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    result, expected = winograd.convolve(*inputs), F.conv2d(*exact, padding=1)
    torch.testing.assert_close(result.double(), expected, atol=2e-5, rtol=0)
    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(result, inputs, gradient)
    expected_gradients = torch.autograd.grad(expected, exact, gradient.double())
    for actual, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(actual.double(), wanted, atol=2e-5 * float(wanted.std()), rtol=1e-5)


def test_inputs_without_gradient_and_bias() -> None:
    features, weight, _ = inputs_of((1, 3, 4, 9, 9))
    weight.requires_grad_()
    winograd.convolve(features, weight).sum().backward()
    expected = torch.autograd.grad(F.conv2d(features, weight, padding=1).sum(), weight)[0]
    torch.testing.assert_close(weight.grad, expected, atol=1e-4, rtol=1e-5)
    assert features.grad is None


def test_only_large_float32_maps_on_the_cpu() -> None:
    features, weight = torch.empty(2, 256, 64, 64), torch.empty(256, 256, 3, 3)
    assert winograd.is_faster(features, weight)
    assert not winograd.is_faster(features[:1], weight)
    assert not winograd.is_faster(features[:, :64], weight[:, :64])
    assert not winograd.is_faster(torch.empty(50, 256, 14, 14), weight)
    assert not winograd.is_faster(features, weight[..., :1, :1])
    assert not winograd.is_faster(features.bfloat16(), weight.bfloat16())
    assert not winograd.is_faster(features.to("meta"), weight.to("meta"))
    with FakeTensorMode():
        assert Conv2d(256, 256, 3)(torch.empty(2, 256, 64, 64)).shape == features.shape
    with torch.autocast("cpu", torch.bfloat16):
        assert not winograd.is_faster(features, weight)


@pytest.mark.parametrize("build", [lambda layer: layer, FusedConv2d], ids=["plain", "fused"])
@pytest.mark.parametrize("settings", [{}, {"stride": 2}, {"dilation": 2}, {"groups": 2}], ids=str)
def test_layers_of_large_maps_are_equal_up_to_rounding(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, int], build: Callable[[Conv2d], nn.Module]
) -> None:
    torch.manual_seed(0)
    norm = FrozenBatchNorm2d(6)
    norm.running_mean.normal_()
    layer = Conv2d(4, 6, 3, norm=norm if not settings else None, activation=relu_, **settings)
    maps = [torch.randn(2, 4, 13, 10), torch.randn(1, 4, 9, 16)]
    expected = [layer(features) for features in maps]
    for limit in ("LEAST_CHANNELS", "LEAST_CELLS", "LEAST_SIDE"):
        monkeypatch.setattr(winograd, limit, 1)
    calls = []
    for name in ("convolve", "convolve_with_transformed"):
        plain = getattr(winograd, name)
        monkeypatch.setattr(winograd, name, lambda *inputs, plain=plain: calls.append(1) or plain(*inputs))
    tested = build(layer)
    for features, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(tested(features), wanted, atol=1e-5, rtol=1e-5)
    assert len(calls) == (0 if settings else len(maps))
