"""Levels above the coarsest one of a feature pyramid."""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrcnn_zoo.layers import Conv2d, fill_for_linear


class TopBlock(Protocol):
    """Makes levels, each half the resolution of the one before, out of one map."""

    num_levels: int

    def __call__(self, source: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> maps from fine to coarse; sides are halved and rounded up."""
        ...


class MaxPoolLevel(nn.Module):
    """One more level by dropping every second cell of the coarsest map; it has no parameters.

    Source: Lin et al. 2017 (Feature Pyramid Networks), sec. 4.1, footnote on P6.
    """

    num_levels = 1

    def forward(self, source: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> [(N, C, H / 2, W / 2)]."""
        return [F.max_pool2d(source, kernel_size=1, stride=2)]


class ConvLevels(nn.Module):
    """Two more levels, P6 and P7, by 3 x 3 convolutions with stride 2.

    Source: Lin et al. 2017 (Focal Loss), sec. 4, footnote 2.

    Args:
        in_channels: C of the map that P6 is made of.
        out_channels: C of both levels.
    """

    num_levels = 2

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.p6 = Conv2d(in_channels, out_channels, 3, stride=2)
        self.p7 = Conv2d(out_channels, out_channels, 3, stride=2)
        fill_for_linear(self.p6)
        fill_for_linear(self.p7)

    def forward(self, source: Tensor) -> list[Tensor]:
        """(N, C_in, H, W) -> P6 of (N, C_out, H / 2, W / 2), P7 of half that."""
        p6 = self.p6(source)
        return [p6, self.p7(torch.relu(p6))]
