"""LVIS AP, by hand and compared with pycocotools on the annotations and detections that LVIS counts."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrcnn_zoo.data.formats.coco import load_coco
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.backends import curves_by_pycocotools
from mrcnn_zoo.evaluation.ground_truth import complete_ground_truth
from mrcnn_zoo.evaluation.metrics.contract import Evaluated
from mrcnn_zoo.evaluation.metrics.lvis import LvisMetric
from support.evaluated import SIZE, evaluated_of, random_evaluated, rectangle

pytest.importorskip("hotcoco")
FREQUENCIES = "rcff"


def federated(evaluated: Evaluated, negative: dict[int, list[int]], open_: dict[int, list[int]]) -> Evaluated:
    """The fields of LVIS: `negative` classes and not exhaustively annotated (`open_`) ones by image."""
    truth = evaluated.ground_truth
    images = [
        image
        | {"neg_category_ids": negative.get(image["id"], []), "not_exhaustive_category_ids": open_.get(image["id"], [])}
        for image in truth["images"]
    ]
    categories = [category | {"frequency": FREQUENCIES[category["id"] - 1]} for category in truth["categories"]]
    return replace(evaluated, ground_truth=truth | {"images": images, "categories": categories})


def measure(evaluated: Evaluated, task: str = "bbox") -> dict[str, float]:
    return LvisMetric()(evaluated).results[f"lvis_{task}"]


def expected(evaluated: Evaluated, task: str) -> dict[str, float]:
    """pycocotools without detections of unverified classes, and with a crowd over each image per open class."""
    truth = evaluated.ground_truth
    verified = {(item["image_id"], item["category_id"]) for item in truth["annotations"]}
    verified |= {(image["id"], category) for image in truth["images"] for category in image["neg_category_ids"]}
    whole = [
        rectangle(0, 0, SIZE[1], SIZE[0], category=category, image=image["id"], crowd=True)
        for image in truth["images"]
        for category in image["not_exhaustive_category_ids"]
        if (image["id"], category) in verified
    ]
    annotations = [item | {"id": number} for number, item in enumerate([*truth["annotations"], *whole], start=1)]
    rows = [row for row in evaluated.rows if (row["image_id"], row["category_id"]) in verified]
    counted = replace(evaluated, ground_truth=truth | {"annotations": annotations}, rows=rows)
    curves = curves_by_pycocotools(counted.ground_truth_of(task), counted.detections_of(task), task, [300])
    precision = curves.precision[:, :, :, 0, 0]
    mean = lambda values: 100 * values[values > -1].mean() if (values > -1).any() else np.nan  # noqa: E731
    groups = {"APr": [0], "APc": [1], "APf": [2, 3]}
    values = {"AP": mean(precision), "AP50": mean(precision[0]), "AP75": mean(precision[5])}
    return values | {name: mean(precision[:, :, columns]) for name, columns in groups.items()}


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(3))
def test_random_scenes_equal_pycocotools_on_what_counts(seed: int, task: str) -> None:
    evaluated = random_evaluated(seed, num_images=8, num_classes=4)
    rng = np.random.default_rng(seed)
    present = {(item["image_id"], item["category_id"]) for item in evaluated.ground_truth["annotations"]}
    classes = {
        image: [c for c in range(1, 5) if (image, c) not in present and rng.random() < 0.5] for image in range(1, 9)
    }
    open_ = {image: [c for c in range(1, 5) if (image, c) in present and rng.random() < 0.4] for image in range(1, 9)}
    evaluated = federated(evaluated, classes, open_)
    result = measure(evaluated, task)
    for name, value in expected(evaluated, task).items():
        assert result[name] == pytest.approx(value, nan_ok=True), name


def scene(*, score: float) -> Evaluated:
    """An object of class a found at 0.5, and a detection of class a in an image without objects."""
    rows = [rectangle(0, 0, 10, 10, score=0.5), rectangle(0, 0, 10, 10, image=2, score=score)]
    return evaluated_of([rectangle(0, 0, 10, 10)], rows, num_images=2, num_classes=2)


def test_detections_of_unverified_classes_do_not_count() -> None:
    assert measure(federated(scene(score=0.9), {}, {}))["APr"] == pytest.approx(100.0)
    assert measure(federated(scene(score=0.9), {2: [1]}, {}))["APr"] == pytest.approx(50.0)


def test_false_detection_of_a_class_that_is_not_exhaustively_annotated_does_not_count() -> None:
    rows = [rectangle(0, 0, 10, 10, score=0.5), rectangle(40, 0, 10, 10, score=0.9)]
    evaluated = evaluated_of([rectangle(0, 0, 10, 10)], rows)
    assert measure(federated(evaluated, {}, {}))["AP"] == pytest.approx(50.0)
    assert measure(federated(evaluated, {}, {1: [1]}))["AP"] == pytest.approx(100.0)


def test_three_hundred_detections_of_all_classes_count() -> None:
    def evaluated(number: int) -> Evaluated:
        unverified = [rectangle(0, 0, 10, 10, category=2, score=0.9)] * number
        rows = [*unverified, rectangle(0, 0, 10, 10, score=0.5)]
        return federated(evaluated_of([rectangle(0, 0, 10, 10)], rows, num_classes=2, tasks=("bbox",)), {}, {})

    assert measure(evaluated(299))["APr"] == pytest.approx(100.0)
    assert measure(evaluated(300))["APr"] == 0.0


def test_fields_of_the_annotation_file_reach_the_metric(tmp_path: Path) -> None:
    evaluated = scene(score=0.9)
    truth = federated(evaluated, {2: [1]}, {}).ground_truth
    file = tmp_path / "lvis_v1_val.json"
    file.write_text(json.dumps(truth | {"images": [image | {"file_name": "a.jpg"} for image in truth["images"]]}))
    dataset = load_coco("lvis", None, file)
    LvisMetric().check(dataset)
    assert measure(replace(evaluated, ground_truth=complete_ground_truth(dataset)))["APr"] == pytest.approx(50.0)


def test_other_annotations_are_refused_with_what_is_missing() -> None:
    evaluated = scene(score=0.9)
    for where, changed in (("coco.json", replace(evaluated, annotation_file="coco.json")), ("rectangles", evaluated)):
        with pytest.raises(UserError, match=f"{where} is not annotated as LVIS is: image 1 has no neg_category_ids"):
            measure(changed)
    truth = federated(evaluated, {}, {}).ground_truth
    truth = truth | {"categories": evaluated.ground_truth["categories"]}
    with pytest.raises(UserError, match="category 1 has no frequency"):
        measure(replace(evaluated, ground_truth=truth))


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    measure(federated(scene(score=0.9), {}, {}))
    assert capfd.readouterr().out == ""


def test_names_are_those_of_the_results() -> None:
    evaluated = federated(random_evaluated(0), {}, {})
    results = LvisMetric()(evaluated).results
    names = [f"{group}/{name}" for group, row in results.items() for name in row]
    assert LvisMetric().names(evaluated.tasks) == names
