"""The metric "cells", compared with matching, AJI and PQ of label images."""

import itertools
import math

import numpy as np
import pytest

from mrcnn_zoo.evaluation.metrics.cells import CellMetric
from mrcnn_zoo.evaluation.metrics.contract import Evaluated
from support.evaluated import SIZE, evaluated_of, random_evaluated, rectangle


def measure(evaluated: Evaluated, *, threshold: float = 0.5) -> dict[str, float]:
    return CellMetric(score_threshold=threshold)(evaluated).results["cells"]


def bitmap(item: dict) -> np.ndarray:
    x, y, width, height = item["bbox"]
    mask = np.zeros(SIZE, dtype=bool)
    mask[y : y + height, x : x + width] = True
    return mask


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


def most_pairs(is_allowed: np.ndarray) -> int:
    """Largest number of pairs, by augmenting paths."""
    owner = [-1] * is_allowed.shape[1]

    def place(row: int, seen: set[int]) -> bool:
        for column in np.flatnonzero(is_allowed[row]):
            if column not in seen:
                seen.add(column)
                if owner[column] < 0 or place(owner[column], seen):
                    owner[column] = row
                    return True
        return False

    return sum(place(row, set()) for row in range(is_allowed.shape[0]))


def expected(evaluated: Evaluated, threshold: float) -> dict[str, float]:
    """Second implementation, with full bitmaps, for images of one class without crowds."""
    counts, jaccards, panoptic = [], [], np.zeros(4)
    for image in evaluated.ground_truth["images"]:
        of_image = [a for a in evaluated.ground_truth["annotations"] if a["image_id"] == image["id"]]
        found = [r for r in evaluated.rows if r["image_id"] == image["id"] and r["score"] >= threshold]
        true, raw = [bitmap(item) for item in of_image], [bitmap(item) for item in found]
        ious = np.array([[iou(p, t) for t in true] for p in raw]).reshape(len(raw), len(true))
        matched = [most_pairs(ious >= level) for level in np.linspace(0.5, 0.95, 10)]
        counts.append([(tp, len(raw) - tp, len(true) - tp) for tp in matched])
        labels = np.zeros(SIZE, dtype=int)
        for number in sorted(range(len(raw)), key=lambda n: found[n]["score"]):
            labels[raw[number]] = number + 1
        flat = [labels == number for number in np.unique(labels) if number]
        jaccards.append(jaccard_of(flat, true))
        ious = np.array([[iou(p, t) for t in true] for p in flat]).reshape(len(flat), len(true))
        tp = most_pairs(ious > 0.5)
        panoptic += best_sum(ious), tp, len(flat) - tp, len(true) - tp
    array = np.array(counts, dtype=float)
    tp, fp, fn = array.sum(axis=0)[0]
    with np.errstate(invalid="ignore"):
        ap = np.nanmean(array[..., 0] / array.sum(axis=-1), axis=0)
    pooled = array.sum(axis=0)
    total, true_pairs, false, missed = panoptic
    values = {
        **{"AP": ap.mean(), "AP50": ap[0], "AP75": ap[5]},
        **{"pooled_AP": (pooled[:, 0] / pooled.sum(axis=1)).mean(), "precision50": tp / (tp + fp)},
        **{"recall50": tp / (tp + fn), "F1_50": 2 * tp / (2 * tp + fp + fn), "AJI": np.nanmean(jaccards)},
        **{"PQ": total / (true_pairs + false / 2 + missed / 2), "SQ": total / true_pairs},
    }
    return {name: 100 * value for name, value in values.items()}


def jaccard_of(found: list[np.ndarray], true: list[np.ndarray]) -> float:
    """Kumar et al. 2017, algorithm 1."""
    common, union, used = 0, 0, set()
    for mask in true:
        best = max(range(len(found)), key=lambda n: iou(found[n], mask), default=None)
        if best is None or not (found[best] & mask).any():
            union += mask.sum()
            continue
        common, union = common + (found[best] & mask).sum(), union + (found[best] | mask).sum()
        used.add(best)
    union += sum(mask.sum() for number, mask in enumerate(found) if number not in used)
    return common / union if union else math.nan


def best_sum(ious: np.ndarray) -> float:
    """Largest sum of IoU among the largest matchings above 0.5, over all permutations."""
    rows, columns = ious.shape
    if not ious.size:
        return 0.0
    long = ious if rows >= columns else ious.T
    sums = [
        (np.sum(values > 0.5), values[values > 0.5].sum())
        for order in itertools.permutations(range(long.shape[0]), long.shape[1])
        for values in [long[list(order), range(long.shape[1])]]
    ]
    return float(max(sums)[1])


@pytest.mark.parametrize("seed", range(6))
def test_random_scenes_equal_a_second_implementation(seed: int) -> None:
    evaluated = random_evaluated(seed, num_images=3, num_classes=1)
    result = measure(evaluated, threshold=0.3)
    for name, value in expected(evaluated, 0.3).items():
        assert result[name] == pytest.approx(value, nan_ok=True), name


