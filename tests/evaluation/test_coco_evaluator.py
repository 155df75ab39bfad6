"""The COCO evaluator: rows, files, limits, several processes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mrcnn_zoo.config import load_config
from mrcnn_zoo.data.formats.coco import load_coco
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation import CocoEvaluator, ground_truth_detections
from mrcnn_zoo.evaluation.metrics.tide import Tide
from mrcnn_zoo.registries import AP_BACKENDS, EVALUATORS
from mrcnn_zoo.structures import Sample
from support.processes import run_in_processes

PYCOCOTOOLS = AP_BACKENDS.get("pycocotools")


def evaluate_a_share(rank: int, folder: Path) -> tuple[dict[str, Any], str]:
    """The results, and the message of a backend that fails on process 0."""
    dataset = load_coco("mini", folder / "val2017", folder / "annotations" / "instances_val2017.json")
    evaluator = CocoEvaluator(dataset, backend=AP_BACKENDS.get("faster_coco_eval"), metrics={"tide": Tide()})
    found = ground_truth_detections(dataset)
    rows = range(36) if rank == 0 else range(35, 70)  # image 35 twice, as in shares padded to equal size
    for row in rows:
        record = dataset.records[row]
        keep = torch.arange(len(found[row])) % 3 != 0
        evaluator.process([Sample(torch.zeros(3, 1, 1), record.image_id, record.image_size)], [found[row][keep]])
    results = evaluator.evaluate()
    try:
        CocoEvaluator(dataset, backend=broken_backend).evaluate()
    except (RuntimeError, ValueError) as error:
        return results, f"{type(error).__name__}: {error}"
    return results, "no failure"


def broken_backend(*_: Any) -> Any:
    raise ValueError("the disk is full")


def test_results_file_has_original_ids_and_boxes_as_x_y_width_height(square, dataset_of, samples_of, tmp_path) -> None:
    dataset = dataset_of((square(10, 20, 30, 1),), (square(0, 0, 5, 0),))
    evaluator = CocoEvaluator(dataset, backend=PYCOCOTOOLS)
    evaluator.process(samples_of(dataset), ground_truth_detections(dataset))
    evaluator.evaluate(tmp_path)
    rows = json.loads((tmp_path / "inference" / "coco_instances_results.json").read_text())
    assert [(row["image_id"], row["category_id"], row["bbox"], row["score"]) for row in rows] == [
        (10, 7, [10, 20, 30, 30], 1),
        (20, 14, [0, 0, 5, 5], 1),
    ]
    assert rows[0]["segmentation"]["size"] == [100, 100]
    assert isinstance(rows[0]["segmentation"]["counts"], str)


def test_written_files_are_complete(square, dataset_of, samples_of, tmp_path) -> None:
    dataset = dataset_of((square(10, 20, 30, 1),), class_names=("3", "7"))
    evaluator = CocoEvaluator(dataset, backend=PYCOCOTOOLS)
    evaluator.process(samples_of(dataset), ground_truth_detections(dataset))
    results = evaluator.evaluate(tmp_path)
    folder = tmp_path / "inference"
    assert sorted(file.name for file in folder.iterdir()) == [
        "coco_instances_results.json",
        "precision_recall.npz",
        "results.json",
        "results.md",
        "score_thresholds.json",
    ]
    written = json.loads((folder / "results.json").read_text())
    assert written["segm"]["AP-7"] == pytest.approx(results["segm"]["AP-7"]) == pytest.approx(100)
    assert written["bbox"]["AP-3"] is None  # JSON has no NaN
    page = (folder / "results.md").read_text()
    assert "| task" in page
    assert "| 7 " in page  # left-aligned like a name
    with np.load(folder / "precision_recall.npz") as curves:
        assert curves["segm"].shape == (10, 101, 2)
        assert (curves["segm"][:, :, 0] == -1).all()
        assert curves["segm"][:, :, 1] == pytest.approx(1)


def test_ap_per_class_is_correct_for_descending_category_ids(square, dataset_of, samples_of) -> None:
    dataset = dataset_of((square(0, 0, 20, 0), square(50, 50, 20, 1)))
    (found,) = ground_truth_detections(dataset)
    evaluator = CocoEvaluator(dataset, backend=PYCOCOTOOLS)
    evaluator.process(samples_of(dataset), [found[:1]])
    results = evaluator.evaluate()
    assert results["bbox"]["AP-cat"] == pytest.approx(100)
    assert results["bbox"]["AP-dog"] == 0
    assert results["bbox"]["AP"] == pytest.approx(50)


@pytest.mark.parametrize("backend", ["pycocotools", "hotcoco", "faster_coco_eval"])
def test_max_detections_limits_ap(square, dataset_of, samples_of, backend: str) -> None:
    objects = tuple(square(8 * x, 8 * y, 7) for x in range(12) for y in range(10))  # 120 in an image
    dataset = dataset_of(objects)
    for limit, recall in ((100, 100 / 120), (300, 1.0)):
        evaluator = CocoEvaluator(dataset, backend=AP_BACKENDS.get(backend), max_detections=limit)
        evaluator.process(samples_of(dataset), ground_truth_detections(dataset))
        results = evaluator.evaluate()
        for task in ("bbox", "segm"):
            assert results[task][f"AR{limit}"] == pytest.approx(100 * recall)
            assert results[task]["AP"] == pytest.approx(100 * (np.floor(recall * 100) + 1) / 101)
            assert results[task]["AR10"] == pytest.approx(100 * 10 / 120)


def test_max_detections_is_detections_per_image_of_the_config(square, dataset_of, samples_of) -> None:
    dataset = dataset_of((square(0, 0, 20), square(50, 50, 20)))
    for setting, names in ((300, {"AR1", "AR10", "AR300"}), (5, {"AR1", "AR5"}), (-1, {"AR1", "AR10", "AR100"})):
        cfg = load_config(None, ["TEST.DETECTIONS_PER_IMAGE", setting, "MODEL.MASK_ON", True])
        evaluator = EVALUATORS.get("coco")(cfg, dataset)
        evaluator.process(samples_of(dataset), ground_truth_detections(dataset))
        metrics = evaluator.evaluate()["segm"]
        assert {name for name in metrics if name.startswith("AR")} == names | {"ARs", "ARm", "ARl"}


def test_masks_are_evaluated_if_model_and_dataset_have_them(square, dataset_of, samples_of) -> None:
    dataset = dataset_of((square(0, 0, 20),))
    without_masks = dataset_of((replace(square(0, 0, 20), segmentation=None),))
    for mask_on, data, tasks in (
        (True, dataset, ["bbox", "segm"]),
        (False, dataset, ["bbox"]),
        (True, without_masks, ["bbox"]),
    ):
        evaluator = EVALUATORS.get("coco")(load_config(None, ["MODEL.MASK_ON", mask_on]), data)
        evaluator.process(samples_of(data), ground_truth_detections(data))
        assert list(evaluator.evaluate()) == tasks


def test_image_that_is_added_twice_counts_once(square, dataset_of, samples_of) -> None:
    dataset = dataset_of((square(0, 0, 20),), (square(50, 50, 20),))
    evaluator = CocoEvaluator(dataset, backend=PYCOCOTOOLS)
    for _ in range(2):
        evaluator.process(samples_of(dataset), ground_truth_detections(dataset))
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == pytest.approx(100)  # duplicates would be false detections


def test_image_that_is_not_added_counts_as_empty_with_a_warning(square, dataset_of, samples_of, caplog) -> None:
    dataset = dataset_of((square(0, 0, 20),), (square(0, 0, 20),))
    evaluator = CocoEvaluator(dataset, backend=PYCOCOTOOLS)
    evaluator.process(samples_of(dataset)[:1], ground_truth_detections(dataset)[:1])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100 * 51 / 101)
    assert "1 image was not given to the model" in caplog.text


def test_metrics_without_annotations_are_nan_with_a_warning(dataset_of, samples_of, caplog, tmp_path) -> None:
    dataset = dataset_of((), ())
    evaluator = CocoEvaluator(dataset, backend=PYCOCOTOOLS, tasks=["bbox"])
    evaluator.process(samples_of(dataset), ground_truth_detections(dataset))
    results = evaluator.evaluate(tmp_path)
    assert np.isnan(results["bbox"]["AP"])
    assert np.isnan(results["bbox"]["AP-cat"])
    assert "has no annotations, so nothing can be measured" in caplog.text
    assert json.loads((tmp_path / "inference" / "results.json").read_text())["bbox"]["AP"] is None


def test_class_that_the_dataset_lacks_is_refused(square, dataset_of, samples_of) -> None:
    dataset = dataset_of((square(0, 0, 20),))
    (found,) = ground_truth_detections(dataset)
    found.classes[0] = 2
    evaluator = CocoEvaluator(dataset, backend=PYCOCOTOOLS)
    with pytest.raises(UserError, match=r"predicts class 2, but squares has 2 classes.*needs class names"):
        evaluator.process(samples_of(dataset), [found])


def test_image_of_another_dataset_is_refused(square, dataset_of) -> None:
    dataset = dataset_of((square(0, 0, 20),))
    evaluator = CocoEvaluator(dataset, backend=PYCOCOTOOLS)
    with pytest.raises(ValueError, match="image 99 is not one of the 1 of squares"):
        evaluator.process([Sample(torch.zeros(3, 1, 1), 99, (1, 1))], ground_truth_detections(dataset))


def test_segm_task_refuses_detections_without_masks(square, dataset_of, samples_of) -> None:
    dataset = dataset_of((square(0, 0, 20),))
    found = [replace(found, masks=None) for found in ground_truth_detections(dataset)]
    evaluator = CocoEvaluator(dataset, backend=PYCOCOTOOLS)
    with pytest.raises(ValueError, match="the detections of the model have none"):
        evaluator.process(samples_of(dataset), found)


@pytest.fixture(scope="module")
def outputs_of_two_processes(shared_dir, tmp_path_factory) -> list[tuple[dict[str, Any], str]]:
    """Results of each of two processes, and the message of a failure on process 0."""
    pytest.importorskip("faster_coco_eval")
    pytest.importorskip("hotcoco")
    folder = tmp_path_factory.mktemp("two_processes")
    return run_in_processes(evaluate_a_share, shared_dir / "data" / "coco_mini", folder=folder)


def test_two_processes_have_the_results_of_one(coco_val, samples_of, outputs_of_two_processes) -> None:
    alone = CocoEvaluator(coco_val, backend=AP_BACKENDS.get("faster_coco_eval"), metrics={"tide": Tide()})
    found = [table[torch.arange(len(table)) % 3 != 0] for table in ground_truth_detections(coco_val)]
    alone.process(samples_of(coco_val), found)
    expected = alone.evaluate()
    assert 10 < expected["segm"]["AP"] < 90
    for results, _ in outputs_of_two_processes:
        for task in ("bbox", "segm", "tide_segm"):
            np.testing.assert_array_equal(list(results[task].values()), list(expected[task].values()))


def test_failure_on_process_0_is_raised_on_all_processes(outputs_of_two_processes) -> None:
    assert [message for _, message in outputs_of_two_processes] == [
        "ValueError: the disk is full",
        "RuntimeError: the evaluation failed on process 0: the disk is full",
    ]
