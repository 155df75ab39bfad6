"""AP of the three backends, compared with each other and with the summary of pycocotools."""

import contextlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn_zoo.data.masks import segmentation_rle
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation import CocoEvaluator, backends, ground_truth_detections
from mrcnn_zoo.evaluation.ground_truth import RleMasks, coco_ground_truth
from mrcnn_zoo.evaluation.tables import Results
from mrcnn_zoo.registries import AP_BACKENDS
from mrcnn_zoo.structures import Detections

BACKENDS = ("pycocotools", "hotcoco", "faster_coco_eval")


def load_backend(name: str):
    if name != "pycocotools":
        pytest.importorskip(name)
    return AP_BACKENDS.get(name)


def noisy_detections(dataset: Dataset) -> list[Detections]:
    """Three shifted copies of each object and crowd, some of a wrong class, with repeated scores."""
    rng = np.random.default_rng(7)
    detections = []
    for record in dataset.records:
        height, width = record.image_size
        objects = [item for item in record.instances for _ in range(3)]
        corners = np.array([item.box for item in objects]).reshape(-1, 4)
        sides = np.concatenate([corners[:, 2:] - corners[:, :2]] * 2, axis=1)
        boxes = np.clip(corners + rng.normal(0, 0.08, corners.shape) * sides, 0, [width, height] * 2)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        classes = [item.class_index if rng.random() < 0.8 else int(rng.integers(80)) for item in objects]
        rectangles = [[x1, y1, x2, y1, x2, y2, x1, y2] for x1, y1, x2, y2 in boxes.tolist()]
        detections.append(
            Detections(
                image_size=record.image_size,
                boxes=torch.tensor(boxes, dtype=torch.float32),
                scores=torch.tensor(np.round(rng.random(len(objects)), 1), dtype=torch.float32),
                classes=torch.tensor(classes, dtype=torch.int64),
                masks=RleMasks([segmentation_rle([r], record.image_size) for r in rectangles], record.image_size),
            )
        )
    return detections


def evaluate_with(
    name: str, dataset: Dataset, samples_of, *, detections: list[Detections], limit: int, output_dir: Path | None = None
) -> Results:
    evaluator = CocoEvaluator(dataset, backend=load_backend(name), max_detections=limit)
    evaluator.process(samples_of(dataset), detections)
    return evaluator.evaluate(output_dir)


@pytest.fixture(scope="module")
def noisy(coco_val) -> list[Detections]:
    return noisy_detections(coco_val)


@pytest.fixture(scope="module")
def by_pycocotools(coco_val, samples_of, noisy, tmp_path_factory) -> tuple[Results, Path]:
    """The results for `noisy` with 100 detections per image, and their folder."""
    folder = tmp_path_factory.mktemp("pycocotools")
    return evaluate_with("pycocotools", coco_val, samples_of, detections=noisy, limit=100, output_dir=folder), folder


@pytest.mark.parametrize("limit", [2, 100, 300])
def test_backends_give_the_metrics_of_pycocotools(coco_val, samples_of, noisy, by_pycocotools, limit: int) -> None:
    expected, *others = (
        by_pycocotools[0]
        if (name, limit) == ("pycocotools", 100)
        else evaluate_with(name, coco_val, samples_of, detections=noisy, limit=limit)
        for name in BACKENDS
    )
    assert 5 < expected["segm"]["AP"] < 95  # neither trivial nor perfect
    for found in others:
        for task in ("bbox", "segm"):
            assert list(found[task]) == list(expected[task])
            assert len(found[task]) >= 80 + 11
            np.testing.assert_allclose(list(found[task].values()), list(expected[task].values()), rtol=0, atol=1e-10)


def test_metrics_equal_the_summary_of_pycocotools_on_the_written_files(shared_dir, by_pycocotools) -> None:
    found, folder = by_pycocotools
    file = shared_dir / "data" / "coco_mini" / "annotations" / "instances_val2017.json"
    rows = json.loads((folder / "inference" / "coco_instances_results.json").read_text())
    for task, unused in (("bbox", "segmentation"), ("segm", "bbox")):
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(file))
            rows_of_task = [{name: value for name, value in row.items() if name != unused} for row in rows]
            evaluation = COCOeval(truth, truth.loadRes(rows_of_task), task)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        twelve = [value for name, value in found[task].items() if not name.startswith("AP-")]
        np.testing.assert_allclose(twelve, 100 * evaluation.stats, atol=1e-10)


@pytest.mark.parametrize("library", ["hotcoco", "pycocotools"])
def test_auto_is_hotcoco_where_it_is_installed(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    spec = object() if library == "hotcoco" else None
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda _: spec)
    for name in ("hotcoco", "pycocotools"):
        monkeypatch.setattr(backends, f"curves_by_{name}", lambda *_, name=name, **__: name)
    assert AP_BACKENDS.get("auto")({}, {"annotations": []}, "bbox", (1, 10, 100)) == library


