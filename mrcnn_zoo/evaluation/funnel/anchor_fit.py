"""How well anchors cover objects, and sizes and aspect ratios that cover them better."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.ops.anchors import cell_anchors

OBJECTS_AT_ONCE = 64  # with 268,569 anchors 70 MB of overlaps
BOXES_FITTED = 2000  # at most; more hardly change the fit
STEP = 2 ** (1 / 6)  # between two candidate sizes
SWEEPS = 4  # at most, over all sizes
CLUSTER_STEPS = 20
SAME_RATIO = 1.25  # ratios that are closer are one
LARGEST_RATIO = 8.0  # and the smallest is its inverse: longer objects are lines


def best_anchor_overlaps(boxes: Tensor, anchors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The anchor that overlaps each object most.

    Args:
        boxes: (G, 4) objects in pixels of the resized image.
        anchors: (A_i, 4) of each level.

    Returns:
        (G,) IoU, (G,) int64 level, and (G,) int64 row of the anchor within its level.
    """
    ious = torch.zeros(len(boxes), device=boxes.device)
    levels, rows = (torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device) for _ in range(2))
    for first in range(0, len(boxes), OBJECTS_AT_ONCE):
        part = slice(first, first + OBJECTS_AT_ONCE)
        for level, own in enumerate(anchors):
            if not len(own):
                continue
            best = box_ops.iou(own, boxes[part]).max(dim=0)
            is_better = best.values > ious[part]
            ious[part] = torch.where(is_better, best.values, ious[part])
            levels[part] = torch.where(is_better, level, levels[part])
            rows[part] = torch.where(is_better, best.indices, rows[part])
    return ious, levels, rows


def grid_overlaps(
    boxes: Tensor, sizes: Sequence[float], ratios: Sequence[float], *, stride: int, offset: float = 0.0
) -> Tensor:
    """The largest IoU of each object with the anchors of one level, without making all anchors.

    Of each shape the anchor nearest to the centre of the object overlaps it most. The map is taken as without end, so
    near the border of the image the IoU is that of an anchor that may be missing.

    Args:
        boxes: (G, 4) pixels of the resized image.
        sizes: of the level, square roots of the areas.
        ratios: height over width.
        stride: pixels per cell.
        offset: centre of the anchors in a cell, in strides; MODEL.ANCHOR_GENERATOR.OFFSET.

    Returns:
        (G,) float32.
    """
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    nearest = ((centers / stride - offset).round() + offset) * stride
    at_origin = boxes - nearest.repeat(1, 2)
    return box_ops.iou(at_origin, cell_anchors(sizes, ratios).to(boxes)).amax(dim=1)


def levels_overlaps(
    boxes: Tensor, sizes: Sequence[Sequence[float]], ratios: Sequence[float], *, strides: Sequence[int], offset: float
) -> Tensor:
    """The largest of `grid_overlaps` of all levels.

    Args:
        boxes: (G, 4) pixels of the resized image.
        sizes: of each level.
        ratios: of all levels.
        strides: of each level.
        offset: see `grid_overlaps`.

    Returns:
        (G,) float32.
    """
    levels = zip(sizes, strides, strict=True)
    return torch.stack([grid_overlaps(boxes, own, ratios, stride=s, offset=offset) for own, s in levels]).amax(dim=0)


@dataclass(frozen=True)
class AnchorFit:
    """Anchors fitted to objects."""

    sizes: tuple[tuple[int, ...], ...]  # of each level, square roots of the areas in pixels of the resized image
    ratios: tuple[float, ...]  # height over width, for all levels
    covered: float  # share of the objects whose best anchor reaches the IoU
    mean_iou: float  # of the best anchor of each object

    def yaml(self) -> str:
        """The keys of the config, to paste."""
        sizes = [list(level) for level in self.sizes]
        return f"MODEL:\n  ANCHOR_GENERATOR:\n    SIZES: {sizes}\n    ASPECT_RATIOS: {[list(self.ratios)]}"


