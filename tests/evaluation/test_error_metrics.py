"""TIDE, calibration and the confusion matrix on cases worked out by hand, and on random ones of another code."""

from typing import Any

import numpy as np
import pytest

from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.metrics import contract
from mrcnn_zoo.evaluation.metrics.calibration import Calibration
from mrcnn_zoo.evaluation.metrics.confusion import ConfusionMatrix
from mrcnn_zoo.evaluation.metrics.tide import Tide
from mrcnn_zoo.registries import METRICS
from support.detections import CAT, DOG, detection, evaluated_of, random_rows

pytest.importorskip("hotcoco")

UPPER_HALF = 50  # COCO's recalls from 0.51 to 1
TIDE_CASES: dict[str, tuple[list[tuple[float, ...]], list[dict[str, Any]], float]] = {
    # error: boxes of cats, detections, gain of AP50 in percent if the error is corrected
    "Cls": ([(0, 0, 20)], [detection(DOG, (0, 0, 20, 20))], 100.0),
    "Loc": ([(0, 0, 20)], [detection(CAT, (10, 0, 20, 20))], 100.0),
    "Both": ([(0, 0, 20)], [detection(DOG, (10, 0, 20, 20))], 0.0),  # of cats; dogs have no objects
    "Dupe": (
        [(0, 0, 20), (50, 0, 20)],
        [detection(CAT, (0, 0, 20, 20)), detection(CAT, (0, 0, 20, 19), 0.8), detection(CAT, (50, 0, 20, 20), 0.7)],
        100 * (1 - 2 / 3) * UPPER_HALF / 101,
    ),
    "Bkg": ([(0, 0, 20)], [detection(CAT, (60, 60, 20, 20)), detection(CAT, (0, 0, 20, 20), 0.8)], 50.0),
    "Miss": ([(0, 0, 20), (50, 0, 20)], [detection(CAT, (0, 0, 20, 20))], 100 * UPPER_HALF / 101),
}


@pytest.mark.parametrize("error", TIDE_CASES)
@pytest.mark.parametrize("tasks", [("bbox",), ("bbox", "segm")])
def test_tide_finds_the_error_of_each_type(square, dataset_of, error: str, tasks: tuple[str, ...]) -> None:
    objects, rows, gain = TIDE_CASES[error]
    report = Tide()(evaluated_of(dataset_of(tuple(square(*box, 0) for box in objects)), rows, tasks=tasks))
    (results,) = report.results.values()
    assert list(report.results) == [f"tide_{tasks[-1]}"]
    assert results[error] == pytest.approx(gain, abs=0.01)
    counts = {line.split("|")[1].strip(): line.split("|")[3].strip() for line in report.text.splitlines()[4:]}
    assert {name for name in TIDE_CASES if counts[name] != "0"} == ({error, "Miss"} if error == "Both" else {error})


def test_tide_without_objects_has_no_table(dataset_of) -> None:
    assert "No objects are annotated" in Tide()(evaluated_of(dataset_of(()), [detection(CAT, (0, 0, 9, 9))])).text


def test_calibration_error_equals_that_by_hand(square, dataset_of) -> None:
    crowd = square(60, 60, 30, 0, is_crowd=True)
    dataset = dataset_of((*(square(20 * column, 0, 10, 0) for column in range(3)), square(80, 0, 10, 1), crowd))
    right = [detection(CAT, (20 * column, 0, 10, 10), 0.95) for column in range(3)]
    wrong = [detection(CAT, (80, 0, 10, 10), 0.95), detection(DOG, (0, 40, 10, 10), 0.25)]
    on_crowd = detection(CAT, (65, 65, 10, 10), 0.55)  # neither right nor wrong
    report = Calibration()(evaluated_of(dataset, [*right, *wrong, on_crowd]))
    results = report.results["calibration_segm"]
    assert results["ECE"] == pytest.approx(100 * (4 * (0.95 - 3 / 4) + 0.25) / 5)
    assert results["MCE"] == pytest.approx(25)
    assert results["ECE-cat"] == pytest.approx(20)
    assert results["ECE-dog"] == pytest.approx(25)
    assert report.files["calibration.png"][:4] == b"\x89PNG"
    assert report.files["calibration.csv"].splitlines()[0] == "bin_lower,bin_upper,count,avg_confidence,avg_accuracy"


