"""Instance bitmaps cropped to the grid of a mask head, and predicted grids resampled to image pixels.

ROIAlign (He et al. 2017, section 3) averages bilinear samples over a regular grid in each bin. The grid is a product of
two axes, and so is bilinear interpolation; the average over bin (i, j) is therefore `vertical[i] @ bitmap @
horizontal[j]`. Two small matrix products replace thousands of single samples, and a bitmap may be any window of the
image, because a weight knows its pixel's place in the image.

Source: He et al. 2017 (Mask R-CNN), section 3.1, "Inference". Pixel (x, y) is asked for at its centre, (x + 0.5,
y + 0.5); outside the M x M probabilities is 0.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrcnn_zoo.ops.roi_align import bin_samples

# Bitmaps padded to one size at a time while regions are cropped: 16 MiB of float32.
MAX_PADDED_PIXELS = 1 << 22


@dataclass(frozen=True)
class WindowsOfImage:
    """Bitmaps of windows of one image, and for each region of that image the window that it is cropped from."""

    pixels: Tensor  # (P,) of 0 and 1: the bitmaps one after another, each row by row
    windows: Sequence[Sequence[int]]  # for each region: x, y of the first pixel, width, height, position in `pixels`
    image_size: tuple[int, int]  # (height, width)


def crop_windows(images: Sequence[WindowsOfImage], boxes: Tensor, extents: Sequence[float], side: int) -> Tensor:
    """Each region's bitmap inside its box, as `crop_bitmaps` cuts it; the host waits for nothing.

    Regions of one image whose windows have about the same size are padded to one size and cropped together.

    Args:
        images: of R regions together.
        boxes: (R, 4) pixels of the region's image.
        extents: the longer side of each box, on the host, which chooses the shapes of all that follows by them.
        side: rows and columns of the result.

    Returns:
        (R, side, side) bool.
    """
    crops = torch.zeros((len(boxes), side, side), dtype=torch.bool, device=boxes.device)
    groups = [group for group in _groups(images) if max(extents[row] for row in group.rows) > 0]
    places = torch.tensor([place for group in groups for place in group.places], dtype=torch.int64).reshape(-1, 4)
    parts = places.to(boxes.device, non_blocking=True).split([len(group.places) for group in groups])
    for group, part in zip(groups, parts, strict=True):
        max_samples = ceil(max(extents[row] for row in group.rows) / side)
        padded = group.padded()
        for chunk in part.split(max(1, MAX_PADDED_PIXELS // padded[0].numel())):
            rows = chunk[:, 0]
            cropped = crop_bitmaps(
                padded[chunk[:, 1]],
                chunk[:, 2:],
                boxes[rows],
                side,
                image_size=group.image.image_size,
                max_samples=max_samples,
            )
            crops.index_copy_(0, rows, cropped)
    return crops


@dataclass(frozen=True)
class _Group:
    """Regions of one image with windows of similar size."""

    image: WindowsOfImage
    bitmaps: list[tuple[int, int, int]]  # width, height, position of each distinct one
    places: list[tuple[int, int, int, int]]  # row of the region, number of its bitmap, x and y of its first pixel

    @property
    def rows(self) -> list[int]:
        return [place[0] for place in self.places]

    def padded(self) -> Tensor:
        """The distinct bitmaps padded to (n, h, w)."""
        pixels = self.image.pixels
        largest = max(size[1] for size in self.bitmaps), max(size[0] for size in self.bitmaps)
        padded = pixels.new_zeros((len(self.bitmaps), *largest))
        for bitmap, (width, height, position) in zip(padded, self.bitmaps, strict=True):
            bitmap[:height, :width] = pixels[position : position + width * height].view(height, width)
        return padded


def _groups(images: Sequence[WindowsOfImage]) -> Iterator[_Group]:
    """Groups by image and by the powers of two around the sides; regions with an empty window are in none."""
    row = 0
    for image in images:
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number, (_, _, width, height, _) in enumerate(image.windows):
            if width and height:
                groups[(height - 1).bit_length(), (width - 1).bit_length()].append(number)
        for members in groups.values():
            numbers: dict[tuple[int, int, int], int] = {}
            places = []
            for member in members:
                x, y, *bitmap = image.windows[member]
                number = numbers.setdefault((bitmap[0], bitmap[1], bitmap[2]), len(numbers))
                places.append((row + member, number, x, y))
            yield _Group(image, list(numbers), places)
        row += len(image.windows)


def axis_weights(
    extents: Tensor, bins: int, *, image_length: int, window_starts: Tensor, window_length: int, max_samples: int
) -> tuple[Tensor, Tensor]:
    """How much each pixel of a window counts in each bin of a box, along one axis.

    Args:
        extents: (R, 2) first and last coordinate of the boxes, image pixels.
        bins: bins a box is divided into.
        image_length: pixels of the whole image along this axis. Samples up to one pixel outside the image take the
            value at its border, farther ones are 0.
        window_starts: (R,) int64 first pixel of each window.
        window_length: pixels of a window; all outside it counts as 0.
        max_samples: at least ceil(extent / bins) of the longest box.

    Returns:
        (R, bins, window_length) summed weights, and (R,) the number of samples they are the sum of, at least 1.
    """
    starts, ends = (extents - 0.5).unbind(dim=1)  # pixel centres are at integers from here on
    samples = ((ends - starts) / bins).ceil().clamp(min=0)
    lower, fraction, is_counted = bin_samples(
        starts, ends - starts, bins, samples=samples, max_samples=max_samples, length=image_length
    )
    cells = lower.long() - window_starts[:, None, None]
    weights = extents.new_zeros((len(extents), bins, window_length))
    for cell, weight in ((cells, 1 - fraction), (cells + 1, fraction)):
        is_inside = is_counted & (cell >= 0) & (cell < window_length)
        weights.scatter_add_(2, cell.clamp(0, window_length - 1), weight * is_inside)
    return weights, samples.clamp(min=1)


def crop_bitmaps(
    bitmaps: Tensor, origins: Tensor, boxes: Tensor, side: int, *, image_size: tuple[int, int], max_samples: int
) -> Tensor:
    """Each window's bitmap inside its box, averaged as ROIAlign does on the full image and cut at one half.

    Args:
        bitmaps: (R, h, w) of 0 and 1, any dtype.
        origins: (R, 2) int64 x, y of each window's first pixel.
        boxes: (R, 4) pixels of the image.
        side: rows and columns of the result.
        image_size: (height, width).
        max_samples: at least ceil(longest side of a box / side).

    Returns:
        (R, side, side) bool.
    """
    height, width = image_size
    vertical, rows = axis_weights(
        boxes[:, 1::2],
        side,
        image_length=height,
        window_starts=origins[:, 1],
        window_length=bitmaps.shape[1],
        max_samples=max_samples,
    )
    horizontal, columns = axis_weights(
        boxes[:, 0::2],
        side,
        image_length=width,
        window_starts=origins[:, 0],
        window_length=bitmaps.shape[2],
        max_samples=max_samples,
    )
    # Under autocast the products would be bfloat16, too coarse to compare with one half.
    with torch.autocast(bitmaps.device.type, enabled=False):
        sums = vertical @ bitmaps.to(vertical.dtype) @ horizontal.mT
    # Compare the sum and not the mean: at exactly one half, the division could round to the wrong side.
    return sums >= 0.5 * (rows * columns)[:, None, None]


class MaskWindow(NamedTuple):
    """The part of a mask's image that holds all of its pixels."""

    x: int  # first column of the window
    y: int  # first row
    bitmap: NDArray[np.bool_] | NDArray[np.uint8]  # (h, w) of 0 and 1

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x1, y1, x2, y2 of the window in pixels of the image."""
        height, width = self.bitmap.shape
        return self.x, self.y, self.x + width, self.y + height


def tight_box(bitmap: NDArray[Any]) -> tuple[int, int, int, int] | None:
    """x1, y1, x2, y2 around the nonzero pixels of an (H, W) bitmap; x2 and y2 are excluded. None where all are 0."""
    rows, columns = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
    if len(rows) == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def paste_masks(
    probabilities: NDArray[np.float32], boxes: NDArray[np.float32], image_size: tuple[int, int], *, threshold: float
) -> list[MaskWindow]:
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
        windows.append(MaskWindow(left, top, (pasted >= threshold).T))
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
