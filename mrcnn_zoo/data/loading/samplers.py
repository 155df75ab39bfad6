"""Order of the training images, and the endless sequence of training batches.

The order of an epoch depends only on its number and the seed, so a run can be resumed at any position.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, count, islice
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.registries import DATA_SAMPLERS
from mrcnn_zoo.structures import ImageSize

# Independent streams of random numbers of one seed.
SHUFFLE_STREAM, SUBSET_STREAM, SAMPLE_STREAM, GROUP_STREAM = 0, 1, 2, 3


class DataSampler(Protocol):
    """The order of images per epoch."""

    def epoch(self, number: int) -> NDArray[np.int64]:
        """(n,) rows of the dataset in the order of epoch `number`, counted from 0; n is at least 1."""
        ...


class TrainingSampler:
    """Every image once per epoch, shuffled per epoch.

    Args:
        size: number of images.
        seed: at least 0.
    """

    def __init__(self, size: int, *, seed: int) -> None:
        self.size = size
        self.seed = seed

    def epoch(self, number: int) -> NDArray[np.int64]:
        """(size,) a permutation of the rows; see `DataSampler`."""
        return generator(self.seed, SHUFFLE_STREAM, number).permutation(self.size)


class RandomSubsetTrainingSampler:
    """Every image of a fixed random subset once per epoch.

    Args:
        size: number of images.
        ratio: share of the images in the subset, in (0, 1].
        seed: of the subset and its order, at least 0.
    """

    def __init__(self, size: int, *, ratio: float, seed: int) -> None:
        count = max(1, int(size * ratio))
        self.subset = np.sort(generator(seed, SUBSET_STREAM, 0).permutation(size)[:count])
        self.shuffle = TrainingSampler(count, seed=seed)

    def epoch(self, number: int) -> NDArray[np.int64]:
        """(n,) the rows of the subset in random order; see `DataSampler`."""
        return self.subset[self.shuffle.epoch(number)]


class RepeatFactorTrainingSampler:
    """Images with rare classes several times per epoch.

    A factor of 2.3 is rounded to 2 in 70% of the epochs and to 3 in the others.
    Source: Gupta et al. 2019 (LVIS), appendix B.2.

    Args:
        factors: (images,) mean repetitions per epoch, at least 1.
        seed: at least 0.
    """

    def __init__(self, factors: NDArray[np.float64], *, seed: int) -> None:
        self.factors = factors
        self.seed = seed

    def epoch(self, number: int) -> NDArray[np.int64]:
        """(n,) rows repeated by their randomly rounded factors, in random order; see `DataSampler`."""
        rng = generator(self.seed, SHUFFLE_STREAM, number)
        whole = np.floor(self.factors)
        times = (whole + (rng.random(len(self.factors)) < self.factors - whole)).astype(np.int64)
        return rng.permutation(np.repeat(np.arange(len(times)), times))


class ClassBalancedTrainingSampler:
    """As many images of each group per epoch, shuffled; no image of a group is repeated before all of it is drawn.

    Args:
        groups: (images,) number of the group of each image, such as its class.
        seed: at least 0.
    """

    def __init__(self, groups: Sequence[int], *, seed: int) -> None:
        numbers = np.asarray(groups, dtype=np.int64)
        self.rows = [np.flatnonzero(numbers == number) for number in np.unique(numbers)]
        self.per_group = -(-len(numbers) // len(self.rows))
        self.seed = seed

    def epoch(self, number: int) -> NDArray[np.int64]:
        """(n,) rows in random order, equally many of each group; see `DataSampler`."""
        drawn = [self._draw(group, number * self.per_group) for group in range(len(self.rows))]
        return generator(self.seed, SHUFFLE_STREAM, number).permutation(np.concatenate(drawn))

    def _draw(self, group: int, start: int) -> NDArray[np.int64]:
        """`per_group` rows of a group from a position on in its endless sequence of permutations."""
        rows = self.rows[group]
        first, last = start // len(rows), (start + self.per_group - 1) // len(rows)
        cycles = [
            np.random.default_rng([self.seed, GROUP_STREAM, group, cycle]).permutation(rows)
            for cycle in range(first, last + 1)
        ]
        return np.concatenate(cycles)[start - first * len(rows) :][: self.per_group]


def repeat_factors(
    classes_of_images: Sequence[Sequence[int]], threshold: float, *, is_sqrt: bool
) -> NDArray[np.float64]:
    """Repetitions per image that oversample rare classes.

    Args:
        classes_of_images: the class indices in each image.
        threshold: share of images below which a class is rare.
        is_sqrt: whether the factor is sqrt(threshold / share), as in LVIS, or threshold / share.

    Returns:
        (images,) the largest factor of the classes in an image, at least 1.

    Source: Gupta et al. 2019 (LVIS), appendix B.2.
    """
    images_with = Counter(index for classes in classes_of_images for index in set(classes))
    factors: dict[int, float] = {}
    for index, number in images_with.items():
        ratio = threshold * len(classes_of_images) / number
        factors[index] = max(1.0, math.sqrt(ratio) if is_sqrt else ratio)
    return np.array([max((factors[index] for index in classes), default=1.0) for classes in classes_of_images])


def generator(seed: int, stream: int, number: int) -> np.random.Generator:
    """The random generator of an epoch, a subset or a sample.

    Args:
        seed: of the data.
        stream: one of the *_STREAM constants.
        number: of the epoch, or position of the sample.
    """
    return np.random.default_rng([seed, stream, number])


@DATA_SAMPLERS.register("TrainingSampler")
def build_training_sampler(cfg: CfgNode, dataset: Dataset, seed: int) -> DataSampler:  # noqa: ARG001
    """The shuffle of all images."""
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


@DATA_SAMPLERS.register("ClassBalancedTrainingSampler")
def build_class_balanced_sampler(cfg: CfgNode, dataset: Dataset, seed: int) -> DataSampler:  # noqa: ARG001
    """The shuffle with as many images of each class as without object; of several classes in an image the rarest."""
    classes = [{item.class_index for item in record.instances if not item.is_crowd} for record in dataset.records]
    counts = Counter(chain.from_iterable(classes))
    no_object = len(dataset.class_names)
    groups = [min(present, key=lambda index: (counts[index], index), default=no_object) for present in classes]
    return ClassBalancedTrainingSampler(groups, seed=seed)


class Draw(NamedTuple):
    """One image in the sequence of training images."""

    position: int  # in the sequence since the start of the first epoch; seeds the augmentation
    row: int  # of the dataset


BatchDraws = list[Draw]  # the images of one batch


class BatchStream:
    """Global batches of images of one group.

    Args:
        sampler: the order of the images.
        batch_size: images of all processes.
        groups: the group of each row of the dataset, e.g. its orientation; a batch has rows of one group. None: one
            group.
    """

    def __init__(self, sampler: DataSampler, *, batch_size: int, groups: Sequence[int] | None = None) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self.groups = groups

    def batches(self, start: int = 0) -> Iterator[BatchDraws]:
        """The endless sequence of batches from number `start` on."""
        return islice(self._batches(), start, None)

    def _batches(self) -> Iterator[BatchDraws]:
        """A batch is complete when its group has enough images; incomplete ones continue in the next epoch."""
        waiting: dict[int, BatchDraws] = defaultdict(list)
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
    """1 for images wider than high, 0 for others; batches of one orientation need little padding."""
    return [int(width > height) for height, width in sizes]


def share_of_rank(batch: BatchDraws, rank: int, world_size: int) -> BatchDraws:
    """The part of a global batch of one process.

    Args:
        batch: of all processes, a multiple of `world_size`.
        rank: of the process.
        world_size: number of processes.
    """
    size = len(batch) // world_size
    return batch[rank * size : (rank + 1) * size]


def contiguous_share(count: int, rank: int, world_size: int) -> range:
    """The rows that one process evaluates; shares are contiguous, which keeps the order of the dataset.

    Args:
        count: rows of all processes.
        rank: of the process.
        world_size: number of processes.
    """
    return range(count * rank // world_size, count * (rank + 1) // world_size)
