"""Annotated masks as run lengths: COCO's encoding, and polygons in bounded memory.

pycocotools walks along the outline in fifths of a pixel and keeps every step: a corner 2e8 pixels away takes 16 GB. A
mask depends only on where the outline passes from one column of pixels to the next, and inside the image there are at
most as many such places for an edge as the image has columns. The arithmetic here is that of pycocotools, so that the
masks are equal to the pixel.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from mrcnn_zoo.data.records import InstanceRecord, Polygons, Rle
from mrcnn_zoo.ops.masks import MaskWindow
from mrcnn_zoo.structures import ImageSize

# The compressed form writes 6 bits a character from "0" on: 5 bits of value and one that says more characters follow.
FIRST_CODE = 48
MAX_CHARACTERS = 8  # of one number: 40 bits
MORE_BIT, SIGN_BIT, VALUE_BITS, VALUE_MASK = 0x20, 0x10, 5, 0x1F


def read_runs(rle: Rle) -> NDArray[np.int64]:
    """Lengths of the runs of 0, 1, 0, 1, ... down the columns, from the compressed or the plain form.

    Raises:
        ValueError: counts that are not run lengths of an image of the given size.
    """
    counts = rle["counts"]
    runs = np.asarray(counts, dtype=np.int64) if isinstance(counts, list | tuple) else _uncompress(counts)
    height, width = rle["size"]
    if len(runs) and runs.min() < 0:
        raise ValueError("a run of its RLE has a negative length")
    if int(runs.sum()) != height * width:
        raise ValueError(f"the runs of its RLE cover {int(runs.sum())} pixels, {height} x {width} has {height * width}")
    return runs


def box_of(rle: Rle) -> tuple[int, int, int, int] | None:
    """x1, y1, x2, y2 of the smallest window around the mask, or None where the mask is empty.

    Raises:
        ValueError: see `read_runs`.
    """
    return _box_of_runs(*_foreground(rle), int(rle["size"][0]))


def decode_window(rle: Rle) -> MaskWindow | None:
    """The mask in the smallest window around it, or None where it is empty.

    Raises:
        ValueError: see `read_runs`.
    """
    height = int(rle["size"][0])
    starts, ends = _foreground(rle)
    box = _box_of_runs(starts, ends, height)
    if box is None:
        return None
    left, top, right, bottom = box
    rows, columns = bottom - top, right - left
    edges = np.empty(2 * len(starts) + 1, dtype=np.int64)  # the same runs, numbered down the columns of the window
    edges[0:-1:2] = (starts // height - left) * rows + starts % height - top
    edges[1::2] = ((ends - 1) // height - left) * rows + (ends - 1) % height - top + 1
    edges[-1] = rows * columns
    values = np.zeros(len(edges), dtype=np.uint8)
    values[1::2] = 1
    bitmap = np.repeat(values, np.diff(edges, prepend=0)).reshape(columns, rows).T
    return MaskWindow(left, top, bitmap)


Runs = NDArray[np.int64]


def _foreground(rle: Rle) -> tuple[Runs, Runs]:
    """First pixel, and the one after the last, of each run of ones; pixels are numbered down the columns."""
    edges = np.cumsum(read_runs(rle))
    ends = edges[1::2]
    starts = edges[0::2][: len(ends)]
    return starts[ends > starts], ends[ends > starts]


def _box_of_runs(starts: Runs, ends: Runs, height: int) -> tuple[int, int, int, int] | None:
    if len(starts) == 0:
        return None
    left, right = int(starts[0]) // height, (int(ends[-1]) - 1) // height + 1
    if np.any(starts // height != (ends - 1) // height):
        return left, 0, right, height  # a run that goes on in the next column touches the bottom and the top
    return left, int((starts % height).min()), right, int(((ends - 1) % height).max()) + 1


def _uncompress(counts: str | bytes) -> NDArray[np.int64]:
    encoded = counts.encode() if isinstance(counts, str) else bytes(counts)
    codes = np.frombuffer(encoded, dtype=np.uint8).astype(np.int64) - FIRST_CODE
    if len(codes) == 0:
        return codes
    if codes.min() < 0 or codes.max() >= 2 * MORE_BIT or codes[-1] & MORE_BIT:
        raise ValueError("its compressed RLE is cut off or has characters that do not belong there")
    last = np.flatnonzero((codes & MORE_BIT) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    characters = last - first + 1
    if characters.max() > MAX_CHARACTERS:
        raise ValueError("its compressed RLE has a number that is too large for any image")
    place = np.arange(len(codes)) - np.repeat(first, characters)
    values = np.add.reduceat((codes & VALUE_MASK) << (VALUE_BITS * place), first)
    values -= np.where(codes[last] & SIGN_BIT, 1 << (VALUE_BITS * characters), 0)
    # From the fourth run on, what is written is the difference to the run two before.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


FIFTHS = 5  # steps of pycocotools per pixel
CENTRE = 2  # the step before the one that crosses the middle of a pixel
BYTES_PER_STEP = 16  # that pycocotools needs: four integers
LEAST_BYTES = 1 << 20
BYTES_PER_PIXEL = 3
FARTHEST = 4e8  # pixels; beyond, pycocotools' integers of 32 bits overflow
MAX_CROSSINGS = 1 << 16  # worked on at once

Integers = NDArray[np.int64]
Points = NDArray[np.float64]


def outline_steps(polygon: Points) -> float:
    """How many steps pycocotools takes along a polygon.

    Args:
        polygon: (N, 2) x, y in pixels.
    """
    lengths = np.abs(polygon - np.roll(polygon, -1, axis=0)).max(axis=1)
    return float(FIFTHS * lengths.sum()) + len(polygon)


def allowed_steps(size: ImageSize) -> float:
    """How many steps along an outline take about as much memory as an image of that size, or a megabyte."""
    return max(LEAST_BYTES, BYTES_PER_PIXEL * size[0] * size[1]) / BYTES_PER_STEP


def encode_polygons(polygons: Sequence[Points], size: ImageSize) -> Rle:
    """The pixels inside any of the polygons, as pycocotools would draw them, in COCO's compressed form.

    Args:
        polygons: each (N, 2) x, y in pixels of the image, finite; of any size.
        size: (height, width) of the image.
    """
    height, width = size
    plain = [{"size": [height, width], "counts": _run_lengths(polygon, size).tolist()} for polygon in polygons]
    encoded = coco_mask.frPyObjects(plain, height, width)
    rle = encoded[0] if len(encoded) == 1 else coco_mask.merge(encoded)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def segmentation_rle(segmentation: Polygons | Rle, image_size: ImageSize) -> Rle:
    """COCO's compressed run lengths ({"size": [H, W], "counts": str}) of polygons or of run lengths of either kind."""
    if not isinstance(segmentation, dict):
        rle = coco_mask.merge(coco_mask.frPyObjects([list(polygon) for polygon in segmentation], *image_size))
    elif isinstance(segmentation["counts"], (list, tuple)):
        uncompressed = {"size": list(image_size), "counts": list(segmentation["counts"])}
        rle = coco_mask.frPyObjects(uncompressed, *image_size)
    else:
        rle = segmentation
    counts = rle["counts"]
    return {"size": list(rle["size"]), "counts": counts if isinstance(counts, str) else counts.decode("ascii")}


