"""Datasets and samples for tests of the evaluation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mrcnn_zoo.data.formats.coco import load_coco
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.structures import Sample
from support.scenes import square_record

Square = Callable[..., InstanceRecord]
DatasetOf = Callable[..., Dataset]


class BlackImage:
    """An image source of black pixels."""

    name = "black"

    def read(self) -> NDArray[np.generic]:
        return np.zeros((100, 100, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def square() -> Square:
    return square_record


@pytest.fixture(scope="session")
def dataset_of() -> DatasetOf:
    """Makes a dataset: an image of 100 x 100 pixels per tuple of objects; ids 10, 20, ...; category ids descend."""

    def make(*images: tuple[InstanceRecord, ...], class_names: tuple[str, ...] = ("cat", "dog")) -> Dataset:
        records = tuple(
            ImageRecord(image_id=10 * number, source=BlackImage(), image_size=(100, 100), instances=instances)
            for number, instances in enumerate(images, start=1)
        )
        ids = tuple(range(7 * len(class_names), 0, -7))
        return Dataset(name="squares", records=records, class_names=class_names, category_ids=ids)

    return make


@pytest.fixture(scope="session")
def samples_of() -> Callable[[Dataset], list[Sample]]:
    """Makes one sample per image of a dataset, of a single pixel."""

    def make(dataset: Dataset) -> list[Sample]:
        pixels = torch.zeros((3, 1, 1), dtype=torch.uint8)
        return [Sample(pixels, record.image_id, record.image_size) for record in dataset.records]

    return make


@pytest.fixture(scope="session")
def coco_val(shared_dir: Path) -> Dataset:
    """70 COCO images with crowds and non-consecutive category ids."""
    folder = shared_dir / "data" / "coco_mini"
    return load_coco("coco_mini_val", folder / "val2017", folder / "annotations" / "instances_val2017.json")
