"""Order of the training images, and the endless sequence of training batches.

A sampler says the order of any epoch from its number alone, so that a run can be resumed at any position.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import count, islice
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.registries import DATA_SAMPLERS
from mrcnn_zoo.structures import ImageSize

# Streams of random numbers that must not be the same for the same seed.
SHUFFLE_STREAM, SUBSET_STREAM, SAMPLE_STREAM = 0, 1, 2


class DataSampler(Protocol):
    """The order of images, epoch by epoch."""

    def epoch(self, number: int) -> NDArray[np.int64]:
        """Rows of the dataset in the order of epoch `number`, from 0 on; at least one."""
        ...


class TrainingSampler:
    """Every image once an epoch, shuffled anew each time.

    Args:
        size: number of images.
        seed: at least 0.
    """

    def __init__(self, size: int, *, seed: int) -> None:
        self.size = size
        self.seed = seed

    def epoch(self, number: int) -> NDArray[np.int64]:
        """A permutation."""
        return generator(self.seed, SHUFFLE_STREAM, number).permutation(self.size)


class RandomSubsetTrainingSampler:
    """Every image of a random subset once an epoch; the subset is drawn once.

    Args:
        size: number of images.
        ratio: share of them in the subset.
        seed: at least 0; draws the subset and its order.
    """

    def __init__(self, size: int, *, ratio: float, seed: int) -> None:
        count = max(1, int(size * ratio))
        self.subset = np.sort(generator(seed, SUBSET_STREAM, 0).permutation(size)[:count])
        self.shuffle = TrainingSampler(count, seed=seed)

    def epoch(self, number: int) -> NDArray[np.int64]:
        """The subset in random order."""
        return self.subset[self.shuffle.epoch(number)]


class RepeatFactorTrainingSampler:
    """Images with rare classes several times an epoch.

    A factor such as 2.3 is 2 in seven epochs of ten and 3 in the others.
    Source: Gupta et al. 2019 (LVIS), appendix B.2.

    Args:
        factors: how often each image comes, at least 1.
        seed: at least 0.
    """

    def __init__(self, factors: NDArray[np.float64], *, seed: int) -> None:
        self.factors = factors
        self.seed = seed

    def epoch(self, number: int) -> NDArray[np.int64]:
        """Images repeated by their factors, which are rounded up or down at random, in random order."""
        rng = generator(self.seed, SHUFFLE_STREAM, number)
        whole = np.floor(self.factors)
        times = (whole + (rng.random(len(self.factors)) < self.factors - whole)).astype(np.int64)
        return rng.permutation(np.repeat(np.arange(len(times)), times))


def repeat_factors(
    classes_of_images: Sequence[Sequence[int]], threshold: float, *, is_sqrt: bool
) -> NDArray[np.float64]:
    """How often each image should come so that rare classes are seen more often.

    Args:
        classes_of_images: the classes in each image.
        threshold: share of images below which a class is rare.
        is_sqrt: take the square root of threshold / share, as LVIS does.

    Returns:
        (images,) the largest factor of the classes in an image, at least 1.
    """
    images_with = Counter(index for classes in classes_of_images for index in set(classes))
    factors: dict[int, float] = {}
    for index, number in images_with.items():
        ratio = threshold * len(classes_of_images) / number
        factors[index] = max(1.0, math.sqrt(ratio) if is_sqrt else ratio)
    return np.array([max((factors[index] for index in classes), default=1.0) for classes in classes_of_images])


def generator(seed: int, stream: int, number: int) -> np.random.Generator:
    """The random numbers of one epoch, one subset or one sample."""
    return np.random.default_rng([seed, stream, number])


@DATA_SAMPLERS.register("TrainingSampler")
def build_training_sampler(cfg: CfgNode, dataset: Dataset, seed: int) -> DataSampler:  # noqa: ARG001
    """The shuffle."""
    return TrainingSampler(len(dataset), seed=seed)


@DATA_SAMPLERS.register("RandomSubsetTrainingSampler")
def build_random_subset_sampler(cfg: CfgNode, dataset: Dataset, seed: int) -> DataSampler:
    """The shuffle of a share of the images."""
    ratio = cfg.DATALOADER.RANDOM_SUBSET_RATIO
    return RandomSubsetTrainingSampler(len(dataset), ratio=ratio, seed=seed)


@DATA_SAMPLERS.register("RepeatFactorTrainingSampler")
def build_repeat_factor_sampler(cfg: CfgNode, dataset: Dataset, seed: int) -> DataSampler:
    """The shuffle that repeats rare classes."""
    classes = [[item.class_index for item in record.instances if not item.is_crowd] for record in dataset.records]
    factors = repeat_factors(classes, cfg.DATALOADER.REPEAT_THRESHOLD, is_sqrt=cfg.DATALOADER.REPEAT_SQRT)
    return RepeatFactorTrainingSampler(factors, seed=seed)


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
