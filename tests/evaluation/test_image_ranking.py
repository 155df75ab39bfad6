"""Counts, scores and rankings of images, worked out by hand."""

import csv
import io
import math

import pytest

from mrcnn_zoo.evaluation.image_ranking import (
    ImageResult,
    best_images,
    confidently_wrong_images,
    image_results,
    worst_images,
)
from mrcnn_zoo.evaluation.metrics.cells import count_matches
from mrcnn_zoo.evaluation.metrics.images import ImageTable
from mrcnn_zoo.evaluation.metrics.overlaps import image_overlaps
from support.evaluated import evaluated_of, random_evaluated, rectangle

OBJECTS = [
    *(rectangle(x, 0, 10, 10, image=1) for x in (0, 20)),  # both found
    *(rectangle(x, 0, 10, 10, image=2) for x in (0, 20)),  # one found, one missed
    rectangle(0, 0, 10, 10, image=3),  # of another class than the detection
]
ROWS = [
    *(rectangle(x, 0, 10, 8, image=1, score=0.9) for x in (0, 20)),  # IoU 0.8
    rectangle(0, 0, 10, 10, image=2, score=0.8),
    rectangle(20, 0, 10, 10, image=2, score=0.3),  # below the threshold
    rectangle(0, 0, 10, 10, category=2, image=3, score=0.97),
    rectangle(0, 30, 10, 10, image=4, score=0.6),  # image 4 has no objects; 5 has nothing at all
]


@pytest.fixture(scope="module")
def results() -> list[ImageResult]:
    return image_results(evaluated_of(OBJECTS, ROWS, num_images=5, num_classes=2))


def test_counts_and_scores_per_image(results: list[ImageResult]) -> None:
    counts = [(r.num_objects, len(r.found), r.num_missed, r.num_false) for r in results]
    assert counts == [(2, 2, 0, 0), (2, 1, 1, 0), (1, 0, 1, 1), (0, 0, 0, 1), (0, 0, 0, 0)]
    assert [r.score for r in results] == pytest.approx([1.6 / 2, 1 / 1.5, 0, 0, 1])
    assert [r.mean_iou for r in results[:2]] == pytest.approx([0.8, 1.0])
    assert all(math.isnan(r.mean_iou) for r in results[2:])


def test_confidence_of_errors(results: list[ImageResult]) -> None:
    # Three of five objects of class a are found; the missed one of image 2 has a detection with score 0.3 on it.
    assert [r.confidence for r in results] == pytest.approx([0, 0.6 * 0.7, 0.97, 0.6, 0])
    false, missed = results[2].errors
    assert (false.class_name, missed.class_name) == ("b", "a")
    assert false.text == "false 'b' with score 0.97, IoU 1.00 with 'a'"
    assert missed.text == "missed 'a'; the highest score of its class on it is 0.00"
    assert results[3].errors[0].text.endswith("on no object")


def test_rankings(results: list[ImageResult]) -> None:
    def ids(images: list[ImageResult]) -> list[int]:
        return [result.image["id"] for result in images]

    assert ids(best_images(results, 9)) == [1, 2, 3]  # 4 and 5 have no objects
    assert ids(worst_images(results, 9)) == [3, 4, 2]  # 3 and 4 have score 0, and 3 has more errors
    assert ids(confidently_wrong_images(results, 9)) == [3, 4, 2]
    assert ids(confidently_wrong_images(results, 1)) == [3]
    assert best_images([], 3) == worst_images([], 3) == []


def test_equal_scores_rank_images_with_more_objects_first() -> None:
    objects = [rectangle(x, 0, 8, 8, image=image) for image, x in ((1, 0), (2, 0), (2, 20), (3, 0))]
    results = image_results(evaluated_of(objects, [item | {"score": 0.9} for item in objects], num_images=3))
    assert [r.image["id"] for r in best_images(results, 3)] == [2, 1, 3]


def test_crowds_count_neither_way() -> None:
    objects = [rectangle(0, 0, 10, 10), rectangle(30, 0, 30, 30, crowd=True)]
    rows = [rectangle(0, 0, 10, 10, score=0.9), rectangle(35, 5, 10, 10, score=0.8)]
    (result,) = image_results(evaluated_of(objects, rows))
    assert (result.num_objects, result.num_missed, result.num_false, result.score) == (1, 0, 0, 1.0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_counts_are_those_of_the_metric_cells(seed: int, task: str) -> None:
    evaluated = random_evaluated(seed, crowds=True)
    expected = [count_matches(o, [0.5])[0].tolist() for o in image_overlaps(evaluated, task, min_score=0.5)]
    results = image_results(evaluated, task=task)
    assert [[len(r.found), r.num_false, r.num_missed] for r in results] == expected


def test_table_of_all_images() -> None:
    report = ImageTable()(evaluated_of(OBJECTS, ROWS, num_images=5, num_classes=2))
    rows = list(csv.DictReader(io.StringIO(str(report.files["images.csv"]))))
    assert [row["file_name"] for row in rows] == [f"{number}.png" for number in range(1, 6)]
    assert (rows[1]["objects"], rows[1]["missed"], rows[1]["mean_iou"], rows[1]["score"]) == (
        "2",
        "1",
        "1.0000",
        "0.6667",
    )
    assert (rows[4]["mean_iou"], rows[4]["confidence"], rows[4]["error"]) == ("", "0.0000", "")
    assert report.details.count("| 3.png") == 3  # worst, most confidently wrong, and the last of the best
