"""PNG files of datasets, batches and predictions."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from mrcnn_zoo.config import load_config
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation import ground_truth_detections
from mrcnn_zoo.inspection.pictures import (
    record_targets,
    save_dataset_images,
    save_picture,
    save_predictions,
    save_training_batches,
    spread,
)
from mrcnn_zoo.structures import Detections, Sample


@dataclass(frozen=True)
class FlatImage:
    """An image of one grey value; unreadable if the value is negative."""

    value: int
    name: str = "flat.png"

    def read(self) -> NDArray[np.generic]:
        if self.value < 0:
            raise UserError("flat.png is truncated.")
        return np.full((40, 50, 3), self.value, dtype=np.uint8)


def make_dataset(*values: int) -> Dataset:
    instance = InstanceRecord(box=(10, 5, 30, 25), class_index=0, segmentation=[[10, 5, 30, 5, 30, 25, 10, 25]])
    records = [ImageRecord(number, FlatImage(value), (40, 50), (instance,)) for number, value in enumerate(values)]
    return Dataset("flat", tuple(records), ("thing",), (1,))


class Oracle(nn.Module):
    def __init__(self, dataset: Dataset) -> None:
        super().__init__()
        self.answers = dict(enumerate(ground_truth_detections(dataset)))

    def predict(self, samples: list[Sample]) -> list[Detections]:
        return [self.answers[sample.image_id] for sample in samples]


def test_save_picture_writes_a_png_and_creates_its_folder(tmp_path) -> None:
    picture = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    path = save_picture(picture, tmp_path / "new" / "a.png")
    np.testing.assert_array_equal(np.asarray(Image.open(path)), picture)
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


def test_record_targets_have_the_boxes_and_masks_of_the_annotations() -> None:
    targets = record_targets(make_dataset(0).records[0])
    assert targets.boxes.tolist() == [[10, 5, 30, 25]]
    assert targets.masks is not None
    expected = torch.zeros((1, 40, 50), dtype=torch.bool)
    expected[0, 5:25, 10:30] = True
    assert torch.equal(targets.masks.bitmaps(), expected)


def test_record_targets_without_masks_or_objects_are_empty() -> None:
    without_mask = InstanceRecord(box=(1, 1, 3, 3), class_index=2)
    some = record_targets(ImageRecord(1, FlatImage(0), (40, 50), (without_mask,)))
    assert some.masks is not None
    assert not some.masks.bitmaps().any()
    assert len(record_targets(ImageRecord(1, FlatImage(0), (40, 50)))) == 0


def test_spread_chooses_records_at_equal_distances() -> None:
    records = make_dataset(*range(10)).records
    assert [record.image_id for record in spread(records, 4)] == [0, 2, 5, 7]
    assert spread(records, 100) == records
    assert spread((), 3) == ()


def test_dataset_images_are_saved_and_unreadable_files_logged(tmp_path, caplog) -> None:
    with caplog.at_level(logging.ERROR):
        paths = save_dataset_images(make_dataset(0, -1, 200), tmp_path, num_images=3)
    assert [path.name for path in paths] == ["0.png", "2.png"]
    assert "flat.png is truncated" in caplog.text
    assert all(Image.open(path).size == (400, 320) for path in paths)


def test_images_of_another_size_than_annotated_are_not_drawn(tmp_path, caplog) -> None:
    dataset = make_dataset(10, 20)
    huge = replace(dataset.records[0], image_size=(60000, 60000))
    paths = save_dataset_images(replace(dataset, records=(huge, dataset.records[1])), tmp_path, num_images=2)
    assert [path.name for path in paths] == ["1.png"]
    assert "flat.png is 50 x 40 pixels (width x height) where its annotations have 60000 x 60000" in caplog.text


def test_save_dataset_images_refuses_an_empty_dataset(tmp_path) -> None:
    with pytest.raises(UserError, match="flat has no images"):
        save_dataset_images(make_dataset(), tmp_path, num_images=3)


def test_predictions_are_saved_by_image_id_and_the_training_mode_is_restored(tmp_path) -> None:
    dataset = make_dataset(0, 50, 100, 150)
    model = Oracle(dataset).train()
    cfg = load_config(None, ["DATALOADER.NUM_WORKERS", 0, "INPUT.MIN_SIZE_TEST", 20])
    paths = save_predictions(model, dataset, cfg, tmp_path / "pictures", num_images=2)
    assert [path.name for path in paths] == ["0.png", "2.png"]
    assert Image.open(paths[0]).width > 2 * 400  # ground truth and predictions
    assert model.training
    assert save_predictions(model, dataset, cfg, tmp_path / "none", num_images=0) == []


def test_training_batches_are_saved_without_reading_further_ones(tmp_path) -> None:
    read = []

    def endless() -> object:
        while True:
            read.append(1)
            yield [Sample(torch.zeros((3, 20, 20), dtype=torch.uint8), 1, (20, 20))]

    make_loader: Callable[[], object] = endless
    paths = save_training_batches(make_loader(), tmp_path, ["a"], num_batches=2)
    assert [path.name for path in paths] == ["train_batch_0.png", "train_batch_1.png"]
    assert len(read) == 2
