"""COCO's run-length encoding (RLE) of masks.

pycocotools encodes, merges and measures. Only windows are encoded and decoded here, which never needs a bitmap of the
full image, and encodings that come from files are checked first, because pycocotools reads beyond their end.
"""

from collections.abc import Sequence
from typing import Any

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


def edges_of_masks(starts: Runs, ends: Runs, height: int | Runs, first: Runs) -> tuple[Runs, Runs, Runs, Runs]:
    """(R,) left, top, right and bottom of the smallest boxes around masks, the last two excluded.

    Args:
        starts: (N,) first pixel of each run of ones, numbered down the columns.
        ends: (N,) the pixel after each run.
        height: of the image, or (N,) that of the image of each run.
        first: (R,) the first run of each mask.
    """
    left, right = starts // height, (ends - 1) // height
    is_in_column = left == right  # other runs go on at the top of the next column
    top = np.where(is_in_column, starts - left * height, 0)
    bottom = np.where(is_in_column, ends - left * height, height)
    low = np.minimum.reduceat(left, first), np.minimum.reduceat(top, first)
    return *low, np.maximum.reduceat(right, first) + 1, np.maximum.reduceat(bottom, first)


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
    return decode_windows([rle])[0]


def decode_windows(rles: Sequence[Rle]) -> list[MaskWindow | None]:
    """The masks in the smallest windows around them, all in a few array operations; None for an empty one.

    Args:
        rles: in any of the three forms, of images of any size.

    Raises:
        ValueError: see `read_runs`.
    """
    masks: list[MaskWindow | None] = [None] * len(rles)
    runs, counts = _read_all_runs(rles)
    is_one = _numbers(counts) % 2 == 1
    ends = np.cumsum(runs)
    starts = (ends - runs)[is_one]
    origins = np.cumsum([0, *(int(rle["size"][0]) * int(rle["size"][1]) for rle in rles)])  # the images in one row
    owners = np.repeat(np.arange(len(rles)), counts)[is_one]
    starts, ends = starts - origins[owners], ends[is_one] - origins[owners]
    is_used = ends > starts
    starts, ends, owners = starts[is_used], ends[is_used], owners[is_used]
    if not len(starts):
        return masks
    first = np.flatnonzero(np.diff(owners, prepend=-1))
    heights = np.array([int(rle["size"][0]) for rle in rles])[owners]
    left, top, right, bottom = edges_of_masks(starts, ends, heights, first)
    rows, columns = bottom - top, right - left
    places = np.cumsum(rows * columns) - rows * columns
    # The same runs, numbered down the columns of the windows, window after window.
    of_run = np.repeat(np.arange(len(first)), np.diff(first, append=len(starts)))
    shift = places[of_run] - left[of_run] * rows[of_run] - top[of_run]
    edges = np.empty(2 * len(starts) + 1, dtype=np.int64)
    edges[0:-1:2] = shift + starts // heights * rows[of_run] + starts % heights
    edges[1::2] = shift + (ends - 1) // heights * rows[of_run] + (ends - 1) % heights + 1
    edges[-1] = (rows * columns).sum()
    values = np.zeros(len(edges), dtype=np.uint8)
    values[1::2] = 1
    pixels = np.repeat(values, np.diff(edges, prepend=0))
    table = np.stack([owners[first], left, top, columns, rows, places], axis=1).tolist()
    for owner, x, y, width, height, place in table:
        masks[owner] = MaskWindow(x, y, pixels[place : place + width * height].reshape(width, height).T)
    return masks


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
    return _read_all_runs([rle])[0]


def _read_all_runs(rles: Sequence[Rle]) -> tuple[Runs, Runs]:
    """The runs of R masks one after the other, and their numbers (R,)."""
    texts = [rle["counts"] for rle in rles]
    if any(isinstance(counts, list | tuple) for counts in texts):
        lists = [
            np.asarray(counts, dtype=np.int64) if isinstance(counts, list | tuple) else _uncompress([counts])[0]
            for counts in texts
        ]
        runs, numbers = np.concatenate(lists), np.array([len(item) for item in lists])
    else:
        runs, numbers = _uncompress(texts)
    if len(runs) and runs.min() < 0:
        raise ValueError("a run of its RLE has a negative length")
    sums = np.diff(np.append(0, np.cumsum(runs))[np.append(0, np.cumsum(numbers))])
    for rle, total in zip(rles, sums.tolist(), strict=True):
        height, width = rle["size"]
        if total != height * width:
            raise ValueError(f"the runs of its RLE cover {total} pixels, {height} x {width} has {height * width}")
    return runs, numbers


def _numbers(counts: Runs) -> Runs:
    """0, 1, ... for each of R groups of `counts` members, one after the other."""
    ends = np.cumsum(counts)
    return np.arange(int(counts.sum())) - np.repeat(ends - counts, counts)


def _uncompress(texts: Sequence[str | bytes]) -> tuple[Runs, Runs]:
    """The numbers in R texts one after the other, and how many each has (R,)."""
    encoded = [text.encode() if isinstance(text, str) else bytes(text) for text in texts]
    codes = np.frombuffer(b"".join(encoded), dtype=np.uint8).astype(np.int64) - FIRST_CODE
    if len(codes) == 0:
        return codes, np.zeros(len(texts), dtype=np.int64)
    bounds = np.cumsum([len(text) for text in encoded])
    has_more = codes & MORE_BIT != 0
    if codes.min() < 0 or codes.max() >= 2 * MORE_BIT or has_more[bounds[bounds > 0] - 1].any():
        raise ValueError("its compressed RLE is cut off or has characters that do not belong there")
    last = np.flatnonzero(~has_more)
    first = np.append(0, last[:-1] + 1)
    characters = last - first + 1
    if characters.max() > MAX_CHARACTERS:
        raise ValueError("its compressed RLE has a number that is too large for any image")
    position = np.arange(len(codes)) - np.repeat(first, characters)
    values = np.add.reduceat((codes & VALUE_MASK) << (VALUE_BITS * position), first)
    values -= np.where(codes[last] & SIGN_BIT, 1 << (VALUE_BITS * characters), 0)
    counts = np.diff(np.searchsorted(last, bounds), prepend=0)
    return _sums_of_every_second(values, counts), counts


def _sums_of_every_second(values: Runs, counts: Runs) -> Runs:
    """The runs: from the fourth one of a mask on, the difference to the run two before is written.

    Args:
        values: of R masks, one after the other.
        counts: (R,) how many each has.
    """
    pairs = (counts + 1) // 2
    starts = 2 * (np.cumsum(pairs) - pairs)
    # Each mask from an even place on: its even and its odd runs are the columns of a table.
    places = _numbers(counts) + np.repeat(starts, counts)
    table = np.zeros((int(pairs.sum()), 2), dtype=np.int64)
    flat = table.reshape(-1)
    flat[places] = values
    used = starts[counts > 0]
    leading = flat[used]
    flat[used] = 0
    sums = np.concatenate([np.zeros((1, 2), dtype=np.int64), table.cumsum(axis=0)])
    runs = (sums[1:] - np.repeat(sums[starts // 2], pairs, axis=0)).reshape(-1)
    runs[used] = leading
    return runs[places]


def _with_text(rle: Rle) -> Rle:
    counts = rle["counts"]
    text = counts if isinstance(counts, str) else counts.decode("ascii")
    return {"size": [int(side) for side in rle["size"]], "counts": text}
