"""Confusion matrices, counted by hand."""

from typing import Any

import numpy as np
import pytest

from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.evaluation.ground_truth import complete_ground_truth
from mrcnn_zoo.evaluation.metrics.confusion import confusion_matrix
from mrcnn_zoo.evaluation.metrics.contract import Evaluated
from support.detections import CAT, DOG


def row(category_id: int, box: tuple[float, ...], score: float = 0.9) -> dict[str, Any]:
    return {"image_id": 10, "category_id": category_id, "bbox": list(box), "score": score}


def matrix_of(dataset: Dataset, rows: list[dict[str, Any]]) -> np.ndarray:
    return confusion_matrix(Evaluated(complete_ground_truth(dataset), rows, ("bbox",), dataset.name), "bbox")


def test_correct_confused_missed_and_false_detections_are_counted(square, dataset_of) -> None:
    dataset = dataset_of((square(0, 0, 10, 0), square(20, 0, 10, 0), square(40, 0, 10, 1)))
    rows = [row(CAT, (0, 0, 10, 10)), row(DOG, (20, 0, 10, 10)), row(DOG, (70, 70, 10, 10))]
    #                      detected as cat, dog, nothing
    assert matrix_of(dataset, rows).tolist() == [
        [1, 1, 0],
        [0, 0, 1],
        [0, 1, 0],
    ]


def test_second_detection_of_an_object_is_false(square, dataset_of) -> None:
    dataset = dataset_of((square(0, 0, 10, 0),))
    rows = [row(CAT, (0, 0, 10, 10), 0.6), row(DOG, (0, 0, 10, 9), 0.8)]
    assert matrix_of(dataset, rows).tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]


def test_detections_below_the_threshold_and_over_crowds_are_not_counted(square, dataset_of) -> None:
    dataset = dataset_of((square(0, 0, 50, 0, is_crowd=True),))
    rows = [row(CAT, (10, 10, 10, 10)), row(CAT, (80, 80, 10, 10), 0.4)]
    assert matrix_of(dataset, rows).sum() == 0


@pytest.mark.parametrize("rows", [[], [row(CAT, (0, 0, 10, 10))]])
def test_images_without_objects_or_detections_are_counted(square, dataset_of, rows) -> None:
    assert matrix_of(dataset_of(()), rows).sum() == len(rows)
    assert matrix_of(dataset_of((square(50, 50, 10),)), [])[0, 2] == 1


def test_matrix_of_an_empty_dataset_is_zero(dataset_of) -> None:
    assert matrix_of(dataset_of(), []).tolist() == [[0, 0, 0]] * 3
