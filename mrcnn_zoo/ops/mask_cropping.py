"""Cut instance bitmaps out of an image at the resolution that a mask head predicts: ROIAlign, one axis at a time.

ROIAlign (He et al. 2017, section 3) averages bilinear samples over a regular grid in each bin. The grid is a product of
two axes, and so is bilinear interpolation; the average over bin (i, j) is therefore `vertical[i] @ bitmap @
horizontal[j]`. Two small matrix products replace thousands of single samples, and a bitmap may be any window of the
image, because a weight knows its pixel's place in the image.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from mrcnn_zoo.ops.bin_samples import bin_samples

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
