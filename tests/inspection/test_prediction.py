"""A model on image files of the user."""

import csv
import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import nn

from mrcnn_zoo.config import load_config
from mrcnn_zoo.data import build_eval_mapper
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.limits import DetectionTally, Limit
from mrcnn_zoo.inference.image_files import image_files, predict_files, predict_image, predict_images
from mrcnn_zoo.inference.image_inputs import find_images
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
    return build_eval_mapper(load_config(None, ["INPUT.MIN_SIZE_TEST", 32]))


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
    assert annotation["area"] == 196  # pasting leaves out the four corner pixels of the 10 x 20 box


def test_scores_of_masks_are_written_where_masks_have_their_own(mapper, tmp_path) -> None:
    class ScoresMasks(TwoBoxes):
        def predict(self, samples: list[Sample]) -> list[Detections]:
            return [replace(table, mask_scores=torch.tensor([0.25, 0.125])) for table in super().predict(samples)]

    options = {"mapper": mapper, "class_names": NAMES, "score_threshold": 0.0}
    image = write_image(tmp_path / "a.jpg")
    predict_files(ScoresMasks(), [image], tmp_path / "scored", **options)
    content = json.loads((tmp_path / "scored" / "predictions.json").read_text())
    assert [row["mask_score"] for row in content["annotations"]] == [0.25, 0.125]
    assert [row["score"] for row in content["annotations"]] == pytest.approx([0.9, 0.3])
    rows = list(csv.DictReader((tmp_path / "scored" / "predictions.csv").read_text().splitlines()))
    assert [(row["score"], row["mask_score"]) for row in rows] == [("0.9000", "0.2500"), ("0.3000", "0.1250")]
    predict_files(TwoBoxes(), [image], tmp_path / "plain", **options)
    assert "mask_score" not in (tmp_path / "plain" / "predictions.json").read_text()
    assert "mask_score" not in (tmp_path / "plain" / "predictions.csv").read_text()


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


def test_the_area_is_that_of_the_mask_or_else_of_the_box(mapper, tmp_path) -> None:
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
        predict_files(model, [image], tmp_path / "out", mapper=mapper, class_names=NAMES, score_threshold=0.0)
        annotations = json.loads((tmp_path / "out" / "predictions.json").read_text())["annotations"]
        areas = [annotation["area"] for annotation in annotations]
        if is_mask:
            assert areas == [int(coco_mask.decode(annotation["segmentation"]).sum()) for annotation in annotations]
            assert 80 < areas[0] < 120
        else:
            assert areas == [200, 100]


def test_the_table_has_a_row_per_object(mapper, tmp_path) -> None:
    images = [write_image(tmp_path / name) for name in ("a.png", "b, c.png")]
    predict_files(TwoBoxes(), images, tmp_path / "out", mapper=mapper, class_names=NAMES, score_threshold=0.0)
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["image", "class", "score", "x1", "y1", "x2", "y2", "area"],
        [str(images[0]), "cat", "0.9000", "2.00", "4.00", "12.00", "24.00", "196"],
        [str(images[0]), "dog", "0.3000", "20.00", "4.00", "30.00", "14.00", "96"],
        [str(images[1]), "cat", "0.9000", "2.00", "4.00", "12.00", "24.00", "196"],
        [str(images[1]), "dog", "0.3000", "20.00", "4.00", "30.00", "14.00", "96"],
    ]


def test_nothing_is_written_where_no_image_can_be_read(mapper, tmp_path) -> None:
    (tmp_path / "a.png").write_text("no image")
    options = {"mapper": mapper, "class_names": NAMES, "score_threshold": 0.5}
    assert len(predict_files(TwoBoxes(), [tmp_path / "a.png"], tmp_path / "out", **options)) == 1
    assert not (tmp_path / "out").exists()


def test_reached_limits_are_told_once(mapper, tmp_path, caplog) -> None:
    found = find_images([write_image(tmp_path / name) for name in ("a.png", "b.png", "c.png")])
    options = {"mapper": mapper, "class_names": NAMES, "score_threshold": 0.2}
    for kept, count in ((2, 1), (3, 0)):
        caplog.clear()
        tally = DetectionTally((Limit("TEST.DETECTIONS_PER_IMAGE", kept, is_of_candidates=False),), least_score=0.2)
        with caplog.at_level(logging.INFO):
            predict_images(TwoBoxes(), found, tmp_path / "out", tally=tally, **options)
        told = [message for message in caplog.messages if f"TEST.DETECTIONS_PER_IMAGE = {kept}" in message]
        assert len(told) == count
        assert all("3 of 3 images" in message for message in told)


