"""Which class is taken for which, counted by hand."""

from typing import Any

import pytest

from mrcnn_zoo.evaluation.confusion import confusion_matrix


def row(category_id: int, box: tuple[float, ...], score: float = 0.9) -> dict[str, Any]:
    return {"image_id": 10, "category_id": category_id, "bbox": list(box), "score": score}


CAT, DOG = 14, 7  # category ids of classes 0 and 1, see `dataset_of`


def test_right_wrong_missed_and_invented_objects_each_have_their_place(square, dataset_of) -> None:
    dataset = dataset_of((square(0, 0, 10, 0), square(20, 0, 10, 0), square(40, 0, 10, 1)))
    rows = [row(CAT, (0, 0, 10, 10)), row(DOG, (20, 0, 10, 10)), row(DOG, (70, 70, 10, 10))]
    #                      detected as cat, dog, nothing
    assert confusion_matrix(dataset, rows).tolist() == [
        [1, 1, 0],
        [0, 0, 1],
        [0, 1, 0],
    ]


def test_the_best_detection_takes_the_object_and_the_next_one_is_invented(square, dataset_of) -> None:
    dataset = dataset_of((square(0, 0, 10, 0),))
    rows = [row(CAT, (0, 0, 10, 10), 0.6), row(DOG, (0, 0, 10, 9), 0.8)]
    assert confusion_matrix(dataset, rows).tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]


def test_detections_below_the_score_and_over_crowds_are_left_out(square, dataset_of) -> None:
    dataset = dataset_of((square(0, 0, 50, 0, is_crowd=True),))
    rows = [row(CAT, (10, 10, 10, 10)), row(CAT, (80, 80, 10, 10), 0.4)]
    assert confusion_matrix(dataset, rows).sum() == 0


@pytest.mark.parametrize("rows", [[], [row(CAT, (0, 0, 10, 10))]])
def test_an_image_without_objects_or_without_detections_is_counted(square, dataset_of, rows) -> None:
    assert confusion_matrix(dataset_of(()), rows).sum() == len(rows)
    assert confusion_matrix(dataset_of((square(50, 50, 10),)), [])[0, 2] == 1


def test_a_dataset_without_images_has_an_empty_matrix(dataset_of) -> None:
    assert confusion_matrix(dataset_of(), []).tolist() == [[0, 0, 0]] * 3
