"""F1 and score thresholds, by hand and against hotcoco's matching."""

import math
from dataclasses import replace

import numpy as np
import pytest

from mrcnn_zoo.evaluation.backends import Matches
from mrcnn_zoo.evaluation.metrics.f1 import F1
from mrcnn_zoo.evaluation.operating_points import best_point, find_thresholds, match_detections
from mrcnn_zoo.registries import AP_BACKENDS
from support.detections import CAT, DOG, detection, evaluated_of, random_rows


def matches_of(scores: list[float], is_true: list[int], num_objects: int) -> Matches:
    return Matches(np.array(scores), np.array(is_true, dtype=bool), num_objects)


def test_best_point_equals_that_by_hand() -> None:
    point = best_point(matches_of([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 0], 3))
    assert (point.f1, point.precision, point.recall) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert point.threshold == pytest.approx(0.65)  # halfway between 0.7 and 0.6


def test_equal_scores_are_kept_together() -> None:
    point = best_point(matches_of([0.5, 0.5, 0.5, 0.2], [1, 0, 0, 1], 2))  # not the first 0.5 alone: F1 2/3
    assert (point.f1, point.threshold) == pytest.approx((2 * 0.5 * 1 / 1.5, 0.2))


@pytest.mark.parametrize(("scores", "is_true", "objects"), [([], [], 0), ([], [], 2), ([0.9], [0], 0), ([0.9], [0], 2)])
def test_no_point_without_a_true_detection(scores: list[float], is_true: list[int], objects: int) -> None:
    assert math.isnan(best_point(matches_of(scores, is_true, objects)).threshold)


def test_class_without_a_threshold_of_its_own_has_that_of_all() -> None:
    found = {"cat": matches_of([0.9, 0.4], [1, 0], 1), "dog": matches_of([], [], 3)}
    assert find_thresholds(found) == {"cat": pytest.approx(0.65), "dog": pytest.approx(0.65)}
    assert find_thresholds({"cat": matches_of([0.9], [0], 1)}) == {}


@pytest.mark.parametrize("tasks", [("bbox",), ("bbox", "segm")])
def test_no_other_threshold_has_a_higher_f1_in_hotcoco(square, dataset_of, tasks: tuple[str, ...]) -> None:
    hotcoco = pytest.importorskip("hotcoco")
    images = [tuple(square(30 * x + 3, 30 * y, 16 + 4 * y, (x + y) % 2) for x in range(3) for y in range(3))] * 6
    dataset = dataset_of(*images, (square(0, 0, 40, 0, is_crowd=True),))
    evaluated = evaluated_of(dataset, random_rows(dataset, seed=1), tasks=tasks)
    results = F1()(evaluated).results[f"f1_{tasks[-1]}"]

    def f1_in_hotcoco(threshold: float) -> float:
        found = evaluated.detections_of(tasks[-1])
        found["annotations"] = [row for row in found["annotations"] if row["score"] >= threshold]
        sets = hotcoco.COCO(evaluated.ground_truth_of(tasks[-1])), hotcoco.COCO(found)
        evaluation = hotcoco.COCOeval(*sets, tasks[-1])
        evaluation.params.iouThrs, evaluation.params.areaRng, evaluation.params.areaRngLbl = [0.5], [[0, 1e10]], ["all"]
        evaluation.evaluate()
        images = [image for image in evaluation.eval_imgs if image]
        counts = [~np.array(image["dtIgnore"][0], dtype=bool) for image in images]
        true = sum(np.sum(np.array(i["dtMatched"][0])[c]) for i, c in zip(images, counts, strict=True) if len(c))
        objects = sum(np.sum(~np.array(image["gtIgnore"], dtype=bool)) for image in images)
        return 100 * 2 * true / (sum(map(np.sum, counts)) + objects)

    everywhere = [f1_in_hotcoco(threshold) for threshold in np.linspace(0.01, 0.99, 99)]
    assert results["F1"] == pytest.approx(f1_in_hotcoco(results["threshold"]))
    assert results["F1"] == pytest.approx(max(everywhere))
    assert min(everywhere) < results["F1"] - 5