def test_pictures_without_labels_differ_from_those_with(mapper, tmp_path) -> None:
    found = find_images([write_image(tmp_path / "a.png")])
    options = {"mapper": mapper, "class_names": NAMES, "score_threshold": 0.2}
    predict_images(TwoBoxes(), found, tmp_path / "with", **options)
    predict_images(TwoBoxes(), found, tmp_path / "without", has_labels=False, **options)
    pictures = [np.asarray(Image.open(tmp_path / folder / "a.png")) for folder in ("with", "without")]
    assert (pictures[0] != pictures[1]).any()


# --- pixels from Python -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.zeros((0, 60, 3), np.uint8), r"image has the shape \(0, 60, 3\)"),
        (np.zeros((), np.uint8), r"image has the shape \(\)"),
        (np.zeros((4, 5, 3, 2), np.uint8), r"image has the shape"),
        (np.array([["a", "b"]]), r"image holds <U1; the pixels of an image are real numbers"),
        (np.zeros((40, 50, 3), complex), r"image holds complex128"),
        (np.zeros((40, 50, 5), np.uint8), r"image has 5 channels where the model sees 3"),
    ],
)
def test_arrays_that_are_no_image_are_refused(mapper, pixels: np.ndarray, words: str) -> None:
    with pytest.raises(UserError, match=words):
        predict_image(TwoBoxes(), pixels, mapper=mapper)


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 1), (40, 50, 3)])
def test_grey_and_color_arrays_are_images(mapper, shape: tuple[int, ...]) -> None:
    assert predict_image(TwoBoxes(), np.zeros(shape, np.uint8), mapper=mapper).image_size == (40, 50)


# --- inputs -----------------------------------------------------------------------------------------------------------


def test_folders_of_folders_are_searched_on_request_and_their_pictures_lie_alike(mapper, tmp_path) -> None:
    for name in ("a.png", "x/a.png", "x/y/b.png", "out/old.png", "x/._a.png"):
        write_image(tmp_path / name)
    found = find_images([tmp_path], recursive=True, besides=tmp_path / "out")
    assert [str(path) for path in found.places.values()] == ["a", "x/a", "x/y/b"]
    predict_images(TwoBoxes(), found, tmp_path / "out", mapper=mapper, class_names=NAMES, score_threshold=0.5)
    assert (tmp_path / "out" / "x" / "y" / "b.png").is_file()
    assert [path.name for path in find_images([tmp_path]).files] == ["a.png"]


def test_patterns_that_the_shell_left_are_expanded(tmp_path) -> None:
    for name in ("a.png", "b.jpg", "x/c.png"):
        write_image(tmp_path / name)
    (tmp_path / "notes.txt").write_text("")
    assert [path.name for path in find_images([f"{tmp_path}/*"]).files] == ["a.png", "b.jpg"]
    assert [path.name for path in find_images([f"{tmp_path}/**/*.png"]).files] == ["a.png", "c.png"]
    write_image(tmp_path / "d[1].png")
    assert [path.name for path in find_images([f"{tmp_path}/d[1].png"]).files] == ["d[1].png"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone/a.png", "{tmp}/gone/a.png does not exist: there is no {tmp}/gone."),
        ("gone", "{tmp}/gone: there is no such file or folder."),
        ("gone.png", "{tmp}/gone.png: there is no such image file."),
        ("*.tif", "the pattern {tmp}/*.tif matches nothing."),
        ("*.txt", "the pattern {tmp}/*.txt matches 1 file, but no image: notes.txt."),
        ("empty", "{tmp}/empty is empty."),
        ("texts", "{tmp}/texts has no image, only other files (1 x .txt). Images end in .jpg"),
        ("deep", "{tmp}/deep has no image directly in it, but 1 in its sub-folders: add --recursive."),
    ],
)
def test_inputs_without_an_image_are_told_with_their_reason(tmp_path, name: str, words: str) -> None:
    for path in (tmp_path / "notes.txt", tmp_path / "texts" / "a.txt"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    (tmp_path / "empty").mkdir()
    write_image(tmp_path / "deep" / "x" / "a.png")
    with pytest.raises(UserError) as refusal:
        find_images([tmp_path / name])
    assert words.format(tmp=tmp_path) in str(refusal.value)
    good = write_image(tmp_path / "good.png")
    found = find_images([tmp_path / name, good])
    assert found.files == [good]
    assert words.format(tmp=tmp_path) in found.problems[0]
