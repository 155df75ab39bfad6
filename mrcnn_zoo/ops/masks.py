"""Instance bitmaps cropped to the grid of a mask head, and predicted masks pasted into the image.

Cropping: ROIAlign (He et al. 2017, section 3) averages bilinear samples over a regular grid in each bin. The grid and
bilinear interpolation are separable, so the average over bin (i, j) is `vertical[i] @ bitmap @ horizontal[j]`. Weights
are indexed by image pixel, so a bitmap may be any window of the image.

Pasting (He et al. 2017, section 3.1, "Inference"): pixel (x, y) is sampled at its centre, (x + 0.5, y + 0.5); the M x M
probabilities are zero-padded.
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

from mrcnn_zoo.ops.roi_align import bin_samples, window_weights

# Pixels of padded bitmaps that are cropped at a time: 16 MiB of float32.
MAX_PADDED_PIXELS = 1 << 22


@dataclass(frozen=True)
class WindowsOfImage:
    """Bitmaps of windows of one image, and the window of each region of that image."""

    pixels: Tensor  # (P,) of 0 and 1: bitmap after bitmap, each row by row
    windows: Sequence[Sequence[int]]  # per region: x, y of the first pixel, width, height, position in `pixels`
    image_size: tuple[int, int]  # (height, width)


def crop_windows(images: Sequence[WindowsOfImage], boxes: Tensor, extents: Sequence[float], side: int) -> Tensor:
    """The bitmap of each region cropped to its box by `crop_bitmaps`, without a host synchronisation.

    Regions of one image with windows of similar size are padded to one size and cropped together.

    Args:
        images: with R regions in total.
        boxes: (R, 4) pixels of the image of each region.
        extents: longer side of each box in pixels, on the host, where it decides shapes.
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
    bitmaps: list[tuple[int, int, int]]  # width, height, position of each distinct bitmap
    places: list[tuple[int, int, int, int]]  # per region: row, number of its bitmap, x and y of the first pixel

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
    """Groups by image and by side lengths rounded up to powers of 2, without regions that have an empty window."""
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
    """Weights of the pixels of a window in each bin of a box, along one axis.

    Args:
        extents: (R, 2) first and last coordinate of the boxes, image pixels.
        bins: per box.
        image_length: pixels of the image along this axis. Samples up to one pixel outside the image have the value at
            its border, others are 0.
        window_starts: (R,) int64 first pixel of each window.
        window_length: pixels of a window; the mask is 0 outside.
        max_samples: at least ceil(extent / bins) of the longest box.

    Returns:
        (R, bins, window_length) weights summed over samples, and (R,) the number of samples per bin, at least 1.
    """
    starts, ends = (extents - 0.5).unbind(dim=1)  # pixel centres are at integers from here on
    samples = ((ends - starts) / bins).ceil().clamp(min=0)
    lower, fraction, is_counted = bin_samples(
        starts, ends - starts, bins, samples=samples, max_samples=max_samples, length=image_length
    )
    weights = window_weights(lower.long() - window_starts[:, None, None], fraction, is_counted, window_length)
    return weights, samples.clamp(min=1)


def crop_bitmaps(
    bitmaps: Tensor, origins: Tensor, boxes: Tensor, side: int, *, image_size: tuple[int, int], max_samples: int
) -> Tensor:
    """The bitmap of each window inside its box: ROIAlign of the full-image bitmap, thresholded at 0.5.

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
    # Under autocast the products would be bfloat16, which is too imprecise for the threshold.
    with torch.autocast(bitmaps.device.type, enabled=False):
        sums = vertical @ bitmaps.to(vertical.dtype) @ horizontal.mT
    # Sums are compared, not means: the division could round a mean of exactly 0.5 down.
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


def part_of(mask: MaskWindow, box: tuple[int, int, int, int]) -> MaskWindow:
    """The part of a mask in a box of whole pixels of the image; its bitmap is a view.

    Args:
        mask: of an object.
        box: x1, y1, x2, y2.
    """
    left, top, right, bottom = mask.box
    x, y = max(left, box[0]), max(top, box[1])
    end_x, end_y = max(min(right, box[2]), x), max(min(bottom, box[3]), y)
    return MaskWindow(x, y, mask.bitmap[y - top : end_y - top, x - left : end_x - left])


def common_pixels(mask: MaskWindow, other: MaskWindow) -> int:
    """The number of pixels that two masks share.

    Args:
        mask: of an object.
        other: of another one.
    """
    return int(np.count_nonzero(part_of(mask, other.box).bitmap & part_of(other, mask.box).bitmap))


def overlapping_pairs(boxes: NDArray[np.int64], others: NDArray[np.int64]) -> list[tuple[int, int]]:
    """The pairs of boxes that share pixels: rows of the first and of the second.

    Args:
        boxes: (R, 4) x1, y1, x2, y2.
        others: (S, 4).
    """
    lower = np.maximum(boxes[:, None, :2], others[:, :2])
    upper = np.minimum(boxes[:, None, 2:], others[:, 2:])
    return [(row, other) for row, other in np.argwhere((upper > lower).all(axis=2)).tolist()]


def tight_box(bitmap: NDArray[Any]) -> tuple[int, int, int, int] | None:
    """x1, y1, x2, y2 around the nonzero pixels of an (H, W) bitmap; x2 and y2 are excluded. None where all are 0."""
    rows, columns = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
    if len(rows) == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def paste_masks(
    probabilities: NDArray[np.float32], boxes: NDArray[np.float32], image_size: tuple[int, int], *, threshold: float
) -> list[MaskWindow]:
    """The pixels where each mask reaches the threshold.

    Args:
        probabilities: (R, M, M) in [0, 1].
        boxes: (R, 4) pixels of the image, which may extend outside.
        image_size: (height, width).
        threshold: least probability of a mask pixel, above 0.

    Returns:
        R windows inside the image, empty for boxes without area or outside the image.
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
    """The part of the image where each mask can reach the threshold.

    Args:
        boxes: (R, 4) pixels.
        side: M, rows and columns of the probabilities.
        image_size: (height, width).
        threshold: least probability of a mask pixel.

    Returns:
        (R, 4) int64 left, top, right, bottom; right and bottom are excluded.
    """
    height, width = image_size
    sizes = boxes[:, 2:] - boxes[:, :2]
    # With zero padding the probability on the border of the box is at most 0.5: only lower thresholds reach outside.
    margin = sizes / side * max(0.0, 0.5 - threshold)
    lowest = np.floor(boxes[:, :2] - margin)
    highest = np.ceil(boxes[:, 2:] + margin)
    limits = np.array([width, height], dtype=np.float32)
    lowest, highest = np.clip(lowest, 0, limits), np.clip(highest, 0, limits)
    is_empty = ((highest <= lowest) | (sizes <= 0)).any(axis=1, keepdims=True)
    return np.concatenate((lowest, np.where(is_empty, lowest, highest)), axis=1).astype(np.int64)


def stretch(values: NDArray[np.float32], start: float, end: float, first: int, last: int) -> NDArray[np.float32]:
    """Rows placed evenly from `start` to `end`, interpolated at the centres of the pixels first to last - 1.

    Args:
        values: (M, n).
        start: image coordinate of the upper edge of the first row.
        end: image coordinate of the lower edge of the last row.
        first: first pixel.
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
