"""RoIAlign with max, RoIWarp and crop-and-resize against loops over their definitions."""

import math

import pytest
import torch
from torch import Tensor

from mrcnn_zoo.ops.roi_pooling import crop_and_resize, roi_align, roi_align_max, roi_warp, rounded_to_cells

# No sample is on a cell centre or on the border, where the gradient of the coordinates is not unique.
REGIONS = torch.tensor(
    [
        [0, 3.21, 2.17, 30.07, 21.13],
        [1, 0.29, 0.43, 39.61, 31.37],
        [1, 17.31, 5.93, 22.13, 31.71],
        [0, 36.07, 28.11, 40.13, 32.19],
        [0, 5.01, 5.03, 5.53, 5.57],
        [1, -13.07, -9.11, 10.13, 14.17],  # partly outside the map
        [0, 61.0, 50.0, 83.0, 70.0],  # fully outside
        [1, 9.07, 13.03, 9.07, 13.03],  # empty
        [0, 21.03, 3.07, 8.51, 18.11],  # inverted
    ]
)
IS_NONEMPTY = (REGIONS[:, 3:] != REGIONS[:, 1:3]).all(dim=1)
SCALE = 0.25
HEIGHT, WIDTH = 8, 10


@pytest.fixture
def features() -> Tensor:
    return torch.randn((2, 3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(0), requires_grad=True)


@pytest.fixture
def regions() -> Tensor:
    return REGIONS.clone().requires_grad_()


def value_in_zeros(plane: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Bilinear interpolation with zeros outside the map, as a sum over all cells."""
    rows = (1 - (torch.arange(HEIGHT) - y).abs()).clamp(min=0)
    columns = (1 - (torch.arange(WIDTH) - x).abs()).clamp(min=0)
    return (plane * rows[:, None] * columns).sum((1, 2))


def value_with_border(plane: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Bilinear interpolation; up to one cell outside the map the value at the border, farther out 0."""
    if not (-1 <= y <= HEIGHT and -1 <= x <= WIDTH):
        return torch.zeros(len(plane))
    return value_in_zeros(plane, y.clamp(0, HEIGHT - 1), x.clamp(0, WIDTH - 1))


def slow_roi_align_max(features: Tensor, regions: Tensor, side: int, sampling_ratio: int, aligned: bool) -> Tensor:
    pooled = []
    for region in regions:
        plane = features[int(region[0])]
        x1, y1, x2, y2 = region[1:] * SCALE - (0.5 if aligned else 0)
        height, width = y2 - y1, x2 - x1
        if not aligned:
            height, width = height.clamp(min=1), width.clamp(min=1)
        rows = sampling_ratio or math.ceil(height.detach() / side)
        columns = sampling_ratio or math.ceil(width.detach() / side)
        for i in range(side):
            for j in range(side):
                ys = [y1 + (i + (a + 0.5) / rows) * height / side for a in range(rows)]
                xs = [x1 + (j + (b + 0.5) / columns) * width / side for b in range(columns)]
                values = [value_with_border(plane, y, x) for y in ys for x in xs]
                pooled.append(torch.stack(values).amax(0) if values else torch.zeros(len(plane)))
    return as_maps(pooled, side)


def slow_roi_warp(features: Tensor, regions: Tensor, side: int, samples: int) -> Tensor:
    pooled = []
    points = side * samples
    for region in regions:
        plane = features[int(region[0])]
        x1, y1, x2, y2 = region[1:] * SCALE
        ys = [y1 + v / points * (y2 - y1) for v in range(points)]
        xs = [x1 + u / points * (x2 - x1) for u in range(points)]
        for i in range(0, points, samples):
            for j in range(0, points, samples):
                values = [value_in_zeros(plane, y, x) for y in ys[i : i + samples] for x in xs[j : j + samples]]
                pooled.append(torch.stack(values).amax(0))
    return as_maps(pooled, side)


def slow_crop_and_resize(features: Tensor, boxes: Tensor, side: int, outside: float) -> Tensor:
    pooled = []
    for box in boxes:
        x1, y1, x2, y2 = box[1:]
        for i in range(side):
            for j in range(side):
                y = (y1 + i * (y2 - y1) / (side - 1) if side > 1 else (y1 + y2) / 2) * (HEIGHT - 1)
                x = (x1 + j * (x2 - x1) / (side - 1) if side > 1 else (x1 + x2) / 2) * (WIDTH - 1)
                is_inside = 0 <= y <= HEIGHT - 1 and 0 <= x <= WIDTH - 1
                plane = features[int(box[0])]
                pooled.append(value_in_zeros(plane, y, x) if is_inside else torch.full((len(plane),), outside))
    return as_maps(pooled, side)


def as_maps(pooled: list[Tensor], side: int) -> Tensor:
    return torch.stack(pooled).reshape(-1, side, side, pooled[0].shape[0]).permute(0, 3, 1, 2)


def assert_equal_with_gradients(fast: Tensor, slow: Tensor, inputs: list[Tensor]) -> None:
    """Equal values, and equal gradients of every input."""
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-4)
    weights = torch.randn(fast.shape, generator=torch.Generator().manual_seed(1))
    fast_gradients = torch.autograd.grad((fast * weights).sum(), inputs)
    slow_gradients = torch.autograd.grad((slow * weights).sum(), inputs)
    for fast_gradient, slow_gradient in zip(fast_gradients, slow_gradients, strict=True):
        assert slow_gradient.any()
        if len(fast_gradient) == len(REGIONS):
            # All samples of an empty region are equal, so any of them may be the maximum.
            fast_gradient, slow_gradient = fast_gradient[IS_NONEMPTY], slow_gradient[IS_NONEMPTY]
        torch.testing.assert_close(fast_gradient, slow_gradient, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_roi_align_max_equals_definition(features: Tensor, regions: Tensor, sampling_ratio: int, aligned: bool) -> None:
    fast = roi_align_max(features, regions, 3, scale=SCALE, sampling_ratio=sampling_ratio, aligned=aligned)
    slow = slow_roi_align_max(features, regions, 3, sampling_ratio, aligned)
    assert_equal_with_gradients(fast, slow, [features, regions])


def test_maximum_equals_mean_for_one_sample_per_cell(features: Tensor) -> None:
    settings = {"scale": SCALE, "sampling_ratio": 1, "aligned": True}
    greatest = roi_align_max(features, REGIONS, 3, **settings)
    torch.testing.assert_close(greatest, roi_align(features, REGIONS, 3, **settings), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("samples", [1, 2])
def test_roi_warp_equals_definition(features: Tensor, regions: Tensor, samples: int) -> None:
    fast = roi_warp(features, regions, 3, scale=SCALE, samples=samples)
    assert_equal_with_gradients(fast, slow_roi_warp(features, regions, 3, samples), [features, regions])


@pytest.mark.parametrize("side", [1, 2, 5])
def test_crop_and_resize_equals_definition(features: Tensor, side: int) -> None:
    boxes = (REGIONS / torch.tensor([1.0, 40, 32, 40, 32])).requires_grad_()
    fast = crop_and_resize(features, boxes, side, normalizer=(1, 1), outside=0.7)
    assert_equal_with_gradients(fast, slow_crop_and_resize(features, boxes, side, 0.7), [features, boxes])


def test_crop_and_resize_equals_hand_computed_values() -> None:
    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    boxes = torch.tensor([[0.0, 0, 0, 1, 1], [0, 0, 0, 1, 0.5], [0, 1, 1, 0, 0], [0, 0.5, 0, 1.5, 1]])
    whole, upper, flipped, beyond = crop_and_resize(image, boxes, 3, normalizer=(1, 1), outside=-1)[:, 0]
    assert whole.tolist() == [[1, 1.5, 2], [2, 2.5, 3], [3, 3.5, 4]]
    assert upper.tolist() == [[1, 1.5, 2], [1.5, 2, 2.5], [2, 2.5, 3]]
    assert flipped.tolist() == [[4, 3.5, 3], [3, 2.5, 2], [2, 1.5, 1]]
    assert beyond.tolist() == [[1.5, 2, -1], [2.5, 3, -1], [3.5, 4, -1]]
    assert crop_and_resize(image, boxes[:1], 1, normalizer=(1, 1)).tolist() == [[[[2.5]]]]


def test_crop_and_resize_of_a_whole_map_includes_the_border() -> None:
    for side in range(2, 60):
        ones, last = torch.ones(1, 1, side, side), float(side * 16 - 1)
        region = torch.tensor([[0.0, 0, 0, last, last]])
        assert crop_and_resize(ones, region, 14, normalizer=(last, last)).min().item() == pytest.approx(1)


def test_rounded_to_cells_rounds_like_roi_pool() -> None:
    regions = torch.tensor([[1, 5.9, 6.0, 13.9, 14.0], [0, 8.0, 8.0, 8.0, 8.0], [0, 20.0, 3.0, 8.0, 18.0]])
    assert rounded_to_cells(regions, scale=0.25).tolist() == [[1, 1, 2, 4, 5], [0, 2, 2, 3, 3], [0, 5, 1, 6, 6]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_are_pooled_in_float32(features: Tensor, dtype: torch.dtype) -> None:
    half = features.detach().to(dtype)
    for pool in (
        lambda maps: roi_align_max(maps, REGIONS, 3, scale=SCALE, sampling_ratio=0, aligned=True),
        lambda maps: roi_warp(maps, REGIONS, 3, scale=SCALE, samples=2),
        lambda maps: crop_and_resize(maps, REGIONS, 3, normalizer=(40, 32)),
    ):
        assert torch.equal(pool(half), pool(half.float()).to(dtype))


def test_no_regions_give_empty_output_and_zero_gradient(features: Tensor) -> None:
    nothing = torch.zeros(0, 5)
    for pooled in (
        roi_align_max(features, nothing, 3, scale=SCALE, sampling_ratio=0, aligned=True),
        roi_align_max(features, nothing, 3, scale=SCALE, sampling_ratio=2, aligned=False),
        roi_warp(features, nothing, 3, scale=SCALE, samples=2),
        crop_and_resize(features, nothing, 3, normalizer=(1, 1)),
    ):
        assert pooled.shape == (0, 3, 3, 3)
        (gradient,) = torch.autograd.grad(pooled.sum(), features)
        assert not gradient.any()
    assert rounded_to_cells(nothing, scale=SCALE).shape == (0, 5)
