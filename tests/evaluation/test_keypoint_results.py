"""Keypoint AP of the three backends, and of the summary of pycocotools."""

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn_zoo.config import load_config
from mrcnn_zoo.data.formats.coco import load_coco
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation import CocoEvaluator, ground_truth_detections
from mrcnn_zoo.registries import AP_BACKENDS, EVALUATORS
from mrcnn_zoo.structures import Detections

BACKENDS = ("pycocotools", "hotcoco", "faster_coco_eval")
METRICS = ["AP", "AP50", "AP75", "APm", "APl", "AR20", "ARm", "ARl", "AP-person"]


@pytest.fixture(scope="session")
def people(shared_dir: Path) -> Dataset:
    folder = shared_dir / "data" / "coco_mini"
    return load_coco("people", folder / "val2017", folder / "annotations" / "person_keypoints_val2017.json")


def noisy(dataset: Dataset) -> list[Detections]:
    """Two copies of each person with shifted keypoints, more than 20 in some images."""
    rng = np.random.default_rng(5)
    detections = []
    for found in ground_truth_detections(dataset):
        found = replace(found, masks=None)[torch.arange(len(found)).repeat(2)]
        sides = (found.boxes[:, 2:] - found.boxes[:, :2]).mean(dim=1)[:, None, None]
        noise = torch.from_numpy(rng.normal(0, 0.05, (*found.keypoints.shape[:2], 2))).float()
        points = found.keypoints.clone()
        points[..., :2] += noise * sides
        scores = torch.from_numpy(np.round(rng.random(len(found)), 2)).float()
        detections.append(replace(found, keypoints=points, scores=scores))
    return detections


def evaluated(
    dataset: Dataset, samples_of: Any, detections: list[Detections], *, backend: str = "pycocotools", **options: Any
) -> dict[str, float]:
    if backend != "pycocotools":
        pytest.importorskip(backend)
    output_dir = options.pop("output_dir", None)
    evaluator = CocoEvaluator(dataset, backend=AP_BACKENDS.get(backend), tasks=("bbox", "keypoints"), **options)
    evaluator.process(samples_of(dataset), detections)
    return evaluator.evaluate(output_dir)["keypoints"]


@pytest.mark.parametrize("sigmas", [(), tuple(np.linspace(0.02, 0.1, 17))])
def test_backends_give_the_metrics_of_pycocotools(people: Dataset, samples_of: Any, sigmas: tuple[float, ...]) -> None:
    found = noisy(people)
    expected, *others = (evaluated(people, samples_of, found, backend=name, sigmas=sigmas) for name in BACKENDS)
    assert list(expected) == METRICS
    assert 5 < expected["AP"] < 95  # neither trivial nor perfect
    for other in others:
        np.testing.assert_allclose(list(other.values()), list(expected.values()), rtol=0, atol=1e-10)


def test_metrics_equal_the_summary_of_pycocotools_on_the_written_files(
    shared_dir: Path, people: Dataset, samples_of: Any, tmp_path: Path
) -> None:
    found = evaluated(people, samples_of, noisy(people), output_dir=tmp_path)
    rows = json.loads((tmp_path / "inference" / "coco_instances_results.json").read_text())
    assert all(len(row["keypoints"]) == 51 for row in rows)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(shared_dir / "data/coco_mini/annotations/person_keypoints_val2017.json"))
        rows = [{name: value for name, value in row.items() if name != "bbox"} for row in rows]
        evaluation = COCOeval(truth, truth.loadRes(rows), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    expected = dict(zip(("AP", "AP50", "AP75", "APm", "APl", "AR20"), 100 * evaluation.stats[:6], strict=True))
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", BACKENDS)
def test_ap_of_the_ground_truth_is_100(people: Dataset, samples_of: Any, name: str) -> None:
    objects = [item for record in people.records for item in record.instances]
    assert any(item.is_crowd for item in objects)
    assert any(not any(item.keypoints[2::3]) for item in objects if not item.is_crowd)
    # Only 20 detections per image count, so recall is below 1 for more objects.
    few = replace(people, records=tuple(record for record in people.records if len(record.instances) <= 20))
    results = evaluated(few, samples_of, ground_truth_detections(few), backend=name)
    assert {name: results[name] for name in ("AP", "AP50", "AP75", "APm", "APl")} == pytest.approx(
        dict.fromkeys(("AP", "AP50", "AP75", "APm", "APl"), 100.0)
    )


def test_oks_equals_the_value_computed_by_hand(dataset_of: Any, square: Any, samples_of: Any) -> None:
    points = (10.5, 10.5, 2, 30.5, 10.5, 2)
    person = replace(square(0, 0, 40), keypoints=points, area=1600.0)
    dataset = replace(dataset_of((person,), class_names=("person",)), keypoint_names=("left", "right"))
    (found,) = ground_truth_detections(dataset)
    # Keypoints shifted by d = 4 pixels: exp(-d^2 / (2 area (2 sigma)^2)) = exp(-0.5) = 0.607, between 0.6 and 0.65.
    found.keypoints[..., 1] += 4
    results = evaluated(dataset, samples_of, [found], sigmas=(0.05, 0.05))
    assert results["AP"] == pytest.approx(100 * 3 / 10)
    assert (results["AP50"], results["AP75"]) == pytest.approx((100, 0))


def test_keypoints_of_the_results_file_count_pixels_from_0(
    dataset_of: Any, square: Any, samples_of: Any, tmp_path: Path
) -> None:
    person = replace(square(0, 0, 40), keypoints=(10.5, 11.5, 2))
    dataset = replace(dataset_of((person,), class_names=("person",)), keypoint_names=("nose",))
    found = ground_truth_detections(dataset)
    evaluated(dataset, samples_of, found, sigmas=(0.05,), output_dir=tmp_path)
    (row,) = json.loads((tmp_path / "inference" / "coco_instances_results.json").read_text())
    assert row["keypoints"] == [10.0, 11.0, 1.0]


def test_ap_without_detections_is_0(people: Dataset, samples_of: Any) -> None:
    nothing = [found[:0] for found in ground_truth_detections(people)]
    assert evaluated(people, samples_of, nothing)["AP"] == 0


def test_keypoint_task_refuses_detections_without_keypoints(people: Dataset, samples_of: Any) -> None:
    found = [replace(table, keypoints=None) for table in ground_truth_detections(people)]
    with pytest.raises(ValueError, match="KEYPOINT_ON"):
        evaluated(people, samples_of, found)


def test_keypoints_are_evaluated_if_model_and_dataset_have_them(dataset_of: Any, square: Any, caplog: Any) -> None:
    dataset = replace(dataset_of((square(0, 0, 40),)), keypoint_names=("a", "b"))
    build = EVALUATORS.get("coco")
    evaluator = build(load_config(None, ["MODEL.KEYPOINT_ON", True]), dataset)
    assert not caplog.text  # an evaluator is built for each evaluation of a training
    evaluator.check_dataset()
    assert "2 keypoints" in caplog.text
    assert "0.05 is used for all" in caplog.text
    with pytest.raises(UserError, match=r"KEYPOINT_OKS_SIGMAS = \[0\.1\] must be 2 positive numbers.*a, b"):
        build(load_config(None, ["MODEL.KEYPOINT_ON", True, "TEST.KEYPOINT_OKS_SIGMAS", [0.1]]), dataset)
    build(load_config(None, ["MODEL.KEYPOINT_ON", True]), dataset_of((square(0, 0, 40),))).check_dataset()
    assert "squares has no keypoints" in caplog.text
