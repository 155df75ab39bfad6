"""RoIAlign and RoIPool against loops over their definitions."""

import math

import pytest
import torch
import torchvision
from torch import Tensor

from mrcnn_zoo.ops.roi_pooling import roi_align, roi_pool, with_image_rows

REGIONS = torch.tensor(
    [
        [0, 3.0, 2.0, 30.0, 21.0],
        [1, 0.0, 0.0, 40.0, 32.0],
        [1, 17.3, 5.9, 22.1, 31.7],
        [0, 36.0, 28.0, 40.0, 32.0],
        [0, 5.0, 5.0, 5.5, 5.5],
        [1, -13.0, -9.0, 10.0, 14.0],  # partly outside the map
        [0, 61.0, 50.0, 83.0, 70.0],  # fully outside
        [1, 9.0, 13.0, 9.0, 13.0],  # empty
    ]
)
SCALE = 0.25


@pytest.fixture
def features() -> Tensor:
    return torch.randn((2, 3, 8, 10), generator=torch.Generator().manual_seed(0), dtype=torch.float32)


def bilinear(plane: Tensor, y: float, x: float) -> Tensor:
    """Bilinear interpolation; up to one cell outside the map the value at the border, farther out 0."""
    height, width = plane.shape[-2:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return torch.zeros(plane.shape[0])
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    fy, fx = y - y0, x - x0
    top = plane[:, y0, x0] * (1 - fx) + plane[:, y0, x1] * fx
    bottom = plane[:, y1, x0] * (1 - fx) + plane[:, y1, x1] * fx
    return top * (1 - fy) + bottom * fy


def slow_roi_align(features: Tensor, regions: Tensor, side: int, sampling_ratio: int, aligned: bool) -> Tensor:
    shift = 0.5 if aligned else 0.0
    result = []
    for image, *box in regions.tolist():
        x0, y0, x1, y1 = (value * SCALE - shift for value in box)
        height, width = y1 - y0, x1 - x0
        if not aligned:
            height, width = max(height, 1.0), max(width, 1.0)
        rows = sampling_ratio or math.ceil(height / side)
        columns = sampling_ratio or math.ceil(width / side)
        for i in range(side):
            for j in range(side):
                ys = [y0 + (i + (a + 0.5) / rows) * height / side for a in range(rows)]
                xs = [x0 + (j + (b + 0.5) / columns) * width / side for b in range(columns)]
                samples = [bilinear(features[int(image)], y, x) for y in ys for x in xs]
                result.append(torch.stack(samples).mean(0) if samples else torch.zeros(features.shape[1]))
    return torch.stack(result).reshape(len(regions), side, side, -1).permute(0, 3, 1, 2)


def slow_roi_pool(features: Tensor, regions: Tensor, side: int) -> Tensor:
    result = []
    height, width = features.shape[-2:]
    for image, *box in regions.tolist():
        x0, y0, x1, y1 = (math.floor(value * SCALE + 0.5) for value in box)  # rounded
        cell_height, cell_width = max(y1 - y0 + 1, 1) / side, max(x1 - x0 + 1, 1) / side
        for i in range(side):
            for j in range(side):
                top, bottom = y0 + math.floor(i * cell_height), y0 + math.ceil((i + 1) * cell_height)
                left, right = x0 + math.floor(j * cell_width), x0 + math.ceil((j + 1) * cell_width)
                cell = features[int(image), :, max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
                result.append(cell.amax((1, 2)) if cell.numel() else torch.zeros(features.shape[1]))
    return torch.stack(result).reshape(len(regions), side, side, -1).permute(0, 3, 1, 2)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_roi_align_equals_definition(features: Tensor, aligned: bool, sampling_ratio: int) -> None:
    features.requires_grad_()
    fast = roi_align(features, REGIONS, 3, scale=SCALE, sampling_ratio=sampling_ratio, aligned=aligned)
    slow = slow_roi_align(features, REGIONS, 3, sampling_ratio, aligned)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-4)
    weights = torch.randn(fast.shape, generator=torch.Generator().manual_seed(1))
    (fast_gradient,) = torch.autograd.grad((fast * weights).sum(), features)
    (slow_gradient,) = torch.autograd.grad((slow * weights).sum(), features)
    torch.testing.assert_close(fast_gradient, slow_gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_roi_align_of_channels_last_maps_equals_torchvision(
    features: Tensor, aligned: bool, sampling_ratio: int
) -> None:
    by_rows = features.to(memory_format=torch.channels_last)
    width, height = features.shape[3] / SCALE, features.shape[2] / SCALE
    corners = torch.rand(60, 2, 2, generator=torch.Generator().manual_seed(0)) * 1.5 - 0.25
    boxes = torch.cat((corners.amin(1), corners.amax(1)), dim=1) * torch.tensor([width, height, width, height])
    regions = torch.cat((REGIONS, torch.cat((torch.arange(60.0)[:, None] % len(features), boxes), dim=1)))
    pooled = roi_align(by_rows, regions, 3, scale=SCALE, sampling_ratio=sampling_ratio, aligned=aligned)
    assert pooled.is_contiguous(memory_format=torch.channels_last)
    expected = torchvision.ops.roi_align(features, regions, 3, SCALE, sampling_ratio, aligned)
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_roi_align_of_half_precision_rows_is_exact_to_their_rounding(features: Tensor, dtype: torch.dtype) -> None:
    by_rows = features.to(dtype).to(memory_format=torch.channels_last)
    pooled = roi_align(by_rows, REGIONS, 3, scale=SCALE, sampling_ratio=2, aligned=True)
    assert pooled.dtype == dtype
    expected = torchvision.ops.roi_align(by_rows.float(), REGIONS, 3, SCALE, 2, True)
    rounding = 3 * torch.finfo(dtype).eps * features.abs().max()
    torch.testing.assert_close(pooled.float(), expected, atol=float(rounding), rtol=0)


def test_roi_pool_equals_definition(features: Tensor) -> None:
    features.requires_grad_()
    fast = roi_pool(features, REGIONS, 3, scale=SCALE)
    slow = slow_roi_pool(features, REGIONS, 3)
    torch.testing.assert_close(fast, slow)
    weights = torch.randn(fast.shape, generator=torch.Generator().manual_seed(1))
    (fast_gradient,) = torch.autograd.grad((fast * weights).sum(), features)
    (slow_gradient,) = torch.autograd.grad((slow * weights).sum(), features)
    torch.testing.assert_close(fast_gradient, slow_gradient)


def test_aligned_roi_align_of_ramp_gives_cell_centres() -> None:
    # The value of a cell is its centre in image pixels, so that pooled values are the centres of the pooled cells.
    ramp = ((torch.arange(10.0) + 0.5) / SCALE).expand(1, 1, 8, 10)
    region = torch.tensor([[0, 8.0, 8.0, 32.0, 24.0]])
    pooled = roi_align(ramp, region, 3, scale=SCALE, sampling_ratio=0, aligned=True)
    assert pooled[0, 0, 0].tolist() == [12.0, 20.0, 28.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_are_pooled_in_float32(features: Tensor, dtype: torch.dtype) -> None:
    features = features.to(dtype)
    aligned = roi_align(features, REGIONS, 3, scale=SCALE, sampling_ratio=0, aligned=True)
    assert aligned.dtype == dtype
    exact = roi_align(features.float(), REGIONS, 3, scale=SCALE, sampling_ratio=0, aligned=True)
    assert torch.equal(aligned, exact.to(dtype))
    assert torch.equal(roi_pool(features, REGIONS, 3, scale=SCALE), roi_pool(features.float(), REGIONS, 3, scale=SCALE))


def test_no_regions_give_empty_output_and_zero_gradient(features: Tensor) -> None:
    features.requires_grad_()
    for pooled in (
        roi_align(features, torch.zeros(0, 5), 3, scale=SCALE, sampling_ratio=0, aligned=True),
        roi_pool(features, torch.zeros(0, 5), 3, scale=SCALE),
    ):
        assert pooled.shape == (0, 3, 3, 3)
        (gradient,) = torch.autograd.grad(pooled.sum(), features)
        assert not gradient.any()


def test_with_image_rows_prepends_the_image_number() -> None:
    regions = with_image_rows([torch.ones(2, 4), torch.zeros(0, 4), torch.full((1, 4), 7.0)])
    assert regions.tolist() == [[0, 1, 1, 1, 1], [0, 1, 1, 1, 1], [2, 7, 7, 7, 7]]
    assert with_image_rows([torch.zeros(0, 4)]).shape == (0, 5)
