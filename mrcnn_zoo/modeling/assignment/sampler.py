"""Which of the labelled boxes take part in a training step."""

import torch
from torch import Tensor

from mrcnn_zoo.modeling.assignment.matcher import NEGATIVE, POSITIVE
from mrcnn_zoo.registries import SAMPLERS


class RandomSampler:
    """A random subset of fixed size with a bounded share of positives; negatives fill what positives leave free.

    Draws from torch's generator of the labels' device, and only where there is something to leave out.

    Source: Girshick 2015 (Fast R-CNN), sec. 2.3.

    Args:
        count: boxes an image, fewer where there are not enough.
        positive_fraction: upper bound of the share of positives, in [0, 1].
    """

    def __init__(self, count: int, *, positive_fraction: float) -> None:
        self.count = count
        self.positive_fraction = positive_fraction

    def sample(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the sampled positives and of the sampled negatives: (R,) labels -> (P,), (M,) int64."""
        positives = _subset((labels == POSITIVE).nonzero().flatten(), int(self.count * self.positive_fraction))
        negatives = _subset((labels == NEGATIVE).nonzero().flatten(), self.count - len(positives))
        return positives, negatives


def _subset(rows: Tensor, count: int) -> Tensor:
    if len(rows) <= count:
        return rows
    return rows[torch.randperm(len(rows), device=rows.device)[:count]]


@SAMPLERS.register("RandomSampler")
def build_random_sampler(count: int, *, positive_fraction: float) -> RandomSampler:
    """Uniformly random."""
    return RandomSampler(count, positive_fraction=positive_fraction)
