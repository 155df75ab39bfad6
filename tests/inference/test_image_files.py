"""Prediction on image files, and on arrays of pixels."""

import csv
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import nn

from mrcnn_zoo.config import load_config
from mrcnn_zoo.data import build_eval_mapper
from mrcnn_zoo.data.loading.mapper import EvalMapper
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.limits import DetectionTally, Limit
from mrcnn_zoo.inference.image_detector import ImageDetector
from mrcnn_zoo.inference.image_files import predict_dataset, predict_images
from mrcnn_zoo.inference.image_inputs import LoadedImage, find_images
from mrcnn_zoo.structures import Detections, ProbabilityMasks, Sample

NAMES = ("cat", "dog")


class TwoBoxes(nn.Module):
    """Detects a cat with score 0.9 and a dog with score 0.3 in each image."""

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
    return build_eval_mapper(load_config(None, ["INPUT.MIN_SIZE_TEST", 32]))


def write_image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((40, 50, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def two_boxes(mapper: EvalMapper) -> ImageDetector:
    return ImageDetector(TwoBoxes(), mapper, NAMES, category_ids=(1, 2))


def predict(detector: ImageDetector, inputs: Sequence[Path], output: Path, **options: Any) -> list[str]:
    """The messages on images that cannot be read."""
    return predict_images(detector, find_images(inputs), output, **options).failures


def predict_array(detector: ImageDetector, pixels: np.ndarray) -> Detections:
    (prediction,) = detector.stream([LoadedImage("image", pixels)])
    return prediction.detections


def test_stream_gives_detections_in_pixels_of_the_image(two_boxes) -> None:
    found = predict_array(two_boxes, np.zeros((100, 60, 3), dtype=np.uint8))
    assert found.image_size == (100, 60)


def test_predict_images_writes_pictures_and_a_coco_file(two_boxes, tmp_path) -> None:
    image = write_image(tmp_path / "in" / "a.jpg")
    output = tmp_path / "out"
    failures = predict(two_boxes, [image], output, score_threshold=0.5)
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
    assert annotation["area"] == 196  # pasting leaves out the four corner pixels of the 10 x 20 box


def test_splash_pictures_have_the_size_of_the_image_and_colour_in_the_masks_alone(two_boxes, tmp_path) -> None:
    image = tmp_path / "a.png"
    Image.new("RGB", (50, 40), (200, 0, 100)).save(image)
    options = {"score_threshold": 0.5, "style": "splash"}
    assert predict(two_boxes, [image], tmp_path / "out", **options) == []
    picture = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert picture.shape == (40, 50, 3)
    rows, columns = np.nonzero((picture == (200, 0, 100)).all(axis=2))
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (
        4,
        24,
        2,
        12,
    )  # the cat alone


def test_scores_of_masks_are_written_if_predicted(two_boxes, tmp_path) -> None:
    class ScoresMasks(TwoBoxes):
        def predict(self, samples: list[Sample]) -> list[Detections]:
            return [replace(table, mask_scores=torch.tensor([0.25, 0.125])) for table in super().predict(samples)]

    options = {"score_threshold": 0.0}
    image = write_image(tmp_path / "a.jpg")
    predict(replace(two_boxes, model=ScoresMasks()), [image], tmp_path / "scored", **options)
    content = json.loads((tmp_path / "scored" / "predictions.json").read_text())
    assert [row["mask_score"] for row in content["annotations"]] == [0.25, 0.125]
    assert [row["score"] for row in content["annotations"]] == pytest.approx([0.9, 0.3])
    rows = list(csv.DictReader((tmp_path / "scored" / "predictions.csv").read_text().splitlines()))
    assert [(row["score"], row["mask_score"]) for row in rows] == [("0.9000", "0.2500"), ("0.3000", "0.1250")]
    predict(two_boxes, [image], tmp_path / "plain", **options)
    assert "mask_score" not in (tmp_path / "plain" / "predictions.json").read_text()
    assert "mask_score" not in (tmp_path / "plain" / "predictions.csv").read_text()


def test_category_ids_are_those_of_the_training_data(two_boxes, tmp_path) -> None:
    detector = replace(two_boxes, category_ids=(7, 3))
    predict(detector, [write_image(tmp_path / "a.jpg")], tmp_path / "out", score_threshold=0.0)
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert content["categories"] == [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
    id_of_name = {"cat": 7, "dog": 3}
    assert {row["category_name"] for row in content["annotations"]} == {"cat", "dog"}
    assert all(row["category_id"] == id_of_name[row["category_name"]] for row in content["annotations"])


def test_unreadable_images_are_reported_and_the_others_predicted(two_boxes, tmp_path, caplog) -> None:
    good = write_image(tmp_path / "in" / "good.png")
    cut_off = tmp_path / "in" / "cut_off.png"
    cut_off.write_bytes(good.read_bytes()[:60])
    text = tmp_path / "in" / "text.jpg"
    text.write_text("no image")
    with caplog.at_level(logging.ERROR):
        failures = predict(
            two_boxes,
            [cut_off, text, tmp_path / "missing.png", good],
            tmp_path / "out",
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


def test_images_of_the_same_name_have_separate_pictures(two_boxes, tmp_path) -> None:
    images = [write_image(tmp_path / folder / "a.png") for folder in ("x", "y")]
    predict(two_boxes, images, tmp_path / "out", score_threshold=0.5)
    assert sorted(file.name for file in (tmp_path / "out").glob("*.png")) == ["a.png", "a_2.png"]


def test_images_are_never_overwritten(two_boxes, tmp_path) -> None:
    image = write_image(tmp_path / "a.png")
    before = image.read_bytes()
    with pytest.raises(UserError, match="would be overwritten"):
        predict(two_boxes, [image], tmp_path, score_threshold=0.5)
    assert image.read_bytes() == before
    assert not (tmp_path / "predictions.json").exists()


def test_area_is_that_of_the_mask_or_of_the_box_without_masks(two_boxes, tmp_path) -> None:
    class HalfMask(TwoBoxes):
        def predict(self, samples: list[Sample]) -> list[Detections]:
            (found,) = super().predict(samples)
            probabilities = torch.zeros(2, 4, 4)
            probabilities[:, :2] = 1  # the upper half
            return [replace(found, masks=ProbabilityMasks(probabilities, found.boxes, found.image_size))]

    class NoMask(TwoBoxes):
        def predict(self, samples: list[Sample]) -> list[Detections]:
            return [replace(found, masks=None) for found in super().predict(samples)]

    image = write_image(tmp_path / "a.png")
    for model, is_mask in ((HalfMask(), True), (NoMask(), False)):
        predict(replace(two_boxes, model=model), [image], tmp_path / "out", score_threshold=0.0)
        annotations = json.loads((tmp_path / "out" / "predictions.json").read_text())["annotations"]
        areas = [annotation["area"] for annotation in annotations]
        if is_mask:
            assert areas == [int(coco_mask.decode(annotation["segmentation"]).sum()) for annotation in annotations]
            assert 80 < areas[0] < 120
        else:
            assert areas == [200, 100]


def test_table_has_one_row_per_object(two_boxes, tmp_path) -> None:
    images = [write_image(tmp_path / name) for name in ("a.png", "b, c.png")]
    predict(two_boxes, images, tmp_path / "out", score_threshold=0.0)
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    header = "image class score x1 y1 x2 y2 area centroid_x centroid_y perimeter mean_red mean_green mean_blue"
    # The boxes without their corner pixels: of 52 and 32 border pixels, the 8 beside a corner have the length 1.207.
    means = ["0.00", "0.00", "0.00"]
    cat = ["cat", "0.9000", "2.00", "4.00", "12.00", "24.00", "196", "7.00", "14.00", "53.66", *means]
    dog = ["dog", "0.3000", "20.00", "4.00", "30.00", "14.00", "96", "25.00", "9.00", "33.66", *means]
    assert rows == [header.split(), *([str(image), *row] for image in images for row in (cat, dog))]


def test_nothing_is_written_if_no_image_can_be_read(two_boxes, tmp_path) -> None:
    (tmp_path / "a.png").write_text("no image")
    options = {"score_threshold": 0.5}
    assert len(predict(two_boxes, [tmp_path / "a.png"], tmp_path / "out", **options)) == 1
    assert not (tmp_path / "out").exists()


def test_reached_limits_are_logged_once(two_boxes, tmp_path, caplog) -> None:
    found = find_images([write_image(tmp_path / name) for name in ("a.png", "b.png", "c.png")])
    options = {"score_threshold": 0.2}
    for kept, count in ((2, 1), (3, 0)):
        caplog.clear()
        tally = DetectionTally((Limit("TEST.DETECTIONS_PER_IMAGE", kept, is_of_candidates=False),), min_score=0.2)
        with caplog.at_level(logging.INFO):
            predict_images(two_boxes, found, tmp_path / "out", tally=tally, **options)
        logged = [message for message in caplog.messages if f"TEST.DETECTIONS_PER_IMAGE = {kept}" in message]
        assert len(logged) == count
        assert all("3 of 3 images" in message for message in logged)


def test_has_labels_changes_the_pictures(two_boxes, tmp_path) -> None:
    found = find_images([write_image(tmp_path / "a.png")])
    options = {"score_threshold": 0.2}
    predict_images(two_boxes, found, tmp_path / "with", **options)
    predict_images(two_boxes, found, tmp_path / "without", has_labels=False, **options)
    pictures = [np.asarray(Image.open(tmp_path / folder / "a.png")) for folder in ("with", "without")]
    assert (pictures[0] != pictures[1]).any()


def test_recursive_search_writes_pictures_to_the_same_sub_folders(two_boxes, tmp_path) -> None:
    for name in ("a.png", "x/a.png", "x/y/b.png", "out/old.png", "x/._a.png"):
        write_image(tmp_path / name)
    found = find_images([tmp_path], recursive=True, exclude=tmp_path / "out")
    assert [str(path) for path in found.output_names.values()] == ["a", "x/a", "x/y/b"]
    predict_images(two_boxes, found, tmp_path / "out", score_threshold=0.5)
    assert (tmp_path / "out" / "x" / "y" / "b.png").is_file()
    assert [path.name for path in find_images([tmp_path]).files] == ["a.png"]


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.zeros((0, 60, 3), np.uint8), r"image has the shape \(0, 60, 3\)"),
        (np.zeros((), np.uint8), r"image has the shape \(\)"),
        (np.zeros((4, 5, 3, 2), np.uint8), r"image has the shape"),
        (np.array([["a", "b"]]), r"image holds <U1; the pixels of an image are real numbers"),
        (np.zeros((40, 50, 3), complex), r"image holds complex128"),
        (np.zeros((40, 50, 5), np.uint8), r"image has 5 channels, but the model has 3"),
    ],
)
def test_stream_refuses_arrays_that_are_no_images(two_boxes, pixels: np.ndarray, words: str) -> None:
    with pytest.raises(UserError, match=words):
        predict_array(two_boxes, pixels)


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 1), (40, 50, 3)])
def test_stream_accepts_grey_and_color_arrays(two_boxes, shape: tuple[int, ...]) -> None:
    assert predict_array(two_boxes, np.zeros(shape, np.uint8)).image_size == (40, 50)