def fit_anchors(
    boxes: Tensor,
    strides: Sequence[int],
    *,
    sizes_per_level: int = 1,
    num_ratios: int = 3,
    iou: float = 0.5,
    offset: float = 0.0,
) -> AnchorFit:
    """Sizes per level and aspect ratios that cover as many objects as possible.

    Ratios are the centres of clusters (k-means of the logarithm). Sizes are optimised one after the other, several
    times: each becomes the one with which the most objects are covered, and of several the one with the highest mean
    IoU; they ascend over the levels, and none is smaller than the stride of its level, where gaps between anchors would
    be.

    Args:
        boxes: (G, 4) objects in pixels of the resized image, at least one.
        strides: of each level, ascending.
        sizes_per_level: number of sizes.
        num_ratios: largest number of ratios.
        iou: that the best anchor of a covered object reaches.
        offset: MODEL.ANCHOR_GENERATOR.OFFSET.

    Raises:
        ValueError: there are no boxes.
    """
    if not len(boxes):
        raise ValueError("anchors cannot be fitted without objects")
    places = torch.linspace(0, len(boxes) - 1, min(len(boxes), BOXES_FITTED)).round().long()
    part = boxes[places].detach().cpu().float()
    sides = (part[:, 2:] - part[:, :2]).clamp(min=1.0)
    ratios = _ratios((sides[:, 1] / sides[:, 0]).numpy(), num_ratios)
    slots = [stride for stride in strides for _ in range(sizes_per_level)]
    chosen = _sizes(part, slots, ratios, iou=iou, offset=offset)
    levels = [chosen[first : first + sizes_per_level] for first in range(0, len(slots), sizes_per_level)]
    if len(levels) == 1:
        levels = [sorted({*levels[0]})]  # several levels share a head, so all have the same number of sizes
    best = levels_overlaps(part, levels, ratios, strides=strides, offset=offset)
    return AnchorFit(tuple(map(tuple, levels)), ratios, float((best >= iou).float().mean()), float(best.mean()))


def _ratios(values: NDArray[np.float32], count: int) -> tuple[float, ...]:
    """The centres of clusters of ratios, to two digits; close ones are one."""
    logs = np.log(values.clip(1 / LARGEST_RATIO, LARGEST_RATIO))
    centers = np.quantile(logs, (np.arange(count) + 0.5) / count)
    for _ in range(CLUSTER_STEPS):
        nearest = np.abs(logs[:, None] - centers).argmin(axis=1)
        centers = np.array([logs[nearest == k].mean() if (nearest == k).any() else c for k, c in enumerate(centers)])
    kept: list[float] = []
    for center in sorted(float(f"{np.exp(center):.2g}") for center in centers):
        if not kept or center / kept[-1] >= SAME_RATIO:
            kept.append(center)
    return tuple(kept)


def _sizes(boxes: Tensor, slots: Sequence[int], ratios: Sequence[float], *, iou: float, offset: float) -> list[int]:
    """A size per slot, a level with its stride; coordinate ascent from the quantiles of the objects' sizes."""
    own = box_ops.area(boxes).sqrt().clamp(min=1.0)
    low, high = float(own.min()), max(float(own.max()), 2.0 * max(slots))
    num_steps = int(np.log(high / low) / np.log(STEP)) + 2
    candidates = sorted({round(low * STEP**step) for step in range(num_steps)} | {*slots})
    overlaps = {
        stride: torch.stack([grid_overlaps(boxes, [size], ratios, stride=stride, offset=offset) for size in candidates])
        for stride in set(slots)
    }
    quantiles = own.quantile((torch.arange(len(slots)) + 0.5) / len(slots)).tolist()
    starts = np.maximum.accumulate([max(*pair) for pair in zip(quantiles, slots, strict=True)])
    chosen = [int(np.searchsorted(candidates, start).clip(max=len(candidates) - 1)) for start in starts]
    for _ in range(SWEEPS):
        before = list(chosen)
        for slot, stride in enumerate(slots):
            others = [overlaps[t][place] for n, (t, place) in enumerate(zip(slots, chosen, strict=True)) if n != slot]
            floor = torch.stack(others).amax(dim=0) if others else torch.zeros(len(boxes))
            least = max(chosen[slot - 1] if slot else 0, int(np.searchsorted(candidates, stride)))
            most = chosen[slot + 1] if slot + 1 < len(slots) else len(candidates) - 1
            best = torch.maximum(overlaps[stride][least : most + 1], floor)
            chosen[slot] = least + int(((best >= iou).float().mean(dim=1) + 0.01 * best.mean(dim=1)).argmax())
        if chosen == before:
            break
    return [candidates[place] for place in chosen]