@pytest.mark.parametrize(("backend", "ids"), [("pycocotools", (14, 7)), ("hotcoco", (14, 7)), ("hotcoco", (-1, -7))])
def test_matches_of_the_ap_are_those_of_a_matching_of_their_own(square, dataset_of, backend: str, ids) -> None:
    pytest.importorskip(backend)
    dataset = dataset_of(*[(square(3, 3, 20), square(30, 30, 24, 1), square(0, 60, 40, is_crowd=True))] * 8)
    dataset, new = replace(dataset, category_ids=ids), dict(zip((CAT, DOG), ids, strict=True))
    rows = [
        row | {"category_id": new.get(row["category_id"], row["category_id"])} for row in random_rows(dataset, seed=3)
    ]
    evaluated = evaluated_of(dataset, rows)
    parts = evaluated.ground_truth_of("segm"), evaluated.detections_of("segm"), "segm"
    again = match_detections(*parts, max_detections=evaluated.max_detections)
    found = AP_BACKENDS.get(backend)(*parts, [1, 10, evaluated.max_detections]).matches
    assert found.keys() == again.keys()
    for number, matches in again.items():
        assert matches.is_true.any()
        assert not matches.is_true.all()
        np.testing.assert_array_equal(found[number].scores, matches.scores)
        np.testing.assert_array_equal(found[number].is_true, matches.is_true)
        assert found[number].num_objects == matches.num_objects


def test_masks_are_ranked_by_the_score_that_predict_compares(square, dataset_of) -> None:
    dataset = dataset_of((square(0, 0, 20, 0),))
    rows = [
        detection(CAT, (0, 0, 20, 20), 0.9) | {"mask_score": 0.1},
        detection(CAT, (60, 60, 20, 20), 0.5) | {"mask_score": 0.8},
    ]
    assert F1()(evaluated_of(dataset, rows)).results["f1_segm"]["threshold"] == pytest.approx(0.7)


def test_table_and_files_have_every_class(square, dataset_of) -> None:
    dataset = dataset_of((square(0, 0, 20, 0), square(40, 0, 20, 0)), class_names=("a|b", "dog"))
    report = F1()(evaluated_of(dataset, [detection(CAT, (0, 0, 20, 20), 0.9), detection(DOG, (70, 70, 9, 9), 0.8)]))
    rows = [[cell.strip() for cell in line.split(" | ")] for line in report.text.splitlines()[4:]]
    assert rows[0] == ["| all classes", "2", "66.67", "100.00", "50.00", "0.850 |"]
    assert rows[1] == ["| a\\|b", "2", "66.67", "100.00", "50.00", "0.900 |"]
    assert rows[2] == ["| dog", "0", "-", "-", "-", "- |"]
    assert report.files["f1.csv"].splitlines()[1:3] == ["all classes,0.9,1,0.5,0.666667", "all classes,0.8,0.5,0.5,0.5"]
    assert report.files["f1.png"][:4] == b"\x89PNG"
    assert report.results["f1_segm"]["F1-a|b"] == pytest.approx(200 / 3)


def test_the_only_class_has_no_second_row_for_all_classes_and_the_csv_a_row_per_thousandth(square, dataset_of) -> None:
    dataset = dataset_of((square(0, 0, 20, 0), square(40, 0, 20, 0)), class_names=("cat",))
    scores = (0.9, 0.8006, 0.8004, 0.8001)
    only_id = dataset.category_ids[0]
    rows = [detection(only_id, (20 * x, 0, 20, 20), score) for x, score in enumerate(scores)]
    report = F1()(evaluated_of(dataset, rows))
    assert [line.split()[1] for line in report.text.splitlines()[4:]] == ["cat"]
    # All four detections have a score of at least 0.8001, two of them are right.
    assert report.files["f1.csv"].splitlines()[1:] == ["cat,0.9,1,0.5,0.666667", "cat,0.8001,0.5,1,0.666667"]


def test_empty_dataset_has_no_curve(dataset_of) -> None:
    evaluated = evaluated_of(dataset_of(()), [])
    report = F1()(evaluated)
    assert math.isnan(report.results["f1_segm"]["F1"])
    assert list(report.files) == ["f1.csv"]
    assert find_thresholds(evaluated.matches) == {}
