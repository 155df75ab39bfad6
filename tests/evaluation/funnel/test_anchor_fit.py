"""Anchors that cover objects, and sizes and ratios fitted to them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from mrcnn_zoo.config import load_config
from mrcnn_zoo.evaluation.funnel.anchor_fit import best_anchor_overlaps, fit_anchors, grid_overlaps, levels_overlaps
from mrcnn_zoo.ops.anchors import cell_anchors, grid_anchors

STRIDES = (4, 8, 16, 32, 64)
DEFAULT_SIZES, DEFAULT_RATIOS = [[32], [64], [128], [256], [512]], [0.5, 1.0, 2.0]


def objects(widths: Tensor, heights: Tensor, *, seed: int = 0) -> Tensor:
    corners = 100 + 200 * torch.rand(len(widths), 2, generator=torch.Generator().manual_seed(seed))
    return torch.cat((corners, corners + torch.stack((widths, heights), dim=1)), dim=1)


def uniform(low: float, high: float, count: int = 100) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=torch.Generator().manual_seed(1))


def grid(sizes: list[float], stride: int, *, offset: float) -> Tensor:
    return grid_anchors(cell_anchors(sizes, DEFAULT_RATIOS), (448 // stride,) * 2, stride=stride, offset=offset)


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_overlaps_without_all_anchors_are_those_of_all_anchors(offset: float) -> None:
    boxes = objects(uniform(10, 120, 40), uniform(10, 120, 40).flip(0))
    anchors = [grid(sizes, stride, offset=offset) for sizes, stride in zip(DEFAULT_SIZES, STRIDES, strict=True)]
    by_brute_force = torch.stack([box_iou(level, boxes).amax(dim=0) for level in anchors])
    ious, levels, rows = best_anchor_overlaps(boxes, anchors)
    torch.testing.assert_close(ious, by_brute_force.amax(dim=0))
    assert torch.equal(levels, by_brute_force.argmax(dim=0))
    best = torch.stack([anchors[level][row] for level, row in zip(levels.tolist(), rows.tolist(), strict=True)])
    torch.testing.assert_close(box_iou(best, boxes).diagonal(), ious)
    for level, (sizes, stride) in enumerate(zip(DEFAULT_SIZES, STRIDES, strict=True)):
        own = grid_overlaps(boxes, sizes, DEFAULT_RATIOS, stride=stride, offset=offset)
        torch.testing.assert_close(own, by_brute_force[level])


def test_narrow_objects_get_their_ratio() -> None:
    boxes = objects(uniform(11, 13), torch.full((100,), 60.0))
    default = levels_overlaps(boxes, DEFAULT_SIZES, DEFAULT_RATIOS, strides=STRIDES, offset=0.0)
    assert not (default >= 0.5).any()
    fit = fit_anchors(boxes, STRIDES)
    assert all(4.5 < ratio < 5.6 for ratio in fit.ratios)
    assert fit.covered == 1.0
    own = levels_overlaps(boxes, fit.sizes, fit.ratios, strides=STRIDES, offset=0.0)
    assert (fit.covered, fit.mean_iou) == pytest.approx((float((own >= 0.5).float().mean()), float(own.mean())))


def test_sizes_ascend_from_the_stride_and_cover_more() -> None:
    boxes = objects(torch.exp(uniform(2.5, 5.5)), torch.exp(uniform(2.5, 5.5).flip(0)))
    fit = fit_anchors(boxes, STRIDES)
    sizes = [size for (size,) in fit.sizes]
    assert sizes == sorted(sizes)
    assert all(size >= stride for size, stride in zip(sizes, STRIDES, strict=True))
    default = levels_overlaps(boxes, DEFAULT_SIZES, DEFAULT_RATIOS, strides=STRIDES, offset=0.0)
    assert fit.covered > float((default >= 0.5).float().mean()) + 0.05


def test_one_level_has_several_sizes_without_repeats() -> None:
    fit = fit_anchors(objects(uniform(40, 42), uniform(40, 42)), [16], sizes_per_level=3)
    assert fit.covered == 1.0
    ((*sizes,),) = fit.sizes
    assert sizes == sorted({*sizes})


def test_yaml_is_a_config(tmp_path: Path) -> None:
    fit = fit_anchors(objects(uniform(20, 80), uniform(20, 80)), STRIDES)
    (tmp_path / "anchors.yaml").write_text(fit.yaml())
    anchors = load_config(str(tmp_path / "anchors.yaml")).MODEL.ANCHOR_GENERATOR
    assert [list(level) for level in fit.sizes] == anchors.SIZES
    assert [list(fit.ratios)] == anchors.ASPECT_RATIOS


def test_no_objects() -> None:
    ious, levels, rows = best_anchor_overlaps(torch.zeros(0, 4), [torch.zeros(3, 4)])
    assert (len(ious), len(levels), len(rows)) == (0, 0, 0)
    with pytest.raises(ValueError, match="without objects"):
        fit_anchors(torch.zeros(0, 4), STRIDES)
