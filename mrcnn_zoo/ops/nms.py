"""Greedy non-maximum suppression."""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from mrcnn_zoo.ops.rows import image_numbers

# One call compares boxes of different groups, too. Above this number, several calls for parts of the groups are faster
# on the CPU, as measured; on a GPU the bit matrix of all pairs takes 78 MB at 25,000 boxes.
MAX_BOXES_PER_CALL = {"cpu": 1000}
MAX_BOXES_PER_GPU_CALL = 25_000
# Largest offset of a group in pixels. Below it, float64 represents the sum of offset and float32 coordinate exactly for
# coordinates from 0.25 on, and to 1e-8 pixels for smaller ones.
MAX_OFFSET = 2.0**27


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, *, iou_threshold: float) -> Tensor:
    """Greedy NMS within each group.

    Equal to `torchvision.ops.nms` in float32 on each group. Several groups in one call are compared in float64, which
    can differ only if an IoU of fractional coordinates is within 1e-7 of the threshold. Not
    `torchvision.ops.batched_nms`: its offsets are in float32, which costs precision of the coordinates, and assume
    coordinates of at least 0.

    Args:
        boxes: (R, 4) pixels, finite.
        scores: (R,).
        groups: (R,) integers, e.g. classes or pyramid levels; boxes suppress boxes of their own group only.
        iou_threshold: in [0, 1].

    Returns:
        (at most R,) int64 rows of the kept boxes, best first.
    """
    # In float32 even under AMP: in half precision, coordinates of large images are rounded to several pixels.
    boxes, scores = boxes.float(), scores.float()
    if len(boxes) == 0:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    limit = MAX_BOXES_PER_CALL.get(boxes.device.type, MAX_BOXES_PER_GPU_CALL)
    low, high, first, last = _extremes(boxes, groups)
    extent = high - low + 1
    if first == last or (len(boxes) <= limit and extent * (last - first + 1) <= MAX_OFFSET):
        offsets = None if first == last else (groups.double() - first) * extent - low
        return _nms(boxes, scores, offsets, iou_threshold)
    order = groups.argsort(stable=True)
    counts = groups[order].unique_consecutive(return_counts=True)[1]
    numbers = torch.arange(len(counts), device=boxes.device).repeat_interleave(counts)
    is_kept = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    most_groups = int(MAX_OFFSET / extent) if math.isfinite(extent) else 0
    for start, stop, is_one_group in _parts(counts.tolist(), min(limit // 2, most_groups)):
        rows = order[start:stop]
        offsets = None if is_one_group else (numbers[start:stop] - numbers[start]).double() * extent - low
        is_kept[rows[_nms(boxes[rows], scores[rows], offsets, iou_threshold)]] = True
    kept = is_kept.nonzero().flatten()
    # Not stable, as torchvision's sort of this many boxes: recorded results have many scores of exactly 1.
    return kept[scores[kept].sort(descending=True).indices]


def nms_of_images(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    *,
    counts: Sequence[int],
    iou_threshold: float,
    num_groups: int | None = None,
    bounds: tuple[float, float] | None = None,
) -> Tensor:
    """`batched_nms` of each image; on an accelerator in few calls for all images, often one.

    Args:
        boxes: (R, 4) pixels, finite, image by image.
        scores: (R,).
        groups: (R,) integers; at least 0 if `num_groups` is given.
        counts: boxes of each image.
        iou_threshold: in [0, 1].
        num_groups: larger than all groups. If None, or without bounds, they are computed with a host synchronisation.
        bounds: lower and upper bound of the coordinates.

    Returns:
        (at most R,) int64 rows of the kept boxes, image by image and best first in each.
    """
    if boxes.device.type == "cpu" or len(boxes) == 0:
        return _nms_image_by_image(boxes, scores, groups, counts, iou_threshold)
    boxes, scores = boxes.float(), scores.float()
    if num_groups is None or bounds is None:
        low, high, first_group, last_group = _extremes(boxes, groups)
        groups, num_groups, bounds = groups - int(first_group), int(last_group - first_group) + 1, (low, high)
    extent = bounds[1] - bounds[0] + 1
    most_images = int(MAX_OFFSET / extent / num_groups) if math.isfinite(extent) else 0
    if most_images == 0:
        return _nms_image_by_image(boxes, scores, groups, counts, iou_threshold)
    images = image_numbers(counts, boxes.device)
    offsets = (images % most_images * num_groups + groups).double() * extent - bounds[0]
    kept, first = [], 0
    for number in range(0, len(counts), most_images):
        chunk = counts[number : number + most_images]
        for start, stop, _ in _parts(chunk, MAX_BOXES_PER_GPU_CALL):
            rows = slice(first + start, first + stop)
            if stop - start > MAX_BOXES_PER_GPU_CALL:  # of one image
                part = batched_nms(boxes[rows], scores[rows], groups[rows], iou_threshold=iou_threshold)
            else:
                part = _nms(boxes[rows], scores[rows], offsets[rows], iou_threshold)
                part = part[images[rows][part].argsort(stable=True)]
            kept.append(part + rows.start)
        first += sum(chunk)
    return torch.cat(kept)


def kept_by_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, is_usable: Tensor, *, iou_threshold: float, num_groups: int
) -> Tensor:
    """Greedy NMS of the usable boxes within each group as a mask, whose shape does not depend on the values.

    For exported programs; equal to `batched_nms`, without its parts for many boxes.

    Args:
        boxes: (R, 4) pixels; those that are not usable may have any value.
        scores: (R,).
        groups: (R,) integers in [0, num_groups).
        is_usable: (R,) bool.
        iou_threshold: in [0, 1].
        num_groups: with 1, `groups` is not used.

    Returns:
        (R,) bool.
    """
    rows = is_usable.nonzero().squeeze(1)
    offsets = None
    if num_groups > 1:
        limit = boxes.abs().masked_fill(~is_usable[:, None], 0).amax()
        offsets = groups[rows].double() * (2 * limit.double() + 1)
    kept = _nms(boxes[rows].float(), scores[rows].float(), offsets, iou_threshold)
    return torch.zeros_like(is_usable).index_fill(0, rows[kept], True)


def _nms_image_by_image(
    boxes: Tensor, scores: Tensor, groups: Tensor, counts: Sequence[int], iou_threshold: float
) -> Tensor:
    kept, first = [torch.zeros(0, dtype=torch.int64, device=boxes.device)], 0
    for count in counts:
        image = slice(first, first + count)
        kept.append(batched_nms(boxes[image], scores[image], groups[image], iou_threshold=iou_threshold) + first)
        first += count
    return torch.cat(kept)


def _extremes(boxes: Tensor, groups: Tensor) -> tuple[float, float, float, float]:
    """The smallest and largest coordinate and group, in one copy to the host."""
    values = torch.stack([value.double() for value in (*boxes.aminmax(), *groups.aminmax())])
    low, high, first, last = values.tolist()
    return low, high, first, last


def _parts(counts: Sequence[int], limit: int) -> Iterator[tuple[int, int, bool]]:
    """Joins consecutive groups up to `limit` rows: (first row, row after the last, whether it is one group)."""
    start = stop = joined = 0
    for count in counts:
        if joined and stop - start + count > limit:
            yield start, stop, joined == 1
            start, joined = stop, 0
        stop, joined = stop + count, joined + 1
    yield start, stop, joined == 1


def _nms(boxes: Tensor, scores: Tensor, offsets: Tensor | None, iou_threshold: float) -> Tensor:
    """One call for one group, without offsets, or for several groups with (R,) offsets, in float64."""
    from torchvision.ops import nms

    if offsets is None:
        return nms(boxes, scores, iou_threshold)
    moved = boxes.double() + offsets[:, None]
    return nms(moved, scores.double(), _threshold_in_float64(iou_threshold, boxes.device.type))


@lru_cache(maxsize=64)
def _threshold_in_float64(iou_threshold: float, device_type: str) -> float:
    """The float64 threshold that an IoU exceeds if and only if its float32 value exceeds `iou_threshold`.

    For example, 6 / 10 rounds to a float32 above 0.6, so float32 suppresses at this tie and float64 would not.
    torchvision compares with a float64 threshold on the CPU and a float32 threshold on a GPU.
    """
    rounded = np.float32(iou_threshold)
    above = np.nextafter(rounded, np.float32(np.inf))
    if device_type != "cpu":
        return float(above)
    if float(rounded) > iou_threshold:
        above = rounded
    below = np.nextafter(above, np.float32(-np.inf))
    return (float(above) + float(below)) / 2
