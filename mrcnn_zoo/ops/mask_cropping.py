"""Cut instance bitmaps out of an image at the resolution that a mask head predicts: ROIAlign, one axis at a time.

ROIAlign (He et al. 2017, section 3) averages bilinear samples over a regular grid in each bin. The grid is a product of
two axes, and so is bilinear interpolation; the average over bin (i, j) is therefore `vertical[i] @ bitmap @
horizontal[j]`. Two small matrix products replace thousands of single samples, and a bitmap may be any window of the
image, because a weight knows its pixel's place in the image.
"""

import torch
from torch import Tensor

from mrcnn_zoo.ops.bin_samples import bin_samples


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
