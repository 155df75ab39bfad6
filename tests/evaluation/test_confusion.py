"""Confusion matrices, counted by hand."""

from typing import Any

import pytest

from mrcnn_zoo.evaluation.confusion import confusion_matrix


def row(category_id: int, box: tuple[float, ...], score: float = 0.9) -> dict[str, Any]:
    return {"image_id": 10, "category_id": category_id, "bbox": list(box), "score": score}


CAT, DOG = 14, 7  # category ids of classes 0 and 1, see `dataset_of`


def test_correct_confused_missed_and_false_detections_are_counted(square, dataset_of) -> None:
    dataset = dataset_of((square(0, 0, 10, 0), square(20, 0, 10, 0), square(40, 0, 10, 1)))
    rows = [row(CAT, (0, 0, 10, 10)), row(DOG, (20, 0, 10, 10)), row(DOG, (70, 70, 10, 10))]
    #                      detected as cat, dog, nothing
    assert confusion_matrix(dataset, rows).tolist() == [
        [1, 1, 0],
        [0, 0, 1],
        [0, 1, 0],
    ]


def test_second_detection_of_an_object_is_false(square, dataset_of) -> None:
    dataset = dataset_of((square(0, 0, 10, 0),))
    rows = [row(CAT, (0, 0, 10, 10), 0.6), row(DOG, (0, 0, 10, 9), 0.8)]
    assert confusion_matrix(dataset, rows).tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]


def test_detections_below_the_threshold_and_over_crowds_are_not_counted(square, dataset_of) -> None:
    dataset = dataset_of((square(0, 0, 50, 0, is_crowd=True),))
    rows = [row(CAT, (10, 10, 10, 10)), row(CAT, (80, 80, 10, 10), 0.4)]
    assert confusion_matrix(dataset, rows).sum() == 0


@pytest.mark.parametrize("rows", [[], [row(CAT, (0, 0, 10, 10))]])
def test_images_without_objects_or_detections_are_counted(square, dataset_of, rows) -> None:
    assert confusion_matrix(dataset_of(()), rows).sum() == len(rows)
    assert confusion_matrix(dataset_of((square(50, 50, 10),)), [])[0, 2] == 1


def test_matrix_of_an_empty_dataset_is_zero(dataset_of) -> None:
    assert confusion_matrix(dataset_of(), []).tolist() == [[0, 0, 0]] * 3
