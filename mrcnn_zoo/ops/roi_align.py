"""RoIAlign on the CPU: sample positions along one axis, a separable gradient, and pooling of channels-last maps.

The weight of a feature cell in a pooled cell is the product of a vertical and a horizontal weight. The gradient of a
region is therefore `vertical.T @ gradient @ horizontal`: two small matrix products, added to the window of feature
cells under the region. torchvision's CPU kernel adds each channel of each sample separately, on one thread; see
dev/BENCHMARKS.md for the times.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def bin_samples(
    starts: Tensor, sizes: Tensor, bins: int, *, samples: Tensor, max_samples: int, length: int
) -> tuple[Tensor, Tensor, Tensor]:
    """RoIAlign sample positions along one axis.

    Source: He et al. 2017 (Mask R-CNN), section 3, "RoIAlign".

    Args:
        starts: (R,) first coordinate of each region, cells; centres of cells are at integers.
        sizes: (R,) extent of each region, cells.
        bins: per region.
        samples: (R,) per bin of a region, of the dtype of the starts.
        max_samples: at least the largest of `samples`.
        length: cells along the axis. Samples up to one cell outside have the value at the border; others are excluded.

    Returns:
        (R, bins, max_samples) each: the lower cell as a float, the fraction of the way to the next cell, and whether
        the sample exists and is not excluded.
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


def window_weights(cells: Tensor, fraction: Tensor, factors: Tensor, length: int) -> Tensor:
    """Sum the weights of bilinear samples per cell of a window along one axis.

    Args:
        cells: (R, bins, samples) int64 lower cell of each sample, counted from the start of the window.
        fraction: (R, bins, samples) of the way to the next cell.
        factors: (R, bins, samples) weight of each sample; 0 excludes it.
        length: cells of the window; weights of cells outside are dropped.

    Returns:
        (R, bins, length) of the dtype of the fractions.
    """
    weights = fraction.new_zeros((*cells.shape[:2], length))
    for cell, weight in ((cells, 1 - fraction), (cells + 1, fraction)):
        is_inside = (cell >= 0) & (cell < length)
        weights.scatter_add_(2, cell.clamp(0, length - 1), weight * factors * is_inside)
    return weights


class SeparableRoIAlign(torch.autograd.Function):
    """`torchvision.ops.roi_align` with `roi_align_gradient` as backward; arguments as `roi_pooling.roi_align`."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, regions: Tensor, side: int, scale: float, sampling_ratio: int, aligned: bool
    ) -> Tensor:
        ctx.save_for_backward(regions)
        ctx.shape = features.shape
        ctx.settings = (side, scale, sampling_ratio, aligned)
        from torchvision.ops import roi_align

        return roi_align(features, regions, side, scale, sampling_ratio, aligned)

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
    """The gradient of RoIAlign with respect to the feature map.

    Args:
        gradient: (R, C, side, side) of the pooled maps.
        regions: (R, 5) image number, and x1 y1 x2 y2 in image pixels.
        shape: (N, C, H, W) of the feature map.
        side: rows and columns of the pooled maps.
        scale: cells of the feature map per image pixel.
        sampling_ratio: as in `roi_pooling.roi_align`.
        aligned: as in `roi_pooling.roi_align`.

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
    """Weights of the feature cells in each bin along one axis.

    Returns:
        (R, window, bins) weights, (R,) first cell and (R,) size of the window of each region.
    """
    lower, fraction, factors = _axis_samples(extents, bins, length, sampling_ratio, aligned)
    first = lower.flatten(1).amin(dim=1).long()
    windows = (lower.flatten(1).amax(dim=1).long() + 2).clamp(max=length) - first
    weights = window_weights(lower.long() - first[:, None, None], fraction, factors, int(windows.max()))
    return weights.mT.contiguous(), first, windows


