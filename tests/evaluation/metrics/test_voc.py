"""Pascal VOC's AP, worked out by hand and compared with a loop over the detections of each class."""

import math

import numpy as np
import pytest

from mrcnn_zoo.evaluation.metrics.contract import Evaluated
from mrcnn_zoo.evaluation.metrics.voc import VocMetric
from support.evaluated import evaluated_of, random_evaluated, rectangle


def measure(evaluated: Evaluated) -> dict[str, dict[str, float]]:
    return VocMetric()(evaluated).results


def inclusive_iou(first: list[float], second: list[float]) -> float:
    """IoU of boxes as the development kit has it: corners are pixels, 1 is added to each side."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = first, second
    a, b = (ax, ay, ax + aw - 1, ay + ah - 1), (bx, by, bx + bw - 1, by + bh - 1)
    w, h = min(a[2], b[2]) - max(a[0], b[0]) + 1, min(a[3], b[3]) - max(a[1], b[1]) + 1
    if w <= 0 or h <= 0:
        return 0.0
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return w * h / (sum(areas) - w * h)


def expected(evaluated: Evaluated, category: int, threshold: float) -> tuple[float, float]:
    """AP of 2007 and 2012 of a class."""
    objects = [item for item in evaluated.ground_truth["annotations"] if item["category_id"] == category]
    rows = sorted((r for r in evaluated.rows if r["category_id"] == category), key=lambda r: -r["score"])
    detected, hits = set(), []
    for row in rows:
        here = [item for item in objects if item["image_id"] == row["image_id"]]
        overlaps = [inclusive_iou(row["bbox"], item["bbox"]) for item in here]
        best = max(range(len(here)), key=overlaps.__getitem__, default=None)
        if best is None or overlaps[best] < threshold:
            hits.append(False)
        elif not here[best]["iscrowd"]:
            hits.append(here[best]["id"] not in detected)
            detected.add(here[best]["id"])
    number = sum(not item["iscrowd"] for item in objects)
    if not number:
        return math.nan, math.nan
    points = [(sum(hits[:n]) / number, sum(hits[:n]) / n) for n in range(1, len(hits) + 1)]
    highest = lambda recall: max((p for r, p in points if r >= recall), default=0.0)  # noqa: E731
    area = sum(highest(n / number) / number for n in range(1, number + 1))
    return sum(highest(level) for level in np.linspace(0, 1, 11)) / 11, area


@pytest.mark.parametrize("seed", range(5))
def test_random_scenes_equal_a_second_implementation(seed: int) -> None:
    evaluated = random_evaluated(seed, num_images=5, num_classes=2, crowds=True)
    results = measure(evaluated)
    for row, threshold in enumerate(("AP50", "AP75")):
        pairs = np.array([expected(evaluated, category, (0.5, 0.75)[row]) for category in (1, 2)])
        for year, values in zip(("voc2007", "voc2012"), 100 * np.nanmean(pairs, axis=0), strict=True):
            assert results[year][threshold] == pytest.approx(values)
    for number, name in ((1, "AP-a"), (2, "AP-b")):
        pair = 100 * np.array(expected(evaluated, number, 0.5))
        assert [results[year][name] for year in ("voc2007", "voc2012")] == pytest.approx(pair, nan_ok=True)


def test_both_years_by_hand() -> None:
    # Four objects; hits in descending order of score: true, false, true, false, true.
    # Recall and precision: (1/4, 1), (1/4, 1/2), (2/4, 2/3), (2/4, 2/4), (3/4, 3/5).
    objects = [rectangle(20 * n, 0, 10, 10) for n in range(4)]
    rows = [rectangle(20 * n, 0, 10, 10, score=s) for n, s in ((0, 0.9), (1, 0.7), (2, 0.5))]
    rows += [rectangle(20 * n, 40, 10, 10, score=s) for n, s in ((0, 0.8), (1, 0.6))]
    results = measure(evaluated_of(objects, rows))
    # Recalls 0, 0.1, 0.2: 1; 0.3, 0.4, 0.5: 2/3; 0.6, 0.7: 3/5; 0.8, 0.9, 1: 0.
    assert results["voc2007"]["AP50"] == pytest.approx(100 * (3 + 3 * 2 / 3 + 2 * 3 / 5) / 11)
    assert results["voc2012"]["AP50"] == pytest.approx(100 * (1 + 2 / 3 + 3 / 5) / 4)
    assert results["voc2012_segm"] == results["voc2012"]


def test_difficult_object_counts_neither_way() -> None:
    objects = [rectangle(0, 0, 10, 10), rectangle(20, 0, 10, 10, crowd=True)]
    rows = [rectangle(20, 0, 10, 10, score=0.9), rectangle(21, 0, 9, 10, score=0.8), rectangle(0, 0, 10, 10, score=0.7)]
    assert measure(evaluated_of(objects, rows))["voc2012"]["AP50"] == 100.0
    # It is no crowd: a small part of it is a false detection.
    rows = [rectangle(20, 0, 4, 10, score=0.9), rectangle(0, 0, 10, 10, score=0.7)]
    assert measure(evaluated_of(objects, rows))["voc2012"]["AP50"] == 50.0


def test_detection_of_a_detected_object_takes_no_other() -> None:
    # Both detections overlap the first object most; COCO would give the second object to the second detection.
    objects = [rectangle(0, 0, 20, 10), rectangle(4, 0, 20, 10)]
    rows = [rectangle(0, 0, 20, 10, score=0.9), rectangle(1, 0, 20, 10, score=0.8)]
    assert measure(evaluated_of(objects, rows))["voc2012"]["AP50"] == 50.0


def test_iou_of_exactly_one_half_is_a_match() -> None:
    result = measure(evaluated_of([rectangle(0, 0, 10, 10)], [rectangle(0, 0, 10, 5, score=0.9)]))["voc2012"]
    assert (result["AP50"], result["AP"]) == (100.0, 10.0)


@pytest.mark.parametrize("rows", [[], [rectangle(0, 0, 10, 10, score=0.9)]], ids=["nothing", "false"])
def test_without_objects_there_is_no_ap(rows: list[dict]) -> None:
    assert math.isnan(measure(evaluated_of([], rows))["voc2007"]["AP50"])


def test_without_detections_the_ap_is_zero() -> None:
    assert measure(evaluated_of([rectangle(0, 0, 10, 10)], []))["voc2007"]["AP50"] == 0.0
