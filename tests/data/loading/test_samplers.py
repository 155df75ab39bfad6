"""The order of training images and the sequence of batches."""

from itertools import chain, islice

import numpy as np
import pytest

from mrcnn_zoo.data.loading.samplers import (
    BatchStream,
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
    contiguous_share,
    orientation_groups,
    repeat_factors,
    share_of_rank,
)
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.registries import DATA_SAMPLERS


def _dataset(*classes_of_images: tuple[int, ...]) -> Dataset:
    records = tuple(
        ImageRecord(number, None, (4, 4), tuple(InstanceRecord((0, 0, 1, 1), index) for index in classes))  # type: ignore[arg-type]
        for number, classes in enumerate(classes_of_images)
    )
    return Dataset("test", records, ("a", "b"), (1, 2))


@pytest.mark.parametrize("name", DATA_SAMPLERS.names())
def test_epochs_are_valid_repeatable_and_different(cfg, name: str) -> None:
    dataset = _dataset(*[(0,)] * 20)
    samplers = [DATA_SAMPLERS.get(name)(cfg, dataset, 3) for _ in range(2)]
    orders = [[sampler.epoch(number).tolist() for number in (0, 1, 5)] for sampler in samplers]
    assert orders[0] == orders[1]
    assert orders[0][0] != orders[0][1]
    assert all(0 <= row < 20 for order in orders[0] for row in order)
    other_seed = DATA_SAMPLERS.get(name)(cfg, dataset, 4).epoch(0).tolist()
    assert other_seed != orders[0][0]


def test_every_image_is_drawn_once_per_epoch() -> None:
    assert sorted(TrainingSampler(7, seed=0).epoch(3).tolist()) == list(range(7))


def test_subset_is_the_same_in_every_epoch() -> None:
    sampler = RandomSubsetTrainingSampler(10, ratio=0.4, seed=0)
    epochs = [sampler.epoch(number).tolist() for number in range(4)]
    assert len({tuple(sorted(epoch)) for epoch in epochs}) == 1
    assert len(set(epochs[0])) == 4


def test_images_with_rare_classes_are_repeated() -> None:
    # Class 0 is in 4 of 4 images, class 1 in 1 of 4: sqrt(0.5 / 0.25) = 1.414. The rarest class of an image counts.
    factors = repeat_factors([[0], [0, 0], [0, 1], [0]], 0.5, is_sqrt=True)
    assert factors.tolist() == pytest.approx([1, 1, 2**0.5, 1])
    assert repeat_factors([[0], [0, 0], [0, 1], [0]], 0.5, is_sqrt=False).tolist() == [1, 1, 2, 1]


def test_images_without_objects_are_not_repeated() -> None:
    assert repeat_factors([[], [0]], 0.9, is_sqrt=True).tolist()[0] == 1


def test_fractional_factors_are_met_on_average() -> None:
    sampler = RepeatFactorTrainingSampler(np.array([1.0, 2.25]), seed=0)
    times = np.mean([np.bincount(sampler.epoch(number), minlength=2) for number in range(400)], axis=0)
    assert times[0] == 1
    assert times[1] == pytest.approx(2.25, abs=0.06)


def test_repeat_factors_come_from_the_config(cfg) -> None:
    cfg.DATALOADER.REPEAT_THRESHOLD = 1.0
    sampler = DATA_SAMPLERS.get("RepeatFactorTrainingSampler")(cfg, _dataset((0,), (0,), (0,), (0, 1)), 0)
    assert np.bincount(sampler.epoch(0)).tolist() == [1, 1, 1, 2]


def _rows(stream: BatchStream, count: int, start: int = 0) -> list[list[int]]:
    return [[draw.row for draw in batch] for batch in islice(stream.batches(start), count)]


def _flat(lists: list[list]) -> list:
    return list(chain.from_iterable(lists))


def test_batches_without_groups_are_consecutive_parts_of_the_shuffle() -> None:
    sampler = TrainingSampler(5, seed=0)
    expected = [*sampler.epoch(0).tolist(), *sampler.epoch(1).tolist()]
    assert _flat(_rows(BatchStream(sampler, batch_size=2), 5)) == expected


def test_batches_have_one_group_and_every_image_is_drawn() -> None:
    groups = [0, 1, 1, 0, 1, 0, 1, 1]
    stream = BatchStream(TrainingSampler(8, seed=2), batch_size=3, groups=groups)
    batches = _rows(stream, 16)
    assert all(len({groups[row] for row in batch}) == 1 for batch in batches)
    counts = [sum(batch.count(row) for batch in batches) for row in range(8)]
    assert sum(counts) == 48
    assert min(counts) >= 5  # six epochs, but for incomplete batches


@pytest.mark.parametrize("groups", [None, [0, 1, 1, 0, 1]])
def test_later_start_gives_the_same_batches(groups: list[int] | None) -> None:
    stream = BatchStream(TrainingSampler(5, seed=1), batch_size=2, groups=groups)
    whole = list(islice(stream.batches(), 12))
    assert list(islice(stream.batches(7), 5)) == whole[7:]


def test_positions_are_consecutive() -> None:
    batches = islice(BatchStream(TrainingSampler(5, seed=1), batch_size=2).batches(), 6)
    assert [draw.position for batch in batches for draw in batch] == list(range(12))


def test_wide_and_high_images_are_different_groups() -> None:
    assert orientation_groups([(40, 60), (60, 40), (50, 50)]) == [1, 0, 0]


def test_ranks_share_a_batch() -> None:
    batch = next(BatchStream(TrainingSampler(6, seed=0), batch_size=6).batches())
    shares = [share_of_rank(batch, rank, 3) for rank in range(3)]
    assert _flat(shares) == batch
    assert [len(share) for share in shares] == [2, 2, 2]


@pytest.mark.parametrize(("count", "world_size"), [(10, 3), (2, 4), (0, 2), (8, 1)])
def test_ranks_share_a_dataset_in_order(count: int, world_size: int) -> None:
    shares = [list(contiguous_share(count, rank, world_size)) for rank in range(world_size)]
    assert _flat(shares) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
