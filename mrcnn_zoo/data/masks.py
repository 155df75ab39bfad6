"""Annotated masks as run lengths, and polygons of any extent in bounded memory.

pycocotools walks along an outline in steps of a fifth of a pixel and stores every step: a corner 2e8 pixels away takes
16 GB. The mask depends only on the rows where the outline crosses the centre lines of the image's columns, at most as
many per edge as there are columns. Rounding follows pycocotools, so the masks are equal to the pixel.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.records import InstanceRecord, Polygons
from mrcnn_zoo.ops import rle
from mrcnn_zoo.ops.rle import Rle
from mrcnn_zoo.structures import ImageSize

STEPS_PER_PIXEL = 5  # of pycocotools
CENTER_STEP = 2  # the step before the one that crosses the centre of a pixel
BYTES_PER_STEP = 16  # that pycocotools allocates: four integers
MIN_BYTES = 1 << 20
BYTES_PER_PIXEL = 3
MAX_COORDINATE = 4e8  # pixels; beyond, the 32-bit integers of pycocotools overflow
MAX_CROSSINGS = 1 << 16  # computed at a time

Integers = NDArray[np.int64]
Points = NDArray[np.float64]


def segmentation_rle(segmentation: Polygons | Rle, image_size: ImageSize) -> Rle:
    """A segmentation in COCO's compressed form.

    Args:
        segmentation: polygons near the image, or an encoding in any form.
        image_size: (height, width) of the image.
    """
    if isinstance(segmentation, dict):
        return rle.compress(segmentation)
    return rle.encode_polygons([list(polygon) for polygon in segmentation], image_size)


def instance_area(instance: InstanceRecord, image_size: ImageSize) -> float:
    """The area of the annotation in square pixels; where it has none, that of its mask, or else of its box.

    Args:
        instance: the annotation.
        image_size: (height, width) of the image.
    """
    if instance.area is not None:
        return instance.area
    if instance.segmentation is not None:
        return float(rle.area(segmentation_rle(instance.segmentation, image_size)))
    x1, y1, x2, y2 = instance.box
    return (x2 - x1) * (y2 - y1)


def num_outline_steps(polygon: Points) -> float:
    """The number of steps that pycocotools takes along a polygon.

    Args:
        polygon: (N, 2) x, y in pixels.
    """
    lengths = np.abs(polygon - np.roll(polygon, -1, axis=0)).max(axis=1)
    return float(STEPS_PER_PIXEL * lengths.sum()) + len(polygon)


def max_outline_steps(image_size: ImageSize) -> float:
    """The number of steps that takes as much memory as an image of (height, width), at least a megabyte."""
    return max(MIN_BYTES, BYTES_PER_PIXEL * image_size[0] * image_size[1]) / BYTES_PER_STEP


def encode_clipped_polygons(polygons: Sequence[Points], image_size: ImageSize) -> Rle:
    """The union of polygons inside the image, equal to that of pycocotools, in COCO's compressed form.

    Args:
        polygons: each (N, 2) x, y in pixels of the image, finite, of any extent.
        image_size: (height, width) of the image.
    """
    return rle.merge(rle.encode_runs([_run_lengths(polygon, image_size) for polygon in polygons], image_size))


def _run_lengths(polygon: Points, image_size: ImageSize) -> Integers:
    """Lengths of the runs of 0, 1, 0, ... down the columns."""
    height, width = image_size
    toggles = np.zeros(0, dtype=np.int64)  # pixels numbered down the columns; from each one on, the value is inverted
    for crossings in _crossings(_corner_steps(polygon, image_size), image_size):
        positions, counts = np.unique(np.concatenate([toggles, crossings]), return_counts=True)
        toggles = positions[counts % 2 == 1]
    return np.diff(toggles[toggles < height * width], prepend=0, append=height * width)


def _corner_steps(polygon: Points, image_size: ImageSize) -> Integers:
    """(N, 2) corners in steps. Corners too far for pycocotools move nearer to the image in the same direction."""
    center = np.array([image_size[1] / 2, image_size[0] / 2])
    with np.errstate(over="ignore"):
        offsets = polygon / 2 - center / 2  # halves do not overflow
        distances = 2 * np.abs(offsets).max(axis=1, keepdims=True)
    is_far = (np.abs(polygon) > MAX_COORDINATE).any(axis=1, keepdims=True)
    shrink = np.divide(MAX_COORDINATE / 2, distances / 2, out=np.ones_like(distances), where=is_far)
    nearer = np.where(is_far, center + 2 * offsets * np.where(is_far, shrink, 0.0), polygon)
    return np.trunc(STEPS_PER_PIXEL * nearer + 0.5).astype(np.int64)


def _crossings(corners: Integers, image_size: ImageSize) -> Iterator[Integers]:
    """Pixels at which the outline crosses the centre lines of the image's columns, for some of the edges at a time."""
    height, width = image_size
    starts, ends = corners, np.roll(corners, -1, axis=0)
    low, high = np.minimum(starts, ends)[:, 0], np.maximum(starts, ends)[:, 0]
    first = np.maximum(-(-(low - CENTER_STEP) // STEPS_PER_PIXEL), 0)
    last = np.minimum((high - CENTER_STEP - 1) // STEPS_PER_PIXEL, width - 1)
    counts = np.maximum(last - first + 1, 0)
    edges = np.flatnonzero(counts)
    totals = np.cumsum(counts[edges])
    begin = 0
    while begin < len(edges):
        limit = MAX_CROSSINGS + (totals[begin - 1] if begin else 0)
        end = max(begin + 1, int(np.searchsorted(totals, limit, side="right")))
        part = edges[begin:end]
        repeated = np.repeat(part, counts[part])
        columns = np.arange(len(repeated)) - np.repeat(np.cumsum(counts[part]) - counts[part], counts[part])
        columns += first[repeated]
        yield columns * height + _crossed_rows(starts[repeated], ends[repeated], columns, height)
        begin = end


def _crossed_rows(starts: Integers, ends: Integers, columns: Integers, height: int) -> Integers:
    """(M,) the row, 0 to `height`, in which each edge crosses the centre line of a column."""
    lengths = np.abs(ends - starts)
    is_flat = lengths[:, 0] >= lengths[:, 1]
    steps = np.empty(len(columns), dtype=np.int64)
    for chosen, main_axis in ((is_flat, 0), (~is_flat, 1)):
        is_ascending = starts[chosen, main_axis] <= ends[chosen, main_axis]
        near = np.where(is_ascending[:, None], starts[chosen], ends[chosen])
        far = np.where(is_ascending[:, None], ends[chosen], starts[chosen])
        target = STEPS_PER_PIXEL * columns[chosen] + CENTER_STEP
        steps[chosen] = _flat_steps(near, far, target) if main_axis == 0 else _steep_steps(near, far, target)
    return np.ceil(np.clip((steps + 0.5) / STEPS_PER_PIXEL - 0.5, 0, height)).astype(np.int64)


def _flat_steps(near: Integers, far: Integers, target: Integers) -> Integers:
    slope = (far - near)[:, 1] / (far - near)[:, 0]
    step = target - near[:, 0]
    before, after = (np.trunc(near[:, 1] + slope * at + 0.5) for at in (step, step + 1))
    return np.minimum(before, after).astype(np.int64)


def _steep_steps(near: Integers, far: Integers, target: Integers) -> Integers:
    slope = (far - near)[:, 0] / (far - near)[:, 1]
    # Slopes of 0 cross no column. Rounding of the line may shift the estimate, so the first step past the centre is
    # searched around it.
    estimate = np.ceil((target + 0.5 - near[:, 0]) / slope).astype(np.int64)
    candidates = estimate[:, None] + np.arange(-2, 3)
    x = np.trunc(near[:, :1] + slope[:, None] * candidates + 0.5)
    has_passed = np.where(slope[:, None] > 0, x > target[:, None], x <= target[:, None])
    first = np.take_along_axis(candidates, has_passed.argmax(axis=1)[:, None], axis=1)[:, 0]
    return near[:, 1] + first - 1
