"""A model on image files of the user."""

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mrcnn_zoo.config import load_config
from mrcnn_zoo.data import build_test_mapper
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inspection.prediction import image_files, predict_files, predict_image
from mrcnn_zoo.structures import Detections, ProbabilityMasks, Sample

NAMES = ("cat", "dog")


class TwoBoxes(nn.Module):
    """Sees a sure cat and an unsure dog, wherever it looks."""

    def predict(self, samples: list[Sample]) -> list[Detections]:
        boxes = torch.tensor([[2.0, 4.0, 12.0, 24.0], [20.0, 4.0, 30.0, 14.0]])
        return [
            Detections(
                image_size=sample.original_size,
                boxes=boxes,
                scores=torch.tensor([0.9, 0.3]),
                classes=torch.tensor([0, 1]),
                masks=ProbabilityMasks(torch.ones(2, 4, 4), boxes, sample.original_size),
            )
            for sample in samples
        ]


@pytest.fixture
def mapper():
    return build_test_mapper(load_config(None, ["INPUT.MIN_SIZE_TEST", 32]))


def write_image(path, *, height: int = 40, width: int = 50):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((height, width, 3), dtype=np.uint8)).save(path)
    return path


def test_an_image_is_predicted_in_its_own_pixels(mapper) -> None:
    found = predict_image(TwoBoxes(), np.zeros((100, 60, 3), dtype=np.uint8), mapper=mapper)
    assert found.image_size == (100, 60)


def test_pictures_and_a_coco_file_with_class_names_are_written(mapper, tmp_path) -> None:
    image = write_image(tmp_path / "in" / "a.jpg")
    output = tmp_path / "out"
    failures = predict_files(TwoBoxes(), [image], output, mapper=mapper, class_names=NAMES, score_threshold=0.5)
    assert failures == []
    assert Image.open(output / "a.png").size == (400, 320)
    content = json.loads((output / "predictions.json").read_text())
    assert content["images"] == [{"id": 1, "file_name": str(image), "height": 40, "width": 50}]
    assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    (annotation,) = content["annotations"]
    assert annotation["category_id"] == 1
    assert annotation["category_name"] == "cat"
    assert annotation["bbox"] == [2, 4, 10, 20]
    assert annotation["score"] == pytest.approx(0.9)
    assert annotation["segmentation"]["size"] == [40, 50]


def test_the_category_ids_are_those_of_the_training_data(mapper, tmp_path) -> None:
    options = {"mapper": mapper, "class_names": NAMES, "category_ids": (7, 3), "score_threshold": 0.0}
    predict_files(TwoBoxes(), [write_image(tmp_path / "a.jpg")], tmp_path / "out", **options)
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert content["categories"] == [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
    id_of_name = {"cat": 7, "dog": 3}
    assert {row["category_name"] for row in content["annotations"]} == {"cat", "dog"}
    assert all(row["category_id"] == id_of_name[row["category_name"]] for row in content["annotations"])


def test_bad_images_are_reported_and_the_others_are_done(mapper, tmp_path, caplog) -> None:
    good = write_image(tmp_path / "in" / "good.png")
    cut_off = tmp_path / "in" / "cut_off.png"
    cut_off.write_bytes(good.read_bytes()[:60])
    text = tmp_path / "in" / "text.jpg"
    text.write_text("no image")
    with caplog.at_level(logging.ERROR):
        failures = predict_files(
            TwoBoxes(),
            [cut_off, text, tmp_path / "missing.png", good],
            tmp_path / "out",
            mapper=mapper,
            class_names=NAMES,
            score_threshold=0.1,
        )
    assert [any(name in message for message in failures) for name in ("cut_off.png", "text.jpg", "missing.png")] == [
        True,
        True,
        True,
    ]
    assert len(failures) == len(caplog.records) == 3
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "good.png",
        "predictions.csv",
        "predictions.json",
    ]
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["annotations"]) == 2


def test_a_folder_gives_its_images_sorted_and_nothing_else(tmp_path) -> None:
    for name in ("b.PNG", "a.jpg", "c.tif"):
        write_image(tmp_path / name.lower()).rename(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    assert [file.name for file in image_files([tmp_path, tmp_path / "a.jpg"])] == ["a.jpg", "b.PNG", "c.tif"]


def test_a_folder_without_images_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="no images to predict on"):
        image_files([tmp_path])


def test_images_of_one_name_from_two_folders_get_a_picture_each(mapper, tmp_path) -> None:
    images = [write_image(tmp_path / folder / "a.png") for folder in ("x", "y")]
    predict_files(TwoBoxes(), images, tmp_path / "out", mapper=mapper, class_names=NAMES, score_threshold=0.5)
    assert sorted(file.name for file in (tmp_path / "out").glob("*.png")) == ["a.png", "a_2.png"]


def test_the_images_themselves_are_never_overwritten(mapper, tmp_path) -> None:
    image = write_image(tmp_path / "a.png")
    before = image.read_bytes()
    with pytest.raises(UserError, match="would be overwritten"):
        predict_files(TwoBoxes(), [image], tmp_path, mapper=mapper, class_names=NAMES, score_threshold=0.5)
    assert image.read_bytes() == before
    assert not (tmp_path / "predictions.json").exists()
