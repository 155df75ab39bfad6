"""The separable backward of RoIAlign against torchvision's."""

import pytest
import torch
import torchvision
from torch import Tensor

from mrcnn_zoo.ops.roi_align import SeparableRoIAlign

SHAPE = (2, 5, 13, 17)
SCALE = 0.25


def random_regions(count: int) -> Tensor:
    """Boxes of many sizes: some across the border, fully outside, empty or inverted."""
    generator = torch.Generator().manual_seed(1)
    size = torch.tensor([SHAPE[3], SHAPE[2]]) / SCALE
    centres = (torch.rand(count, 2, generator=generator) * 1.6 - 0.3) * size
    halves = torch.rand(count, 2, generator=generator) ** 2 * size * 0.6 - 1.0
    images = torch.randint(0, 2, (count, 1), generator=generator).float()
    return torch.cat((images, centres - halves, centres + halves), dim=1)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
@pytest.mark.parametrize("side", [1, 7])
def test_separable_gradient_agrees_with_torchvision(side: int, sampling_ratio: int, aligned: bool) -> None:
    features = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float32, requires_grad=True)
    regions = random_regions(300)
    settings = (side, SCALE, sampling_ratio, aligned)
    expected = torchvision.ops.roi_align(features, regions, *settings)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), features)
    pooled = SeparableRoIAlign.apply(features, regions, *settings)
    (gradient,) = torch.autograd.grad((pooled * weights).sum(), features)
    assert torch.equal(pooled, expected)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-4)


def test_no_regions_give_zero_gradient() -> None:
    features = torch.randn(SHAPE, requires_grad=True)
    pooled = SeparableRoIAlign.apply(features, torch.zeros(0, 5), 7, SCALE, 2, True)
    (gradient,) = torch.autograd.grad(pooled.sum(), features)
    assert gradient.shape == SHAPE
    assert not gradient.any()


def test_region_on_one_cell_has_its_gradient_in_that_cell() -> None:
    features = torch.zeros((1, 1, 4, 4), requires_grad=True)
    pooled = SeparableRoIAlign.apply(features, torch.tensor([[0.0, 4.0, 8.0, 8.0, 12.0]]), 1, SCALE, 1, True)
    (gradient,) = torch.autograd.grad(pooled.sum(), features)
    assert gradient[0, 0, 2, 1] == 1
    assert gradient.sum() == 1
