"""Run-length encodings of all objects of a label image, found together."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.ops.rle import FIRST_CODE, MORE_BIT, VALUE_BITS, VALUE_MASK, Runs, edges_of_masks


class LabelMasks(NamedTuple):
    """The masks of the R objects of a label image, in the order of their labels."""

    labels: list[int]  # R
    counts: list[str]  # R compressed run lengths
    boxes: list[list[int]]  # R x1, y1, x2, y2 in whole pixels
    areas: list[int]  # R pixels


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
    boxes = np.stack(edges_of_masks(starts, ends, height, first), axis=1)
    areas = np.add.reduceat(ends - starts, first)
    counts = _compress_labels(starts, ends, first, len(flat))
    return LabelMasks(values[first].tolist(), counts, boxes.tolist(), areas.tolist())


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