def instance_area(instance: InstanceRecord, image_size: ImageSize) -> float:
    """The area that the file gives, or else that of the mask, or else that of the box; in square pixels."""
    if instance.area is not None:
        return instance.area
    if instance.segmentation is not None:
        return float(coco_mask.area(segmentation_rle(instance.segmentation, image_size)))
    x1, y1, x2, y2 = instance.box
    return (x2 - x1) * (y2 - y1)


def _run_lengths(polygon: Points, size: ImageSize) -> Integers:
    """Lengths of the runs of 0, 1, 0, ... down the columns."""
    height, width = size
    changes = np.zeros(0, dtype=np.int64)  # pixels, numbered down the columns, from which on the value is the other one
    for more in _crossings(_steps(polygon, size), size):
        positions, counts = np.unique(np.concatenate([changes, more]), return_counts=True)
        changes = positions[counts % 2 == 1]
    return np.diff(changes[changes < height * width], prepend=0, append=height * width)


def _steps(polygon: Points, size: ImageSize) -> Integers:
    """(N, 2) corners in fifths of a pixel. What is too far for pycocotools is moved nearer in the same direction."""
    middle = np.array([size[1] / 2, size[0] / 2])
    with np.errstate(over="ignore"):
        offsets = polygon / 2 - middle / 2  # halves do not overflow
        distances = 2 * np.abs(offsets).max(axis=1, keepdims=True)
    is_far = (np.abs(polygon) > FARTHEST).any(axis=1, keepdims=True)
    shrink = np.divide(FARTHEST / 2, distances / 2, out=np.ones_like(distances), where=is_far)
    nearer = np.where(is_far, middle + 2 * offsets * np.where(is_far, shrink, 0.0), polygon)
    return np.trunc(FIFTHS * nearer + 0.5).astype(np.int64)


