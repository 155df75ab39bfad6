"""EVAL.METRICS: numbers, tables and files of metrics join those of COCO's AP; curves; groups of images."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrcnn_zoo.config import load_config
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation import CocoEvaluator, ground_truth_detections
from mrcnn_zoo.evaluation.backends import curves_by_pycocotools
from mrcnn_zoo.evaluation.metrics.contract import Evaluated, MetricReport
from mrcnn_zoo.evaluation.metrics.groups import ImageGroups, group_by_file, group_by_pattern
from mrcnn_zoo.evaluation.metrics.precision_recall import PrecisionRecall
from mrcnn_zoo.evaluation.preflight import check_evaluation
from mrcnn_zoo.evaluation.tables import coco_metrics
from mrcnn_zoo.registries import AP_BACKENDS, EVALUATORS, METRICS
from mrcnn_zoo.registry import UnknownNameError
from support.detections import CAT, detection, evaluated_of, random_rows

NEEDS_LVIS = {"lvis"}  # annotations with LVIS's fields; see its own tests
NEEDS_KEYS = {"groups": ["EVAL.IMAGE_GROUPS", "black"]}


class CountingMetric:
    """Counts detections of each task."""

    def __call__(self, evaluated: Evaluated) -> MetricReport:
        rows = len(evaluated.detections_of("segm")["annotations"])
        return MetricReport({"counts": {"rows": float(rows)}}, "## Counts\n\nsome rows", {"a.txt": "x", "b.bin": b"y"})

    def names(self, tasks: tuple[str, ...]) -> list[str]:
        return [f"counts/{task}" for task in tasks]


def scene(square: Any, dataset_of: Any) -> Dataset:
    """Six images of cats and dogs, named site_0.png, site_1.png, ..."""
    images = [tuple(square(30 * x + 3, 30 * y, 16 + 4 * y, (x + y) % 2) for x in range(3) for y in range(3))] * 6
    dataset = dataset_of(*images)
    records = [replace(record, source=NamedImage(f"x/s{n % 2}_{n}.png")) for n, record in enumerate(dataset.records)]
    return replace(dataset, records=tuple(records))


class NamedImage:
    """An image source without pixels."""

    def __init__(self, name: str) -> None:
        self.name = name

    def read(self) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize("name", sorted({*METRICS.names()} - NEEDS_LVIS))
def test_each_metric_measures_perfect_and_no_detections(square, dataset_of, samples_of, tmp_path, name: str) -> None:
    pytest.importorskip("hotcoco")
    cfg = load_config(None, ["MODEL.MASK_ON", True, "EVAL.METRICS", [name], *NEEDS_KEYS.get(name, [])])
    dataset = dataset_of((square(0, 0, 20), square(50, 50, 30, 1)), ())
    perfect = ground_truth_detections(dataset)
    for number, found in enumerate((perfect, [table[:0] for table in perfect])):
        evaluator = EVALUATORS.get("coco")(cfg, dataset)
        evaluator.process(samples_of(dataset), found)
        results = evaluator.evaluate(tmp_path / str(number))
        folder = tmp_path / str(number) / "inference"
        assert set(json.loads((folder / "results.json").read_text())) == set(results)
        assert all("/" not in group for group in results)
        assert (folder / "results.md").read_text().count("\n## ") >= 2  # COCO's and that of the metric
        missing = {f"{group}/{name}" for group in results for name in results[group]}
        assert set(evaluator.metric_names()) <= missing


def test_numbers_tables_and_files_join_those_of_coco(square, dataset_of, samples_of, tmp_path, caplog) -> None:
    caplog.set_level("INFO")
    dataset = dataset_of((square(0, 0, 20),))
    metrics = {"counting": CountingMetric()}
    evaluator = CocoEvaluator(dataset, backend=AP_BACKENDS.get("pycocotools"), metrics=metrics)
    assert "counts/segm" in evaluator.metric_names()
    evaluator.process(samples_of(dataset), ground_truth_detections(dataset))
    results = evaluator.evaluate(tmp_path)
    assert list(results) == ["bbox", "segm", "counts"]
    folder = tmp_path / "inference"
    assert json.loads((folder / "results.json").read_text())["counts"] == {"rows": 1.0}
    assert (folder / "results.md").read_text().endswith("\n\n## Counts\n\nsome rows\n")
    assert (folder / "a.txt").read_text() == "x"
    assert (folder / "b.bin").read_bytes() == b"y"
    assert "squares: Counts\nsome rows" in caplog.text


def test_details_are_in_the_page_and_not_in_the_log(square, dataset_of, samples_of, tmp_path, caplog) -> None:
    caplog.set_level("INFO")
    dataset = dataset_of((square(0, 0, 20),))
    cfg = load_config(None, ["MODEL.MASK_ON", True, "EVAL.METRICS", ["cells"]])
    evaluator = EVALUATORS.get("coco")(cfg, dataset)
    evaluator.process(samples_of(dataset), ground_truth_detections(dataset))
    evaluator.evaluate(tmp_path)
    page = (tmp_path / "inference" / "results.md").read_text()
    assert "|  0.95 | 100.00 |" in page
    assert "|  0.95 | 100.00 |" not in caplog.text
    assert "squares: Cells: TP / (TP + FP + FN)" in caplog.text


def test_metrics_of_masks_without_masks_are_named_once(square, dataset_of, samples_of, caplog) -> None:
    dataset = dataset_of((square(0, 0, 20),))
    cfg = load_config(None, ["MODEL.MASK_ON", False, "EVAL.METRICS", ["f1", "cells"]])
    check_evaluation(cfg, [dataset])
    for _ in range(2):
        evaluator = EVALUATORS.get("coco")(cfg, dataset)
        evaluator.process(samples_of(dataset), ground_truth_detections(dataset))
        evaluator.evaluate()
    assert caplog.text.count("EVAL.METRICS [cells] cannot be measured") == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["EVAL.METRICS", ["lvis"]],
            "'lvis', but squares is not annotated as LVIS is: image 10 has no neg_category_ids",
        ),
        (
            ["EVAL.METRICS", ["groups"], "EVAL.IMAGE_GROUPS", "^site"],
            "EVAL.IMAGE_GROUPS gives no image of squares a group",
        ),
    ],
)
def test_metrics_that_cannot_measure_a_dataset_are_refused_before_training(
    square, dataset_of, settings: list[Any], message: str
) -> None:
    pytest.importorskip("hotcoco")
    with pytest.raises(UserError, match=message):
        check_evaluation(load_config(None, settings), [dataset_of((square(0, 0, 20),))])


def test_two_metrics_with_one_group_are_refused(square, dataset_of) -> None:
    metrics = {"one": CountingMetric(), "two": CountingMetric()}
    evaluator = CocoEvaluator(dataset_of((square(0, 0, 20),)), backend=AP_BACKENDS.get("pycocotools"), metrics=metrics)
    with pytest.raises(ValueError, match="'two' returns the group 'counts', which exists already"):
        evaluator.evaluate()


def test_unknown_metric_is_refused_with_the_nearest_name(square, dataset_of) -> None:
    cfg = load_config(None, ["EVAL.METRICS", ["tido"]])
    with pytest.raises(UnknownNameError, match=r"EVAL.METRICS = 'tido' .*Did you mean 'tide'\?"):
        EVALUATORS.get("coco")(cfg, dataset_of((square(0, 0, 20),)))


def test_mean_of_a_written_curve_is_the_ap_of_its_class(square, dataset_of) -> None:
    dataset = scene(square, dataset_of)
    evaluated = evaluated_of(dataset, random_rows(dataset, seed=2), tasks=("segm",))
    report = PrecisionRecall()(evaluated)
    lines = [line.split(",") for line in report.files["precision_recall.csv"].splitlines()[1:]]
    metrics = coco_metrics(evaluated.curves["segm"], dataset.class_names, dataset.category_ids)
    for name in ("cat", "dog"):
        values = [float(line[4]) for line in lines if line[:2] == ["segm", name]]
        assert len(values) == 10 * 101
        assert 100 * np.mean(values) == pytest.approx(metrics[f"AP-{name}"], abs=1e-3)
    assert report.files["precision_recall_segm.png"][:4] == b"\x89PNG"


def test_ap_of_a_group_equals_that_of_its_images_alone(square, dataset_of) -> None:
    hotcoco = pytest.importorskip("hotcoco")
    dataset = scene(square, dataset_of)
    rows = random_rows(dataset, seed=5)
    evaluated = evaluated_of(dataset, rows)
    report = ImageGroups(group_by_pattern(r"s(\d)_"), backend=curves_by_pycocotools)(evaluated)
    evaluation = hotcoco.COCOeval(
        hotcoco.COCO(evaluated.ground_truth_of("segm")), hotcoco.COCO(evaluated.detections_of("segm")), "segm"
    )
    evaluation.evaluate()
    sliced = evaluation.slice_by({str(odd): [10 * n for n in range(1, 7) if (n - 1) % 2 == odd] for odd in (0, 1)})
    for odd in (0, 1):
        part = replace(dataset, records=dataset.records[odd::2])
        alone = evaluated_of(part, [row for row in rows if row["image_id"] // 10 % 2 != odd])
        expected = coco_metrics(alone.curves["segm"], dataset.class_names, dataset.category_ids)
        for metric in ("AP", "AP50", "AP75"):
            assert report.results["groups_segm"][f"{metric}-{odd}"] == pytest.approx(expected[metric])
            assert report.results["groups_segm"][f"{metric}-{odd}"] == pytest.approx(100 * sliced[str(odd)][metric])
    assert report.results["groups_segm"]["AP-0"] != report.results["groups_segm"]["AP-1"]
    assert [line.split("|")[1:4] for line in report.text.splitlines()[4:]] == [
        [" 0       ", "        3 ", "        27 "],
        [" 1       ", "        3 ", "        27 "],
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("g.json", '{"s0_0.png": "north", "20": "south", "x/s0_2.png": 3}'),
        ("g.csv", "group,image\nnorth,s0_0.png\nsouth,20\n3,x/s0_2.png\n"),
    ],
)
def test_groups_of_a_file_name_images_by_file_or_id(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    group_of = group_by_file(tmp_path / name)
    images = [{"id": 10 * (n + 1), "file_name": f"x/s{n % 2}_{n}.png"} for n in range(4)]
    assert [group_of(image) for image in images] == ["north", "south", "3", "(no group)"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "EVAL.IMAGE_GROUPS is empty: give a regular expression"),
        ("s(", "is not a regular expression"),
        ("missing.json", "cannot be read"),
        ("columns.csv", "its columns are name, group"),
    ],
)
def test_wrong_groups_are_refused(tmp_path: Path, monkeypatch, source: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("columns.csv").write_text("name,group\na,b\n")
    with pytest.raises(UserError, match=message):
        METRICS.get("groups")(load_config(None, ["EVAL.IMAGE_GROUPS", source]))


def test_groups_without_any_image_are_refused(square, dataset_of) -> None:
    evaluated = evaluated_of(scene(square, dataset_of), [detection(CAT, (0, 0, 9, 9))])
    with pytest.raises(UserError, match=r"gives no image of squares a group; its file names are like 'x/s0_0.png'"):
        ImageGroups(group_by_pattern("north"), backend=curves_by_pycocotools)(evaluated)
