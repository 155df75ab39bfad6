"""The backends agree without ground truth: no objects, none of a class, only crowds, only ignored objects."""

import copy
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mrcnn_zoo.evaluation.backends import Curves, detection_set
from mrcnn_zoo.registries import AP_BACKENDS

HEIGHT, WIDTH = 100, 120
CLASSES = (3, 7, 9)
BOXES = ((10, 10, 40, 50), (60, 20, 45, 60), (5, 5, 10, 10))
SIGMAS = (0.05, 0.05, 0.05)
Row = dict[str, Any]


def shape_of(box: tuple[int, ...]) -> Row:
    x, y, w, h = box
    rle = coco_mask.frPyObjects([[x, y, x + w, y, x + w, y + h, x, y + h]], HEIGHT, WIDTH)[0]
    points = [x + 1, y + 1, 2, x + w / 2, y + h / 2, 2, x + w - 1, y + h - 1, 1]
    rle["counts"] = rle["counts"].decode()
    return {"bbox": list(box), "segmentation": rle, "keypoints": points, "num_keypoints": 3, "area": float(w * h)}


def an_object(image: int, category: int, box: tuple[int, ...], **changes: Any) -> Row:
    return {"image_id": image, "category_id": category, "iscrowd": 0, "ignore": 0} | shape_of(box) | changes


def detection(image: int, category: int, box: tuple[int, ...], score: float) -> Row:
    return {"image_id": image, "category_id": category, "score": score} | shape_of(box)


OBJECTS = [
    an_object(1, 3, BOXES[0]),
    an_object(1, 7, BOXES[1]),
    an_object(2, 9, BOXES[0]),
    an_object(2, 3, BOXES[1]),
]
FOUND = [
    detection(1, 3, (11, 10, 40, 50), 0.9),
    detection(1, 7, (63, 20, 45, 60), 0.8),
    detection(2, 9, BOXES[0], 0.7),
    detection(2, 3, (68, 20, 45, 60), 0.6),
    detection(2, 7, BOXES[2], 0.5),
    detection(1, 9, BOXES[1], 0.4),
]
UNMARKED = {"keypoints": [0] * 9, "num_keypoints": 0}


def changed(category: int | None = None, **changes: Any) -> list[Row]:
    """The objects with changes to those of one category, or to all."""
    return [row | (changes if category in (None, row["category_id"]) else {}) for row in OBJECTS]


def without(category: int) -> list[Row]:
    return [row for row in OBJECTS if row["category_id"] != category]


CASES = {
    "everything": (OBJECTS, FOUND),
    "no objects": ([], FOUND),
    "no objects of the first class": (without(3), FOUND),
    "no objects of the middle class": (without(7), FOUND),
    "no objects of the last class": (without(9), FOUND),
    "no objects in an image": ([row for row in OBJECTS if row["image_id"] == 2], FOUND),
    "no detections": (OBJECTS, []),
    "neither": ([], []),
    "crowds only": (changed(iscrowd=1), FOUND),
    "crowds only of a class": (changed(7, iscrowd=1), FOUND),
    "a crowd over everything": ([*OBJECTS, an_object(1, 3, (0, 0, 110, 90), iscrowd=1)], FOUND),
    "ignored only": (changed(ignore=1), FOUND),
    "ignored only of a class": (changed(7, ignore=1), FOUND),
    "no marked points": (changed(**UNMARKED), FOUND),
    "no marked points of a class": (changed(7, **UNMARKED), FOUND),
}


def curves(backend: str, objects: list[Row], found: list[Row], task: str, images: dict[int, int]) -> Curves:
    """Curves of a backend; `images` maps the image ids 1 and 2 to others."""
    if backend != "pycocotools":
        pytest.importorskip(backend)
    objects, found = (
        [copy.deepcopy(row) | {"image_id": images[row["image_id"]]} for row in rows] for rows in (objects, found)
    )
    truth = {
        "images": [{"id": number, "height": HEIGHT, "width": WIDTH} for number in images.values()],
        "categories": [{"id": number, "name": f"c{number}", "keypoints": ["a", "b", "c"]} for number in CLASSES],
        "annotations": [row | {"id": number} for number, row in enumerate(objects, start=1)],
    }
    is_keypoints = task == "keypoints"
    return AP_BACKENDS.get(backend)(
        truth,
        detection_set(found, truth, task),
        task,
        [20] if is_keypoints else [1, 10, 100],
        sigmas=SIGMAS if is_keypoints else (),
    )


@pytest.mark.parametrize("task", ["bbox", "segm", "keypoints"])
@pytest.mark.parametrize("backend", ["hotcoco", "faster_coco_eval"])
@pytest.mark.parametrize("case", list(CASES))
def test_curves_equal_those_of_pycocotools(backend: str, case: str, task: str) -> None:
    expected = curves("pycocotools", *CASES[case], task, {1: 1, 2: 2})
    found = curves(backend, *CASES[case], task, {1: 1, 2: 2})
    assert expected.precision.shape[2] == len(CLASSES)
    assert found.areas == expected.areas
    np.testing.assert_allclose(found.precision, expected.precision, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.recall, expected.recall, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", ["pycocotools", "hotcoco", "faster_coco_eval"])
def test_curves_of_a_class_without_objects_are_minus_1(backend: str) -> None:
    found = curves(backend, without(7), FOUND, "keypoints", {1: 1, 2: 2})
    assert (found.precision[:, :, 1] == -1).all()
    assert (found.recall[:, 1] == -1).all()
    assert found.recall[0, 2, 0, 0] == 1  # the next class, whose object is found


@pytest.mark.parametrize("backend", ["hotcoco", "faster_coco_eval"])
@pytest.mark.parametrize("images", [{1: -5, 2: 0}, {1: 0, 2: 7}])
def test_curves_do_not_depend_on_image_ids_below_1(backend: str, images: dict[int, int]) -> None:
    for task in ("bbox", "segm", "keypoints"):
        expected = curves("pycocotools", OBJECTS, FOUND, task, {1: 1, 2: 2})
        found = curves(backend, OBJECTS, FOUND, task, images)
        np.testing.assert_allclose(found.precision, expected.precision, rtol=0, atol=1e-12)
