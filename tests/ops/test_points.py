"""Point sampling against torch's grid sampling and hand-computed values."""

import pytest
import torch
from torch.nn import functional as F

from mrcnn_zoo.ops.points import cell_centers, grid_points, most_uncertain, points_on_image, sample_at, sample_own

CPU = torch.device("cpu")


def test_grid_points_are_cell_centres_row_by_row() -> None:
    assert grid_points(2, CPU).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    assert cell_centers(torch.tensor([[0, 5], [15, 4]]), 4).tolist() == [
        [[0.125, 0.125], [0.375, 0.375]],
        [[0.875, 0.875], [0.125, 0.375]],
    ]


def test_points_on_image_scale_with_the_boxes() -> None:
    points = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5, 0.25]]).expand(2, 3, 2)
    boxes = torch.tensor([[10.0, 20, 30, 60], [0, 0, 4, 4]])
    assert points_on_image(points, boxes).tolist() == [[[10, 20], [30, 60], [20, 30]], [[0, 0], [4, 4], [2, 1]]]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_equal_grid_sample(memory_format: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn((2, 5, 7, 9), generator=generator).to(memory_format=memory_format).requires_grad_()
    points = torch.rand((6, 11, 2), generator=generator) * torch.tensor([12.0, 10.0]) - 1.5  # some are outside
    rows = torch.tensor([0, 1, 1, 0, 1, 0])
    ours = sample_at(maps, rows, points)
    grid = points / torch.tensor([9.0, 7.0]) * 2 - 1
    theirs = torch.cat(
        [F.grid_sample(maps[row : row + 1], grid[i : i + 1, None], align_corners=False) for i, row in enumerate(rows)]
    )[:, :, 0]
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn(ours.shape, generator=generator)
    (our_gradient,) = torch.autograd.grad((ours * weights).sum(), maps)
    (their_gradient,) = torch.autograd.grad((theirs * weights).sum(), maps)
    torch.testing.assert_close(our_gradient, their_gradient)


def test_sampled_values_equal_hand_computed_values() -> None:
    maps = torch.tensor([[1.0, 2], [3, 4]])[None, None]
    points = torch.tensor([[[0.5, 0.5], [1.5, 0.5], [1.0, 0.5], [1.0, 1.0], [0.0, 0.5], [2.5, 2.5]]])
    assert sample_at(maps, torch.tensor([0]), points).tolist() == [[[1, 2, 1.5, 2.5, 0.5, 0]]]


def test_sample_own_samples_one_map_per_region() -> None:
    generator = torch.Generator().manual_seed(0)
    maps, points = torch.randn((4, 3, 7, 7), generator=generator), torch.rand((4, 9, 2), generator=generator)
    expected = F.grid_sample(maps, points[:, None] * 2 - 1, align_corners=False)[:, :, 0]
    torch.testing.assert_close(sample_own(maps, points), expected)


def test_no_regions_give_empty_values_and_zero_gradient() -> None:
    maps = torch.randn(2, 5, 7, 9, requires_grad=True)
    values = sample_at(maps, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4, 2))
    assert values.shape == (0, 5, 4)
    values.sum().backward()
    assert maps.grad is not None
    assert not maps.grad.any()
    assert sample_own(torch.zeros(0, 3, 7, 7), torch.zeros(0, 4, 2)).shape == (0, 3, 4)


def test_non_finite_points_are_outside() -> None:
    points = torch.tensor([[[torch.nan, 1], [torch.inf, 1], [1, -torch.inf], [1e30, 1]]])
    assert sample_at(torch.ones(1, 2, 3, 3), torch.tensor([0]), points).tolist() == [[[0.0] * 4] * 2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps_keep_dtype_and_exact_positions(dtype: torch.dtype) -> None:
    # Half-precision coordinates have a spacing of a cell or more at 1999.5.
    maps = torch.zeros(1, 1, 1, 2001, dtype=dtype)
    maps[..., 1999] = 1
    values = sample_at(maps, torch.tensor([0]), torch.tensor([[[1999.5, 0.5], [2000.0, 0.5]]]))
    assert values.dtype == dtype
    assert values.tolist() == [[[1.0, 0.5]]]


def test_most_uncertain_selects_logits_nearest_to_zero() -> None:
    logits = torch.tensor([[3.0, -0.1, 0.2, -5.0], [0.0, 9.0, -8.0, 7.0]])
    assert most_uncertain(logits, 2).tolist() == [[1, 2], [0, 3]]
    assert sorted(most_uncertain(logits, 9)[0].tolist()) == [0, 1, 2, 3]
    assert most_uncertain(torch.zeros(0, 4), 3).shape == (0, 3)