def test_merged_cells_are_one_false_and_two_missed() -> None:
    # One detection over two touching cells of 10 x 10: IoU 0.5 with each is a match of one of them, 0.55 of none.
    objects = [rectangle(0, 0, 10, 10), rectangle(10, 0, 10, 10)]
    result = measure(evaluated_of(objects, [rectangle(0, 0, 20, 10, score=0.9)]))
    assert result["AP50"] == pytest.approx(50.0)  # 1 / (1 + 0 + 1)
    assert result["AP"] == pytest.approx(5.0)  # at the other nine thresholds 0 / (0 + 1 + 2)
    # Both cells are paired with it: 2 x 100 shared pixels over 2 x 200.
    assert result["AJI"] == pytest.approx(50.0)
    # AJI+ pairs it with one: 100 over 200 + the 100 pixels of the other.
    assert result["AJI+"] == pytest.approx(100 / 3)
    assert result["PQ"] == 0.0  # an IoU of exactly one half is no match of PQ
    assert math.isnan(result["SQ"])


def test_touching_cells_that_are_found_exactly_score_one_hundred() -> None:
    boxes = [(0, 0, 10, 10), (10, 0, 10, 10), (0, 10, 10, 10)]
    result = measure(evaluated_of([rectangle(*box) for box in boxes], [rectangle(*box, score=0.8) for box in boxes]))
    assert set(result.values()) == {100.0}


def test_overlapping_detections_match_as_they_are_and_are_disjoint_for_areas() -> None:
    # Two cells of 10 x 10 share 20 pixels, and both are found exactly.
    boxes = [(0, 0, 10, 10), (8, 0, 10, 10)]
    rows = [rectangle(*boxes[0], score=0.9), rectangle(*boxes[1], score=0.6)]
    result = measure(evaluated_of([rectangle(*box) for box in boxes], rows))
    assert result["AP"] == 100.0
    # The second one loses 20 pixels to the first one: IoU 0.8.
    assert result["SQ"] == pytest.approx(90.0)
    assert result["AJI"] == pytest.approx(100 * 180 / 200)


def test_ambiguous_pairs_are_matched_as_many_as_possible() -> None:
    # IoUs of the first detection: 1 and 0.552; of the second one: 0.55 and 0.385. Pairs in order of score or of the
    # largest sum of IoU would match one cell.
    objects = [rectangle(0, 0, 20, 10), rectangle(4, 0, 25, 10)]
    rows = [rectangle(0, 0, 20, 10, score=0.9), rectangle(3, 0, 11, 10, score=0.8)]
    result = measure(evaluated_of(objects, rows))
    assert result["AP50"] == 100.0
    assert result["AP75"] == pytest.approx(100 / 3)


def test_mean_over_images_differs_from_pooled_counts() -> None:
    exact = [rectangle(0, 0, 10, 10, image=1), rectangle(0, 0, 10, 10, image=2), rectangle(20, 0, 10, 10, image=2)]
    rows = [rectangle(0, 0, 10, 10, image=image, score=0.9) for image in (1, 2)]
    result = measure(evaluated_of(exact, rows, num_images=3))  # the third image has nothing and does not count
    assert result["AP50"] == pytest.approx((100 + 50) / 2)
    assert result["pooled_AP50"] == pytest.approx(200 / 3)


@pytest.mark.parametrize("objects", [[], [rectangle(0, 0, 10, 10)]], ids=["no_objects", "objects"])
def test_without_detections(objects: list[dict]) -> None:
    result = measure(evaluated_of(objects, [rectangle(0, 0, 10, 10, score=0.4)]))  # below the threshold
    for name in ("AP", "F1", "AJI", "PQ"):
        assert math.isnan(result[name]) if not objects else result[name] == 0.0


def test_detections_without_objects_are_false() -> None:
    result = measure(evaluated_of([], [rectangle(0, 0, 10, 10, score=0.9)]))
    assert (result["AP"], result["precision50"], result["AJI"], result["PQ"]) == (0.0, 0.0, 0.0, 0.0)


def test_detection_inside_a_crowd_does_not_count() -> None:
    objects = [rectangle(0, 0, 10, 10), rectangle(30, 0, 30, 30, crowd=True)]
    rows = [rectangle(0, 0, 10, 10, score=0.9), rectangle(35, 5, 10, 10, score=0.8)]
    result = measure(evaluated_of(objects, rows))
    assert (result["AP"], result["AJI"], result["PQ"]) == (100.0, 100.0, 100.0)


def test_classes_match_only_themselves() -> None:
    objects = [rectangle(0, 0, 10, 10, category=1)]
    rows = [rectangle(0, 0, 10, 10, category=2, score=0.9)]
    result = measure(evaluated_of(objects, rows, num_classes=2))
    assert (result["AP"], result["PQ"]) == (0.0, 0.0)
    assert result["AJI"] == 100.0  # of pixels alone


def test_boxes_alone_are_not_measured() -> None:
    report = CellMetric(score_threshold=0.5)(evaluated_of([], [], tasks=("bbox",)))
    assert (report.results, report.text) == ({}, "")
    assert report.details.endswith("No masks are evaluated.")


def test_names_are_those_of_the_results() -> None:
    metric = CellMetric(score_threshold=0.5)
    evaluated = random_evaluated(0)
    assert metric.names(evaluated.tasks) == [f"cells/{name}" for name in metric(evaluated).results["cells"]]