def _axis_samples(
    extents: Tensor, bins: int, length: int, sampling_ratio: int, aligned: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(R, bins, samples) each: the lower cell of each sample, the fraction of the way to the next, and its weight."""
    starts, sizes = extents[:, 0], extents[:, 1] - extents[:, 0]
    if not aligned:
        sizes = sizes.clamp(min=1.0)
    samples = torch.full_like(sizes, sampling_ratio) if sampling_ratio > 0 else (sizes / bins).ceil().clamp(min=0)
    max_samples = int(samples.max().clamp(min=1))
    lower, fraction, is_counted = bin_samples(
        starts, sizes, bins, samples=samples, max_samples=max_samples, length=length
    )
    return lower, fraction, is_counted / samples.clamp(min=1)[:, None, None]


def roi_align_of_rows(
    features: Tensor, regions: Tensor, side: int, scale: float, sampling_ratio: int, aligned: bool
) -> Tensor:
    """RoIAlign of channels-last maps without gradient; arguments and result as `roi_pooling.roi_align`.

    A cell of a channels-last map is a row of a table, and a pooled cell a weighted sum of rows, in which the weights of
    all samples of a feature cell are added before: with two samples along each axis these are 9 rows, not 16.
    torchvision's kernel reads each channel of each sample separately, from a copy of the map in the other order.

    Args:
        features: (N, C, H, W), in channels-last order; in half precision the weights are rounded, too.
        regions: see `roi_pooling.roi_align`.
        side: see `roi_pooling.roi_align`.
        scale: see `roi_pooling.roi_align`.
        sampling_ratio: see `roi_pooling.roi_align`.
        aligned: see `roi_pooling.roi_align`.

    Returns:
        (R, C, side, side) in channels-last order.
    """
    channels, height, width = features.shape[1:]
    table = features.permute(0, 2, 3, 1).reshape(-1, channels)
    extents = regions[:, 1:] * scale - (0.5 if aligned else 0.0)
    row_weights, row_cells, num_rows = _bin_weights(extents[:, 1::2], side, height, sampling_ratio, aligned)
    column_weights, column_cells, num_columns = _bin_weights(extents[:, 0::2], side, width, sampling_ratio, aligned)
    row_cells = (row_cells + regions[:, 0].long()[:, None, None] * height) * width
    # Entry k of a pooled cell is cell k // num_columns, k % num_columns of its window.
    bins = torch.arange(len(regions) * side**2)
    counts = (num_rows * num_columns).repeat_interleave(side**2)
    starts = counts.cumsum(0) - counts
    bin_of_entry = bins.repeat_interleave(counts)
    entry = torch.arange(len(bin_of_entry)) - starts[bin_of_entry]
    region = bins // side**2
    columns = num_columns[region][bin_of_entry]
    row = entry // columns
    row_start = (bins // side) * row_cells.shape[2]
    column_start = (region * side + bins % side) * column_cells.shape[2]
    of_row = row_start[bin_of_entry] + row
    of_column = column_start[bin_of_entry] + entry - row * columns
    cells = row_cells.flatten()[of_row] + column_cells.flatten()[of_column]
    weights = row_weights.flatten()[of_row] * column_weights.flatten()[of_column]
    pooled = F.embedding_bag(cells, table, starts, mode="sum", per_sample_weights=weights.to(table.dtype))
    return pooled.view(len(regions), side, side, channels).permute(0, 3, 1, 2)


def _bin_weights(
    extents: Tensor, bins: int, length: int, sampling_ratio: int, aligned: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The feature cells of each bin along one axis.

    Returns:
        (R, bins, window) weights and cells, int64 inside the map, and (R,) how many of the window each region uses.
    """
    lower, fraction, factors = _axis_samples(extents, bins, length, sampling_ratio, aligned)
    lower = torch.where(factors > 0, lower, lower[:, :, :1])  # samples that do not count need no cells
    first = lower.amin(dim=2, keepdim=True)
    in_window = (lower - first).long()
    windows = in_window.flatten(1).amax(dim=1) + 2
    size = int(windows.max())
    weights = window_weights(in_window, fraction, factors, size)
    return weights, (first.long() + torch.arange(size)).clamp(max=length - 1), windows
