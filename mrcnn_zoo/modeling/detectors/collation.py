"""The first step of every detector: from samples to one batch."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mrcnn_zoo.structures import Batch, Sample


class Collation(nn.Module):
    """Normalises images and pads them to one size that the backbone can halve often enough.

    Args:
        pixel_mean: of each input channel, pixel units.
        pixel_std: of each input channel, pixel units.
        size_divisibility: height and width become multiples of this.
    """

    pixel_mean: Tensor  # (C, 1, 1)
    pixel_std: Tensor  # (C, 1, 1)

    def __init__(self, pixel_mean: Sequence[float], pixel_std: Sequence[float], *, size_divisibility: int) -> None:
        super().__init__()
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32)[:, None, None], persistent=False)
        self.size_divisibility = size_divisibility

    def forward(self, samples: Sequence[Sample]) -> Batch:
        """The samples as a batch, on the device of the model."""
        return Batch.collate(
            samples,
            pixel_mean=self.pixel_mean,
            pixel_std=self.pixel_std,
            size_divisibility=self.size_divisibility,
        )
