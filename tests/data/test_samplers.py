"""The order of training images."""

import numpy as np
import pytest

from mrcnn_zoo.data.loading.samplers import (
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
    repeat_factors,
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


def test_every_image_comes_once_an_epoch() -> None:
    assert sorted(TrainingSampler(7, seed=0).epoch(3).tolist()) == list(range(7))


def test_subset_stays_the_same() -> None:
    sampler = RandomSubsetTrainingSampler(10, ratio=0.4, seed=0)
    epochs = [sampler.epoch(number).tolist() for number in range(4)]
    assert len({tuple(sorted(epoch)) for epoch in epochs}) == 1
    assert len(set(epochs[0])) == 4


def test_rare_classes_come_more_often() -> None:
    # Class 0 is in 4 of 4 images, class 1 in 1 of 4: sqrt(0.5 / 0.25) = 1.414. An image takes its rarest class's.
    factors = repeat_factors([[0], [0, 0], [0, 1], [0]], 0.5, is_sqrt=True)
    assert factors.tolist() == pytest.approx([1, 1, 2**0.5, 1])
    assert repeat_factors([[0], [0, 0], [0, 1], [0]], 0.5, is_sqrt=False).tolist() == [1, 1, 2, 1]


def test_images_without_objects_come_once() -> None:
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