@pytest.mark.parametrize("name", BACKENDS)
def test_masks_are_ranked_by_mask_scores_and_boxes_by_box_scores(
    square, dataset_of, samples_of, tmp_path, name: str
) -> None:
    dataset = dataset_of((square(0, 0, 20),), (square(40, 40, 20),))
    both = dataset_of((square(0, 0, 20), square(60, 0, 20)), (square(40, 40, 20), square(0, 0, 20)))
    found = ground_truth_detections(both)  # the second of each image is a false detection
    for table in found:
        table.scores = torch.tensor([0.4, 0.9])
        table.mask_scores = torch.tensor([0.3, 0.2])
    results = evaluate_with(name, dataset, samples_of, detections=found, limit=100, output_dir=tmp_path)
    assert results["bbox"]["AP"] == pytest.approx(50)  # two false detections before the two true ones
    assert results["segm"]["AP"] == pytest.approx(100)
    truth = COCO()
    truth.dataset = coco_ground_truth(dataset, "segm")
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        file = tmp_path / "inference" / "coco_segm_results.json"
        evaluation = COCOeval(truth, truth.loadRes(str(file)), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    twelve = [value for name, value in results["segm"].items() if not name.startswith("AP-")]
    np.testing.assert_allclose(twelve, np.where(evaluation.stats < 0, np.nan, 100 * evaluation.stats), atol=1e-10)
    rows = json.loads((tmp_path / "inference" / "coco_instances_results.json").read_text())
    assert rows[0]["score"] == pytest.approx(0.4)
    assert rows[0]["mask_score"] == pytest.approx(0.3)


@pytest.mark.parametrize("name", BACKENDS)
def test_ap_of_the_ground_truth_is_100(coco_val, samples_of, name: str) -> None:
    results = evaluate_with(name, coco_val, samples_of, detections=ground_truth_detections(coco_val), limit=100)
    assert any(item.is_crowd for record in coco_val.records for item in record.instances)
    for task in ("bbox", "segm"):
        for metric in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"):
            assert results[task][metric] == pytest.approx(100, abs=1e-9)


@pytest.mark.parametrize("name", BACKENDS)
def test_ap_of_half_of_the_objects_is_51_of_101_recall_thresholds(square, dataset_of, samples_of, name: str) -> None:
    dataset = dataset_of((square(0, 0, 20), square(50, 50, 20)))
    (found,) = ground_truth_detections(dataset)
    results = evaluate_with(name, dataset, samples_of, detections=[found[:1]], limit=100)
    # Precision is 1 at recall 0, 0.01, ..., 0.5, and 0 above.
    assert results["bbox"]["AP"] == pytest.approx(100 * 51 / 101)
    assert results["segm"]["AP75"] == pytest.approx(100 * 51 / 101)
    assert results["bbox"]["AR100"] == pytest.approx(50)


@pytest.mark.parametrize("name", BACKENDS)
def test_detections_inside_a_crowd_do_not_lower_ap(square, dataset_of, samples_of, name: str) -> None:
    with_crowd = dataset_of((square(0, 0, 20), square(40, 40, 60, is_crowd=True)))
    everything = dataset_of((square(0, 0, 20), square(60, 60, 20)))
    # The detection in the crowd has the higher score; as a false one, it would halve the precision.
    (found,) = ground_truth_detections(everything)
    found.scores[0] = 0.5
    results = evaluate_with(name, with_crowd, samples_of, detections=[found], limit=100)
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["segm"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize("name", BACKENDS)
def test_ap_without_detections_is_0_and_nan_without_objects(square, dataset_of, samples_of, caplog, name: str) -> None:
    dataset = dataset_of((square(0, 0, 20, class_index=0),), ())
    nothing = [found[:0] for found in ground_truth_detections(dataset)]
    results = evaluate_with(name, dataset, samples_of, detections=nothing, limit=100)
    assert results["bbox"]["AP"] == results["segm"]["AP"] == results["bbox"]["AP-cat"] == 0
    assert np.isnan(results["bbox"]["AP-dog"])
    assert np.isnan(results["bbox"]["APl"])
    assert "the model detected nothing in 2 images" in caplog.text


def test_pycocotools_prints_nothing(square, dataset_of, samples_of, capfd) -> None:
    dataset = dataset_of((square(0, 0, 20),))
    evaluate_with("pycocotools", dataset, samples_of, detections=ground_truth_detections(dataset), limit=100)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(("name", "package"), [("hotcoco", "hotcoco"), ("faster_coco_eval", "faster-coco-eval")])
def test_missing_package_is_named_with_its_install_command(monkeypatch, name: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=f"EVAL.BACKEND is '{name}'.*pip install {package}"):
        AP_BACKENDS.get(name)({}, {}, "bbox", [100])


def test_unknown_backend_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"EVAL\.BACKEND = 'pycocotool'.*Did you mean 'pycocotools'"):
        AP_BACKENDS.get("pycocotool")
