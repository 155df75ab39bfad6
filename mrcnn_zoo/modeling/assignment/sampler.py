"""Which of the labelled boxes take part in a training step."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mrcnn_zoo.modeling.assignment.matcher import NEGATIVE, POSITIVE
from mrcnn_zoo.modeling.contracts import Sampler, SamplesBatches
from mrcnn_zoo.ops.rows import rows_where
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
        return self.sample_batch([labels])[0]

    def sample_batch(self, labels: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """What `sample` returns for the labels of each image; the random draws are those of one image after another."""
        rows = rows_where([image_labels == kind for image_labels in labels for kind in (POSITIVE, NEGATIVE)])
        samples = []
        for all_positives, all_negatives in zip(rows[::2], rows[1::2], strict=True):
            positives = _subset(all_positives, int(self.count * self.positive_fraction))
            samples.append((positives, _subset(all_negatives, self.count - len(positives))))
        return samples


def sample_all(sampler: Sampler, labels: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The sampled rows of each image: at once where the sampler can, else image by image."""
    if isinstance(sampler, SamplesBatches):
        return sampler.sample_batch(labels)
    return [sampler.sample(image_labels) for image_labels in labels]


def _subset(rows: Tensor, count: int) -> Tensor:
    if len(rows) <= count:
        return rows
    return rows[torch.randperm(len(rows), device=rows.device)[:count]]


@SAMPLERS.register("RandomSampler")
def build_random_sampler(count: int, *, positive_fraction: float) -> RandomSampler:
    """Uniformly random."""
    return RandomSampler(count, positive_fraction=positive_fraction)