def _crossings(corners: Integers, size: ImageSize) -> Iterator[Integers]:
    """Where the outline passes the middle of a column inside the image, a part of the edges at a time."""
    width = size[1]
    starts, ends = corners, np.roll(corners, -1, axis=0)
    low, high = np.minimum(starts, ends)[:, 0], np.maximum(starts, ends)[:, 0]
    first = np.maximum(-(-(low - CENTRE) // FIFTHS), 0)
    last = np.minimum((high - CENTRE - 1) // FIFTHS, width - 1)
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
        yield columns * size[0] + _rows(starts[repeated], ends[repeated], columns, size[0])
        begin = end


def _rows(starts: Integers, ends: Integers, columns: Integers, height: int) -> Integers:
    """(M,) row, 0 to `height`, in which each edge passes the middle of a column."""
    lengths = np.abs(ends - starts)
    is_flat = lengths[:, 0] >= lengths[:, 1]
    rows = np.empty(len(columns), dtype=np.int64)
    for chosen, main in ((is_flat, 0), (~is_flat, 1)):
        ahead = starts[chosen, main] <= ends[chosen, main]
        near = np.where(ahead[:, None], starts[chosen], ends[chosen])
        far = np.where(ahead[:, None], ends[chosen], starts[chosen])
        target = FIFTHS * columns[chosen] + CENTRE
        rows[chosen] = _flat_rows(near, far, target) if main == 0 else _steep_rows(near, far, target)
    return np.ceil(np.clip((rows + 0.5) / FIFTHS - 0.5, 0, height)).astype(np.int64)


def _flat_rows(near: Integers, far: Integers, target: Integers) -> Integers:
    slope = (far - near)[:, 1] / (far - near)[:, 0]
    step = target - near[:, 0]
    before, after = (np.trunc(near[:, 1] + slope * at + 0.5) for at in (step, step + 1))
    return np.minimum(before, after).astype(np.int64)


def _steep_rows(near: Integers, far: Integers, target: Integers) -> Integers:
    slope = (far - near)[:, 0] / (far - near)[:, 1]
    # Slopes of 0 pass no column. The estimate may be off by the rounding of the line: the first step that has passed
    # the middle of the column is looked for around it.
    estimate = np.ceil((target + 0.5 - near[:, 0]) / slope).astype(np.int64)
    candidates = estimate[:, None] + np.arange(-2, 3)
    x = np.trunc(near[:, :1] + slope[:, None] * candidates + 0.5)
    has_passed = np.where(slope[:, None] > 0, x > target[:, None], x <= target[:, None])
    first = np.take_along_axis(candidates, has_passed.argmax(axis=1)[:, None], axis=1)[:, 0]
    return near[:, 1] + first - 1
