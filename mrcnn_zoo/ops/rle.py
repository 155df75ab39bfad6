"""COCO's run-length encoding (RLE) of masks.

pycocotools encodes, merges and measures. Only windows are encoded and decoded here, which never needs a bitmap of the
full image, and encodings that come from files are checked first, because pycocotools reads beyond their end.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from mrcnn_zoo.ops.masks import MaskWindow

# {"size": [height, width], "counts": str}, compressed. Files also have counts as bytes or as a list of run lengths.
Rle = dict[str, Any]
Runs = NDArray[np.int64]
ImageSize = tuple[int, int]  # (height, width)

# The compressed form has 6 bits per character, from "0" on: 5 bits of a value and one for "more characters follow".
FIRST_CODE = 48
MAX_CHARACTERS = 8  # per number: 40 bits
MORE_BIT, SIGN_BIT, VALUE_BITS, VALUE_MASK = 0x20, 0x10, 5, 0x1F


class LabelMasks(NamedTuple):
    """The masks of the R objects of a label image, in the order of their labels."""

    labels: list[int]  # R
    counts: list[str]  # R compressed run lengths
    boxes: list[list[int]]  # R x1, y1, x2, y2 in whole pixels
    areas: list[int]  # R pixels


def encode(bitmap: NDArray[np.generic]) -> Rle:
    """The compressed encoding of a (H, W) bitmap of 0 and 1, any dtype."""
    return _with_text(coco_mask.encode(np.asfortranarray(bitmap, dtype=np.uint8)))


def decode(rle: Rle) -> NDArray[np.bool_]:
    """The (H, W) bitmap of a mask in compressed form."""
    bitmap: NDArray[np.bool_] = coco_mask.decode(rle).astype(np.bool_)
    return bitmap


def encode_windows(windows: Sequence[MaskWindow], image_size: ImageSize) -> list[Rle]:
    """The compressed encodings of masks that are 0 outside their windows.

    Args:
        windows: inside the image, may be empty.
        image_size: (height, width) of the image.
    """
    return encode_runs([run_lengths(window, image_size) for window in windows], image_size)


def encode_runs(runs: Sequence[Runs], image_size: ImageSize) -> list[Rle]:
    """The compressed encodings of masks of one size.

    Args:
        runs: per mask the lengths of its runs of 0, 1, 0, ... down the columns.
        image_size: (height, width) of the image.
    """
    if not runs:
        return []
    plain = [{"size": list(image_size), "counts": lengths.tolist()} for lengths in runs]
    return [_with_text(rle) for rle in coco_mask.frPyObjects(plain, *image_size)]


def encode_labels(image: NDArray[np.generic]) -> LabelMasks:
    """The masks of all labels of an image but 0; each is that of `encode(image == label)`.

    The runs of all labels are found together, so that the time depends on the pixels and runs, not on the objects.

    Args:
        image: (H, W) integers.
    """
    height = image.shape[0]
    flat = np.ascontiguousarray(image.T).reshape(-1)
    if not len(flat):
        return LabelMasks([], [], [], [])
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends = np.append(starts[1:], len(flat))
    values = flat[starts]
    order = np.argsort(values, kind="stable")
    order = order[values[order] != 0]
    starts, ends, values = starts[order], ends[order], values[order]
    if not len(values):
        return LabelMasks([], [], [], [])
    first = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))  # run of each label
    left, right = starts // height, (ends - 1) // height
    is_in_column = left == right  # other runs go on at the top of the next column
    top = np.where(is_in_column, starts - left * height, 0)
    bottom = np.where(is_in_column, ends - left * height, height)
    edges = [np.minimum.reduceat(left, first), np.minimum.reduceat(top, first)]
    edges += [np.maximum.reduceat(right, first) + 1, np.maximum.reduceat(bottom, first)]
    areas = np.add.reduceat(ends - starts, first)
    counts = _compress_labels(starts, ends, first, len(flat))
    return LabelMasks(values[first].tolist(), counts, np.stack(edges, axis=1).tolist(), areas.tolist())


def _compress_labels(starts: Runs, ends: Runs, first: Runs, num_pixels: int) -> list[str]:
    """Compressed counts of masks whose runs of ones stand one after the other.

    Args:
        starts: (N,) first pixel of each run, numbered down the columns.
        ends: (N,) the pixel after each run.
        first: (R,) the first run of each mask.
        num_pixels: of the image.
    """
    num_runs = np.diff(first, append=len(starts))
    mask_of_run = np.repeat(np.arange(len(first)), num_runs)
    number = np.arange(len(starts)) - first[mask_of_run]  # of the run in its mask
    ones = ends - starts
    gaps = starts.copy()
    gaps[1:] -= np.where(number[1:] > 0, ends[:-1], 0)
    # From the fourth count on, the difference to the count two before is written.
    written = np.zeros(2 * len(starts) + len(first), dtype=np.int64)
    places = 2 * np.arange(len(starts)) + mask_of_run
    written[places] = gaps - np.where(number > 1, np.append(0, gaps[:-1]), 0)
    written[places + 1] = ones - np.where(number > 0, np.append(0, ones[:-1]), 0)
    last = first + num_runs - 1
    rest = num_pixels - ends[last]
    written[places[last] + 2] = rest - np.where(num_runs > 1, gaps[last], 0)
    is_written = np.ones(len(written), dtype=bool)
    is_written[places[last] + 2] = rest > 0
    sizes = 2 * num_runs + (rest > 0)
    return _as_texts(written[is_written], sizes)


def _as_texts(values: Runs, sizes: Runs) -> list[str]:
    """The characters of numbers, R texts of `sizes` numbers each."""
    magnitude = np.where(values < 0, ~values, values).astype(np.float64)
    characters = np.frexp(magnitude)[1] // VALUE_BITS + 1  # the digits and a sign bit
    number = np.repeat(np.arange(len(values)), characters)
    ends = np.cumsum(characters)
    position = np.arange(ends[-1]) - (ends - characters)[number]
    codes = (values[number] >> (VALUE_BITS * position)) & VALUE_MASK
    codes |= np.where(position + 1 < characters[number], MORE_BIT, 0)
    text = (codes + FIRST_CODE).astype(np.uint8).tobytes().decode("ascii")
    bounds = [0, *ends[np.cumsum(sizes) - 1].tolist()]
    return [text[start:end] for start, end in pairwise(bounds)]


def encode_polygons(polygons: Sequence[Sequence[float] | NDArray[np.float64]], image_size: ImageSize) -> Rle:
    """The compressed encoding of the union of polygons.

    Args:
        polygons: each x1, y1, x2, y2, ... in pixels, 3 points or more; memory grows with their extent.
        image_size: (height, width) of the image.
    """
    return merge([_with_text(rle) for rle in coco_mask.frPyObjects(list(polygons), *image_size)])


def compress(rle: Rle) -> Rle:
    """The same encoding with compressed counts as text, from any of the three forms."""
    if isinstance(rle["counts"], list | tuple):
        rle = coco_mask.frPyObjects({"size": list(rle["size"]), "counts": list(rle["counts"])}, *rle["size"])
    return _with_text(rle)


def merge(rles: Sequence[Rle]) -> Rle:
    """The union of masks of one size, all compressed."""
    if len(rles) == 1:
        return rles[0]
    return _with_text(coco_mask.merge(list(rles)))


def subtract(rle: Rle, other: Rle) -> Rle:
    """The pixels of a mask that another mask of the same size does not have, both compressed.

    Args:
        rle: the mask.
        other: that is taken out of it.
    """
    runs = read_runs(other)
    rest = runs[1:] if len(runs) and runs[0] == 0 else np.concatenate([[0], runs])  # 0 and 1 exchanged
    (complement,) = encode_runs([rest], (int(other["size"][0]), int(other["size"][1])))
    return _with_text(coco_mask.merge([rle, complement], True))


def area(rle: Rle) -> int:
    """Pixels of a mask in compressed form."""
    return int(coco_mask.area(rle))


def bounding_box(rle: Rle) -> tuple[int, int, int, int] | None:
    """x1, y1, x2, y2 of the smallest box around a mask in compressed form, in whole pixels; None if it is empty."""
    x, y, width, height = (int(value) for value in coco_mask.toBbox(rle))
    return (x, y, x + width, y + height) if width else None


def decode_window(rle: Rle) -> MaskWindow | None:
    """The mask in the smallest window around it; None if it is empty.

    Args:
        rle: in any of the three forms.

    Raises:
        ValueError: see `read_runs`.
    """
    height = int(rle["size"][0])
    edges = np.cumsum(read_runs(rle))
    box = bounding_box(compress(rle))
    if box is None:
        return None
    left, top, right, bottom = box
    ends = edges[1::2]
    starts = edges[0::2][: len(ends)]
    starts, ends = starts[ends > starts], ends[ends > starts]
    rows, columns = bottom - top, right - left
    edges = np.empty(2 * len(starts) + 1, dtype=np.int64)  # the same runs, numbered down the columns of the window
    edges[0:-1:2] = (starts // height - left) * rows + starts % height - top
    edges[1::2] = ((ends - 1) // height - left) * rows + (ends - 1) % height - top + 1
    edges[-1] = rows * columns
    values = np.zeros(len(edges), dtype=np.uint8)
    values[1::2] = 1
    bitmap = np.repeat(values, np.diff(edges, prepend=0)).reshape(columns, rows).T
    return MaskWindow(left, top, bitmap)


def run_lengths(window: MaskWindow, image_size: ImageSize) -> Runs:
    """Lengths of the runs of 0, 1, 0, ... down the columns of an image that is 0 outside the window.

    Args:
        window: inside the image.
        image_size: (height, width) of the image.

    Returns:
        (runs,) whose sum is height * width; only the first may be 0.
    """
    height, width = image_size
    x, y, bitmap = window
    # A 0 above and below each column, so that every run of ones begins and ends in it and the edges come in pairs.
    columns = np.zeros((bitmap.shape[1], bitmap.shape[0] + 2), dtype=np.bool_)
    columns[:, 1:-1] = bitmap.T
    flat = columns.reshape(-1)
    column, row = np.divmod(np.flatnonzero(flat[1:] != flat[:-1]), columns.shape[1])
    edges = (column + x) * height + (row + y)
    if bitmap.shape[0] == height:
        # A run that reaches the bottom continues at the top of the next column: its end is the next one's start.
        joins = np.flatnonzero(edges[1:-1:2] == edges[2::2])
        edges = np.delete(edges, np.concatenate((2 * joins + 1, 2 * joins + 2)))
    lengths = np.diff(edges, prepend=0, append=height * width)
    return lengths[:-1] if lengths[-1] == 0 and len(lengths) > 1 else lengths


def read_runs(rle: Rle) -> Runs:
    """Lengths of the runs of 0, 1, 0, ... down the columns, checked against the size.

    Args:
        rle: in any of the three forms.

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


def _uncompress(counts: str | bytes) -> Runs:
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
    position = np.arange(len(codes)) - np.repeat(first, characters)
    values = np.add.reduceat((codes & VALUE_MASK) << (VALUE_BITS * position), first)
    values -= np.where(codes[last] & SIGN_BIT, 1 << (VALUE_BITS * characters), 0)
    # From the fourth run on, the difference to the run two before is written.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _with_text(rle: Rle) -> Rle:
    counts = rle["counts"]
    text = counts if isinstance(counts, str) else counts.decode("ascii")
    return {"size": [int(side) for side in rle["size"]], "counts": text}
