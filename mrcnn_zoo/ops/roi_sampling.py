"""Bilinear samples of feature maps, at the crossings of the rows and columns that each region chooses.

A sample is a weighted sum of four cells, and a cell of a map in channels-last order is a row of a table. So all samples
of all regions are one look-up in that table, with a gradient for the cells and for the coordinates.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mrcnn_zoo.ops.bin_samples import bin_samples


@dataclass(frozen=True)
class Taps:
    """The two cells of each sample along one axis, and how much of each it takes."""

    cells: Tensor  # (R, P, 2) int64, inside the map
    weights: Tensor  # (R, P, 2) in [0, 1], 0 for cells that are not there

    def only_where(self, is_counted: Tensor) -> "Taps":
        """The same taps, with weight 0 where the sample does not count: (R, P) bool."""
        return Taps(self.cells, self.weights * is_counted[:, :, None])


def taps_at(positions: Tensor, length: int) -> Taps:
    """The cells on both sides of each position; all beyond the map is 0.

    Args:
        positions: (R, P) cells; centres of cells are at integers.
        length: cells along the axis.
    """
    lower = positions.detach().floor()
    fraction = positions - lower
    cells = torch.stack((lower, lower + 1), dim=2)
    is_inside = (cells >= 0) & (cells < length)
    weights = torch.stack((1 - fraction, fraction), dim=2) * is_inside
    return Taps(cells.clamp(0, length - 1).long(), weights)


def taps_in_bins(starts: Tensor, sizes: Tensor, bins: int, *, samples: Tensor, max_samples: int, length: int) -> Taps:
    """The samples that RoIAlign takes along one axis, bin after bin: P is bins * max_samples; see `bin_samples`."""
    lower, fraction, is_counted = bin_samples(
        starts, sizes, bins, samples=samples, max_samples=max_samples, length=length
    )
    # Positions are clamped to the map, so the upper cell is missing only where its weight is 0: taps_at then agrees.
    return taps_at((lower + fraction).flatten(1), length).only_where(is_counted.flatten(1))


def sample(features: Tensor, images: Tensor, vertical: Taps, horizontal: Taps) -> Tensor:
    """The values at the crossings of P rows and Q columns of each region.

    Args:
        features: (N, C, H, W).
        images: (R,) int64 row of the image that each region is on.
        vertical: taps of the R x P rows.
        horizontal: taps of the R x Q columns.

    Returns:
        (R, P, Q, C).
    """
    _, channels, height, width = features.shape
    table = features.permute(0, 2, 3, 1).reshape(-1, channels)  # row (n * H + y) * W + x
    rows = images[:, None, None] * height + vertical.cells
    cells = rows[:, :, None, :, None] * width + horizontal.cells[:, None, :, None, :]  # (R, P, Q, 2, 2)
    weights = vertical.weights[:, :, None, :, None] * horizontal.weights[:, None, :, None, :]
    values = F.embedding_bag(
        cells.reshape(-1, 4), table, mode="sum", per_sample_weights=weights.reshape(-1, 4).to(table.dtype)
    )
    return values.view(*cells.shape[:3], channels)
