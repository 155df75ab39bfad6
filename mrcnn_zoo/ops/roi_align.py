"""RoIAlign sample positions along one axis, and RoIAlign with a separable gradient on the CPU.

The weight of a feature cell in a pooled cell is a product of a vertical and a horizontal weight. The gradient of a
region is therefore `vertical.T @ gradient @ horizontal`: two small matrix products on the window of cells that the
region touches, added to the feature map as a block. torchvision's kernel adds every channel of every sample on its own,
on one thread; see dev/BENCHMARKS.md for the ratio.
"""

from typing import Any

import torch
import torchvision
from torch import Tensor
from torch.autograd.function import once_differentiable


def bin_samples(
    starts: Tensor, sizes: Tensor, bins: int, *, samples: Tensor, max_samples: int, length: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The cells between which the samples of each bin lie.

    Source: He et al. 2017 (Mask R-CNN), section 3, "RoIAlign".

    Args:
        starts: (R,) first coordinate of each region, cells; centres of cells are at integers.
        sizes: (R,) extent of each region, cells.
        bins: that a region is divided into.
        samples: (R,) in each bin of a region, of the dtype of the starts.
        max_samples: at least the largest of them.
        length: cells along the axis. Samples up to one cell outside take the value at the border, farther ones none.

    Returns:
        (R, bins, max_samples) each: the lower cell as a float, the fraction of the way to the next cell, and whether
        the sample counts.
    """
    steps = torch.arange(max_samples, device=starts.device)
    bin_sizes = sizes / bins
    in_bin = (steps + 0.5) * bin_sizes[:, None] / samples.clamp(min=1)[:, None]
    bin_starts = starts[:, None] + bin_sizes[:, None] * torch.arange(bins, device=starts.device)
    positions = bin_starts[:, :, None] + in_bin[:, None, :]
    is_counted = (steps < samples[:, None])[:, None] & (positions >= -1) & (positions <= length)
    positions = positions.clamp(0, length - 1)
    lower = positions.floor()
    return lower, positions - lower, is_counted


class SeparableRoIAlign(torch.autograd.Function):
    """`torchvision.ops.roi_align` with another backward; arguments as `roi_pooling.roi_align`, by position."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, regions: Tensor, side: int, scale: float, sampling_ratio: int, aligned: bool
    ) -> Tensor:
        ctx.save_for_backward(regions)
        ctx.shape = features.shape
        ctx.settings = (side, scale, sampling_ratio, aligned)
        return torchvision.ops.roi_align(features, regions, side, scale, sampling_ratio, aligned)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (regions,) = ctx.saved_tensors
        return roi_align_gradient(gradient, regions, ctx.shape, *ctx.settings), None, None, None, None, None


def roi_align_gradient(
    gradient: Tensor,
    regions: Tensor,
    shape: tuple[int, ...],
    side: int,
    scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """The gradient of the feature map.

    Args:
        gradient: (R, C, side, side) of the pooled maps.
        regions: (R, 5) row of the image, and x1 y1 x2 y2 in image pixels.
        shape: (N, C, H, W) of the feature map.
        side: rows and columns of the pooled maps.
        scale: cells of the feature map per image pixel.
        sampling_ratio: samples along each side of a pooled cell; 0 is adaptive.
        aligned: as in `mrcnn_zoo.ops.roi_pooling.roi_align`.

    Returns:
        (N, C, H, W) in channels-last order.
    """
    count, channels, height, width = shape
    total = gradient.new_zeros((count, height, width, channels))
    if len(regions):
        extents = regions[:, 1:] * scale - (0.5 if aligned else 0.0)
        vertical, tops, rows = _axis_weights(extents[:, 1::2], side, height, sampling_ratio, aligned)
        horizontal, lefts, columns = _axis_weights(extents[:, 0::2], side, width, sampling_ratio, aligned)
        by_rows = gradient.permute(0, 2, 3, 1).reshape(len(regions), side, side * channels)
        images = regions[:, 0].long().tolist()
        windows = zip(images, tops.tolist(), rows.tolist(), lefts.tolist(), columns.tolist(), strict=True)
        for region, (image, top, num_rows, left, num_columns) in enumerate(windows):
            spread = vertical[region, :num_rows] @ by_rows[region]  # (rows, side * C)
            block = horizontal[region, :num_columns] @ spread.view(num_rows, side, channels)  # (rows, columns, C)
            total[image, top : top + num_rows, left : left + num_columns] += block
    return total.permute(0, 3, 1, 2)


def _axis_weights(
    extents: Tensor, bins: int, length: int, sampling_ratio: int, aligned: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Share of each feature cell in each bin along one axis: (R, window, bins), first cells (R,), window sizes (R,)."""
    starts, sizes = extents[:, 0], extents[:, 1] - extents[:, 0]
    if not aligned:
        sizes = sizes.clamp(min=1.0)
    samples = torch.full_like(sizes, sampling_ratio) if sampling_ratio > 0 else (sizes / bins).ceil().clamp(min=0)
    max_samples = int(samples.max().clamp(min=1))
    lower, fraction, is_counted = bin_samples(
        starts, sizes, bins, samples=samples, max_samples=max_samples, length=length
    )
    first = lower.flatten(1).amin(dim=1).long()
    windows = (lower.flatten(1).amax(dim=1).long() + 2).clamp(max=length) - first
    cells = lower.long() - first[:, None, None]
    weights = extents.new_zeros((len(extents), bins, int(windows.max()) + 1))  # one column more: weight 0 at the end
    scaled = is_counted / samples.clamp(min=1)[:, None, None]
    weights.scatter_add_(2, cells, (1 - fraction) * scaled)
    weights.scatter_add_(2, cells + 1, fraction * scaled)
    return weights.mT.contiguous(), first, windows