@pytest.mark.parametrize("metric", [Tide(), Calibration(), ConfusionMatrix()])
def test_image_without_detections_is_measured(square, dataset_of, metric) -> None:
    report = metric(evaluated_of(dataset_of((square(0, 0, 20),)), []))
    assert len(report.results) == 1


@pytest.mark.parametrize("tasks", [("bbox",), ("bbox", "segm")])
def test_confusion_matrix_equals_hotcocos(square, dataset_of, tasks: tuple[str, ...]) -> None:
    images = [tuple(square(30 * x + 3, 30 * y, 16 + 4 * y, (x + y) % 2) for x in range(3) for y in range(3))] * 4
    dataset = dataset_of(*images)  # hotcoco counts detections inside crowds as false
    evaluated = evaluated_of(dataset, random_rows(dataset, seed=3), tasks=tasks)
    hotcocos = contract.evaluated_by_hotcoco(evaluated, tasks[-1], metric="confusion")
    dogs_first = hotcocos.confusion_matrix(iou_thr=0.5, max_det=100, min_score=0.3)["matrix"]
    expected = np.array(dogs_first)[np.ix_([1, 0, 2], [1, 0, 2])]
    assert (expected > 0).sum() > 6
    report = ConfusionMatrix(score_threshold=0.3)(evaluated)
    lines = report.files["confusion.csv"].splitlines()
    assert lines[0] == "true class,cat,dog,background"  # in the order of the classes, not of the category ids
    assert [list(map(int, line.split(",")[1:])) for line in lines[1:]] == expected.tolist()
    found, objects = expected[:-1, :-1].sum(), expected[:-1].sum()
    assert report.results[f"confusion_{tasks[-1]}"]["found"] == pytest.approx(100 * found / objects)


def test_matrix_of_masks_compares_masks(square, dataset_of) -> None:
    dataset = dataset_of((square(0, 0, 40, 0),))
    row = detection(CAT, (0, 0, 40, 40)) | {"segmentation": detection(CAT, (0, 0, 40, 15))["segmentation"]}
    by_mask = ConfusionMatrix()(evaluated_of(dataset, [row]))
    by_box = ConfusionMatrix()(evaluated_of(dataset, [row], tasks=("bbox",)))
    assert by_mask.results == {
        "confusion_segm": {"found": 0.0, "right_class": pytest.approx(float("nan"), nan_ok=True)}
    }
    assert by_box.results == {"confusion_bbox": {"found": 100.0, "right_class": 100.0}}


def test_large_matrix_is_listed_by_frequency(square, dataset_of) -> None:
    names = tuple(f"class {number}" for number in range(15))
    dataset = dataset_of((square(0, 0, 20, 2), square(40, 0, 20, 2)), class_names=names)
    ids = dataset.category_ids
    rows = [detection(ids[5], (0, 0, 20, 20)), detection(ids[5], (40, 0, 20, 20)), detection(ids[1], (70, 70, 9, 9))]
    lines = ConfusionMatrix()(evaluated_of(dataset, rows)).text.splitlines()
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[4:6]] == [
        ["class 2", "class 5", "2"],
        ["background", "class 1", "1"],
    ]


@pytest.mark.parametrize("name", ["tide", "calibration"])
def test_without_hotcoco_the_message_names_the_extra(monkeypatch, name: str) -> None:
    def not_installed(module: str) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}")

    build = METRICS.get(name)  # imports the metrics
    monkeypatch.setattr(contract.importlib, "import_module", not_installed)
    with pytest.raises(UserError, match=rf"has '{name}', which needs hotcoco.*pip install \"mrcnn_zoo\[eval\]\""):
        build(load_config(None, []))
