"""The registered operations on maps with coordinates as values."""

import pytest
import torch
from torch import Tensor

from mrcnn_zoo.registries import POOLING_OPERATIONS


def ramp(*, cells: int = 10, stride: int = 4) -> Tensor:
    """A map with the x coordinate of each cell centre in image pixels as value."""
    return ((torch.arange(float(cells)) + 0.5) * stride).expand(1, 1, cells, cells)


def pooled_row(name: str, region: list[float], *, side: int, sampling_ratio: int) -> list[float]:
    operation = POOLING_OPERATIONS.get(name)(side, 0.25, sampling_ratio)
    return operation(ramp(), torch.tensor([[0.0, *region]]))[0, 0, 0].tolist()


def test_maximum_sample_of_a_ramp_is_the_last() -> None:
    # Cells of 8 pixels, in each of them samples at 2 and 6; V1 is half a feature cell of 4 pixels off.
    region = [8.0, 8.0, 24.0, 24.0]
    assert pooled_row("ROIAlignV2Max", region, side=2, sampling_ratio=2) == [14, 22]
    assert pooled_row("ROIAlignMax", region, side=2, sampling_ratio=2) == [16, 24]
    assert pooled_row("ROIAlignV2", region, side=2, sampling_ratio=2) == [12, 20]


def test_rounded_warp_samples_whole_cells() -> None:
    # 9 / 4 and 22 / 4 are rounded to the cells 2 to 6, which are the pixels 8 to 28: two pooled cells of 10 pixels.
    region = [9.0, 9.0, 22.0, 22.0]
    assert pooled_row("ROIWarpRounded", region, side=2, sampling_ratio=2) == [13, 23]
    assert pooled_row("ROIWarpRoundedMax", region, side=2, sampling_ratio=2) == [15.5, 25.5]


def test_warp_begins_on_the_border_of_the_region() -> None:
    # Cells 2.5 to 4.5 in steps of half a cell: 2.5, 3, 3.5, 4; cell i holds 4 i + 2.
    region = [10.0, 10.0, 18.0, 18.0]
    assert pooled_row("ROIWarp", region, side=2, sampling_ratio=2) == [14, 18]
    assert pooled_row("ROIWarp", region, side=2, sampling_ratio=1) == [12, 16]


def test_warp_has_two_samples_for_sampling_ratio_zero() -> None:
    region = [3.0, 7.0, 31.0, 22.0]
    assert pooled_row("ROIWarp", region, side=3, sampling_ratio=0) == pooled_row(
        "ROIWarp", region, side=3, sampling_ratio=2
    )


def test_warp_has_a_gradient_for_the_region() -> None:
    region = torch.tensor([[0.0, 10.0, 10.0, 18.0, 18.0]], requires_grad=True)
    POOLING_OPERATIONS.get("ROIWarp")(2, 0.25, 2)(ramp(), region + 0.01).mean().backward()
    # The last of two samples per cell is the maximum, at 1 / 4 and 3 / 4 of the width: half way on average.
    assert region.grad is not None
    assert region.grad[0].tolist() == pytest.approx([0, 0.5, 0, 0.5, 0], abs=1e-5)


def test_crop_and_resize_maps_border_pixels_to_border_cells() -> None:
    # The image has 40 pixels. Its first and last one are the centres of cells 0 and 9, which hold 2 and 38.
    assert pooled_row("CropAndResize", [0.0, 0.0, 40.0, 40.0], side=3, sampling_ratio=0) == [2, 20, 38]
    # Pixels 13 and 26 of 0 to 39 are thirds of the way: cells 3 and 6.
    assert pooled_row("CropAndResize", [13.0, 13.0, 27.0, 27.0], side=2, sampling_ratio=0) == pytest.approx([14, 26])


def test_crop_and_resize_is_zero_outside_the_image() -> None:
    assert pooled_row("CropAndResize", [20.0, 0.0, 60.0, 40.0], side=3, sampling_ratio=0)[-1] == 0
