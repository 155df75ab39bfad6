"""Where RoIAlign samples along one axis; image and features, forward and backward all sample alike."""

import torch
from torch import Tensor


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