def test_pages_of_a_stack_are_images_if_wanted(two_boxes, tmp_path) -> None:
    stack = tmp_path / "stack.tif"
    tifffile.imwrite(stack, np.arange(2, dtype=np.uint16)[:, None, None] * np.ones((1, 40, 50), np.uint16))
    found = find_images([stack, write_image(tmp_path / "a.png")])
    found.pages_are_images = True
    options: dict[str, Any] = {"score_threshold": 0.5}
    predict_images(two_boxes, found, tmp_path / "out", **options)
    content = json.loads((tmp_path / "out/predictions.json").read_text())
    names = [f"{stack}#1", f"{stack}#2", str(tmp_path / "a.png")]
    assert [image["file_name"] for image in content["images"]] == names
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == [
        "a.png",
        "stack_0001.png",
        "stack_0002.png",
    ]
    dataset, _ = predict_dataset(two_boxes, found, **options)
    assert [record.source.read()[0, 0, 0] for record in dataset.records] == [0, 1, 0]


class Interrupting(DetectionTally):
    """Imitates Ctrl-C in the second image."""

    def add(self, image: str, found: Any, *, measured: Any = None) -> None:
        super().add(image, found, measured=measured)
        if self.num_images == 2:
            raise KeyboardInterrupt


def test_interrupt_writes_the_tables_of_the_pictures_so_far(two_boxes, tmp_path) -> None:
    images = [write_image(tmp_path / "in" / f"{name}.png") for name in "abc"]
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        predict(two_boxes, images, output, score_threshold=0.5, tally=Interrupting(limits=()))
    assert sorted(path.name for path in output.iterdir()) == ["a.png", "predictions.csv", "predictions.json"]
    assert [image["file_name"] for image in json.loads((output / "predictions.json").read_text())["images"]] == [
        str(images[0])
    ]
