"""COCO's run-length encoding of masks, read without making the full image."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.records import Rle

# The compressed form writes 6 bits a character from "0" on: 5 bits of value and one that says more characters follow.
FIRST_CODE = 48
MAX_CHARACTERS = 8  # of one number: 40 bits
MORE_BIT, SIGN_BIT, VALUE_BITS, VALUE_MASK = 0x20, 0x10, 5, 0x1F


class MaskWindow(NamedTuple):
    """The part of a mask that is not empty, and where it lies in the image."""

    x: int  # left column of the window
    y: int  # top row
    bitmap: NDArray[np.uint8]  # (h, w) of 0 and 1

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x1, y1, x2, y2 of the window in pixels of the image."""
        height, width = self.bitmap.shape
        return self.x, self.y, self.x + width, self.y + height


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
