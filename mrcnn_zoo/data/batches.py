"""The endless sequence of training batches, the same for the same seed, whoever reads it and from wherever."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import count, islice
from typing import NamedTuple

from mrcnn_zoo.data.samplers import DataSampler
from mrcnn_zoo.structures import ImageSize


class Draw(NamedTuple):
    """One image drawn for training."""

    position: int  # in the sequence of all draws since the first epoch began; seeds the augmentation
    row: int  # of the dataset


Batch = list[Draw]


class BatchStream:
    """Global batches, in which all images are of one group.

    Args:
        sampler: the order of the images.
        batch_size: images of all processes together.
        groups: of each row of the dataset, e.g. whether the image is wide; rows of different groups never share a
            batch. None puts all in one.
    """

    def __init__(self, sampler: DataSampler, *, batch_size: int, groups: Sequence[int] | None = None) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self.groups = groups

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """Every batch from number `start` on, without end."""
        return islice(self._batches(), start, None)

    def _batches(self) -> Iterator[Batch]:
        """A group's batch comes out when it is full; what is not full waits for the next epoch."""
        waiting: dict[int, Batch] = defaultdict(list)
        for draw in self._draws():
            group = self.groups[draw.row] if self.groups is not None else 0
            waiting[group].append(draw)
            if len(waiting[group]) == self.batch_size:
                yield waiting.pop(group)

    def _draws(self) -> Iterator[Draw]:
        position = count()
        for epoch in count():
            for row in self.sampler.epoch(epoch).tolist():
                yield Draw(next(position), row)


def orientation_groups(sizes: Sequence[ImageSize]) -> list[int]:
    """1 for images wider than high, 0 for the others; together they need little padding."""
    return [int(width > height) for height, width in sizes]


def share_of_rank(batch: Batch, rank: int, world_size: int) -> Batch:
    """The images of a global batch that one process works on."""
    size = len(batch) // world_size
    return batch[rank * size : (rank + 1) * size]


def contiguous_share(count: int, rank: int, world_size: int) -> range:
    """The rows of `count` that one process evaluates: neighbours, so that the order is that of the dataset."""
    return range(count * rank // world_size, count * (rank + 1) // world_size)
