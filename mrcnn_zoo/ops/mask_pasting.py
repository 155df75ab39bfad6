"""Stretch square mask probabilities over their boxes, each in a window of the image no larger than its box.

Source: He et al. 2017 (Mask R-CNN), section 3.1, "Inference". Pixel (x, y) is asked for at its centre, (x + 0.5,
y + 0.5); outside the M x M probabilities is 0.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Window(NamedTuple):
    """The part of an image bitmap that may hold ones."""

    x: int
    y: int
    bitmap: NDArray[np.bool_]  # (h, w)


def paste_masks(
    probabilities: NDArray[np.float32], boxes: NDArray[np.float32], image_size: tuple[int, int], *, threshold: float
) -> list[Window]:
    """Where each mask reaches the threshold, box by box.

    Args:
        probabilities: (R, M, M) in [0, 1].
        boxes: (R, 4) pixels of the image; they may reach outside.
        image_size: (height, width).
        threshold: a pixel belongs to the mask from this probability on; above 0.

    Returns:
        R windows inside the image; one without area where the box has none or lies outside.
    """
    side = probabilities.shape[-1]
    bounds = window_bounds(boxes, side, image_size, threshold=threshold)
    windows = []
    for mask, (x0, y0, x1, y1), (left, top, right, bottom) in zip(
        probabilities, boxes.astype(np.float32), bounds.tolist(), strict=True
    ):
        rows = stretch(mask, float(y0), float(y1), top, bottom)
        pasted = stretch(rows.T, float(x0), float(x1), left, right)  # (w, h)
        windows.append(Window(left, top, (pasted >= threshold).T))
    return windows


def window_bounds(
    boxes: NDArray[np.float32], side: int, image_size: tuple[int, int], *, threshold: float
) -> NDArray[np.int64]:
    """(R, 4) int64 left, top, right, bottom: where a mask may reach the threshold; right, bottom excluded."""
    height, width = image_size
    sizes = boxes[:, 2:] - boxes[:, :2]
    # Towards the 0 outside, a mask falls to one half on its box's border; only lower thresholds see beyond it.
    margin = sizes / side * max(0.0, 0.5 - threshold)
    lowest = np.floor(boxes[:, :2] - margin)
    highest = np.ceil(boxes[:, 2:] + margin)
    limits = np.array([width, height], dtype=np.float32)
    lowest, highest = np.clip(lowest, 0, limits), np.clip(highest, 0, limits)
    is_empty = ((highest <= lowest) | (sizes <= 0)).any(axis=1, keepdims=True)
    return np.concatenate((lowest, np.where(is_empty, lowest, highest)), axis=1).astype(np.int64)


def stretch(values: NDArray[np.float32], start: float, end: float, first: int, last: int) -> NDArray[np.float32]:
    """Rows spread evenly from `start` to `end`, interpolated at the centres of pixels first ... last - 1.

    Args:
        values: (M, n).
        start: image coordinate of the upper edge of the first row.
        end: of the lower edge of the last row.
        first: first pixel asked for.
        last: one past the last pixel.

    Returns:
        (last - first, n).
    """
    side = len(values)
    if last <= first:
        return np.zeros((0, values.shape[1]), dtype=values.dtype)
    padded = np.zeros((side + 2, values.shape[1]), dtype=values.dtype)
    padded[1:-1] = values
    positions = (np.arange(first, last) + 0.5 - start) / (end - start) * side + 0.5
    positions = np.clip(positions, 0, side + 1)
    lower = np.minimum(positions.astype(np.int64), side)
    fraction = (positions - lower).astype(values.dtype)[:, None]
    above = padded[lower]
    return above + fraction * (padded[lower + 1] - above)
