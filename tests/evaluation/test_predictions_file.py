"""`evaluate --predictions`: results files of any tool, compared with pycocotools on the same files."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn_zoo.cli.main import run_command
from mrcnn_zoo.config import load_config
from mrcnn_zoo.data.formats.coco import load_coco
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.ground_truth import complete_ground_truth
from mrcnn_zoo.evaluation.predictions_file import evaluate_predictions
from mrcnn_zoo.evaluation.result_rows import PackedRows
from support.detections import random_rows

SHOWN = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, square, dataset_of) -> tuple[Path, Path, list[dict[str, Any]]]:
    """Annotations and results of eight images; the rows of the results."""
    images = [tuple(square(30 * x + 3, 30 * y, 16 + 4 * y, (x + y) % 2) for x in range(3) for y in range(3))] * 8
    dataset = dataset_of(*images, (square(0, 0, 60, 0, is_crowd=True),))
    folder = tmp_path_factory.mktemp("files")
    (folder / "gt.json").write_text(json.dumps(complete_ground_truth(dataset)))
    rows = random_rows(dataset, seed=7)
    (folder / "results.json").write_text(json.dumps(rows))
    return folder / "results.json", folder / "gt.json", rows


def stats_of_pycocotools(truth: Path, rows: list[dict[str, Any]], task: str) -> np.ndarray:
    sizes = {image["id"]: (image["height"], image["width"]) for image in json.loads(truth.read_text())["images"]}
    rows = [dict(row) for row in rows]
    for row in rows:
        if isinstance(row.get("segmentation"), list):  # loadRes takes run lengths only
            row["segmentation"] = mask.merge(mask.frPyObjects(row["segmentation"], *sizes[row["image_id"]]))
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO(str(truth))
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(rows), task)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * evaluation.stats


def as_polygon(row: dict[str, Any]) -> dict[str, Any]:
    x, y, width, height = row["bbox"]
    return row | {"segmentation": [[x, y, x + width, y, x + width, y + height, x, y + height]]}


def without(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}


@pytest.mark.parametrize(
    ("change", "tasks"),
    [
        (lambda row: row, ("bbox", "segm")),
        (as_polygon, ("bbox", "segm")),
        (lambda row: without(row, "bbox"), ("bbox", "segm")),
        (lambda row: without(row, "segmentation"), ("bbox",)),
    ],
    ids=["box and mask", "polygon", "mask alone", "box alone"],
)
def test_numbers_equal_those_of_pycocotools(files, tmp_path: Path, change, tasks: tuple[str, ...]) -> None:
    _, truth, rows = files
    rows = [change(row) for row in rows]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    _, results = evaluate_predictions(tmp_path / "r.json", truth, load_config(None, []))
    assert tuple(results) == tasks
    for task in tasks:
        # loadRes takes the box of a row, or else its mask, which also gives the size class.
        given = [without(row, "segmentation") if task == "bbox" and "bbox" in row else row for row in rows]
        given = [without(row, "bbox") if task == "segm" else row for row in given]
        expected = stats_of_pycocotools(truth, json.loads(json.dumps(given)), task)
        found = [results[task][name] for name in SHOWN]
        defined = expected > -100
        assert defined.sum() >= 8
        if "bbox" in rows[0] or task == "segm":
            np.testing.assert_allclose(np.array(found)[defined], expected[defined], atol=1e-9)
        else:  # loadRes sorts boxes of masks into sizes by the area of the mask
            np.testing.assert_allclose(found[:3], expected[:3], atol=1e-9)
        assert 5 < results[task]["AP"] < 95


def test_coco_files_give_the_numbers_of_pycocotools(shared_dir: Path, tmp_path: Path) -> None:
    truth = shared_dir / "data" / "coco_mini" / "annotations" / "instances_val2017.json"
    annotations = json.loads(truth.read_text())["annotations"]
    random = np.random.default_rng(0)
    columns = ("image_id", "category_id", "segmentation", "bbox")
    rows = [
        {"score": float(random.random())} | {name: row[name] for name in columns}
        for row in annotations
        if random.random() < 0.7 and not row["iscrowd"]
    ]
    for row in rows[::5]:
        row["bbox"] = [row["bbox"][0] + 9, *row["bbox"][1:]]
        row["category_id"] = annotations[0]["category_id"]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    cfg = load_config(None, ["EVAL.BACKEND", "hotcoco"])
    _, results = evaluate_predictions(tmp_path / "r.json", truth, cfg)
    expected = stats_of_pycocotools(truth, [without(row, "bbox") for row in rows], "segm")
    np.testing.assert_allclose([results["segm"][name] for name in SHOWN], expected, atol=1e-9)


def test_command_writes_the_files_of_evaluate(files, tmp_path: Path, capsys) -> None:
    pytest.importorskip("hotcoco")
    predictions, truth, _ = files
    arguments = ["--predictions", str(predictions), "--annotations", str(truth)]
    assert run_command("evaluate", [*arguments, "--output", str(tmp_path / "out"), "EVAL.METRICS", "[tide]"]) == 0
    written = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {"coco_instances_results.json", "results.json", "results.md", "score_thresholds.json"} <= written
    assert {"precision_recall.png", "confusion_matrix.png", "log.txt"} <= written
    assert "tide_segm" in json.loads((tmp_path / "out" / "inference" / "results.json").read_text())
    assert "| Dupe " in capsys.readouterr().out
    for wrong in (arguments[:2], arguments[2:], [*arguments, "--weights", "x.pth"]):
        with pytest.raises(SystemExit):
            run_command("evaluate", wrong)


ROW = {"image_id": 10, "category_id": 7, "score": 0.5, "bbox": [0, 0, 5, 5]}
MASK = {"size": [100, 100], "counts": "PPP"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([ROW | {"image_id": 11}, ROW], r"1 of 2 results has an unknown image_id: 11. The images of .* 10, 20, 30"),
        ([ROW | {"image_id": "10"}], r"an unknown image_id: 10. They are texts; the ids of COCO are numbers"),
        ([ROW | {"category_id": 0}], r"an unknown category_id: 0. The categories of .*gt.json have the ids 7, 14"),
        ([ROW, without(ROW, "score")], r"1 of 2 results has no 'score' \(first: result 1\)"),
        ([ROW | {"score": "high"}], "result 0 has the score 'high', which is not a number"),
        ([ROW | {"bbox": [0, 0, -5, 5]}], r"result 0 has the bbox \[0, 0, -5, 5\]"),
        ([without(ROW, "bbox")], "the results have neither bbox, segmentation nor keypoints"),
        ([without(ROW, "bbox") | {"keypoints": [1, 2, 3]}], "the results have keypoints alone, and .*gt.json has none"),
        ([ROW | {"segmentation": MASK | {"size": [9, 9]}}], "result 0: its segmentation is a mask of"),
        ([ROW | {"segmentation": [[1, 2, 3]]}], r"result 0: its segmentation has the polygon \[1, 2, 3\]"),
        ([ROW, ROW | {"segmentation": [[0, 0, 9, 0, 9, 9]]}], "1 of 2 results have 'segmentation'"),
        ([{"image_id": 10, "caption": "a cat"}], "results of another task, captions"),
        ({"images": []}, "holds a dict. It should be a list of COCO results"),
        ([1, 2], "holds a list of other things than objects"),
    ],
)
def test_wrong_results_are_refused(files, tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        evaluate_predictions(tmp_path / "r.json", files[1], load_config(None, []))


def test_doubtful_results_are_evaluated_with_warnings(files, tmp_path: Path, caplog) -> None:
    (tmp_path / "r.json").write_text(json.dumps([ROW | {"score": 7}, ROW | {"score": 7}, ROW | {"score": 0.5}]))
    evaluate_predictions(tmp_path / "r.json", files[1], load_config(None, []))
    assert "2 of 3 results have a score outside [0, 1], from 7 to 7" in caplog.text
    assert "1 result is repeated, with equal box, mask and score (first: in image 10)" in caplog.text


def test_empty_list_is_evaluated_with_a_warning(files, tmp_path: Path, caplog) -> None:
    (tmp_path / "r.json").write_text("[]")
    _, results = evaluate_predictions(tmp_path / "r.json", files[1], load_config(None, []))
    assert {task: metrics["AP"] for task, metrics in results.items()} == {"bbox": 0.0, "segm": 0.0}
    assert "is an empty list: every object counts as missed" in caplog.text


def test_images_need_no_files_but_a_size(files, tmp_path: Path) -> None:
    content = json.loads(files[1].read_text())
    del content["images"][0]["height"]
    (tmp_path / "gt.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"has no height and width. Add them, in pixels"):
        load_coco("gt", None, tmp_path / "gt.json")


@pytest.mark.parametrize("extra", [{}, {"mask_score": 0.25, "keypoints": [1.5, 2.0, 0.5]}])
def test_packed_rows_are_the_rows(files, extra: dict[str, Any]) -> None:
    rows = [row | extra for row in files[2] if row["image_id"] == 10]
    assert len(rows) > 5
    assert PackedRows.of(rows).rows(10) == rows
    assert PackedRows.of([]).rows(10) == []


def test_results_beyond_the_limit_per_image_and_class_are_named(files, caplog) -> None:
    results, truth, rows = files
    caplog.set_level("INFO")
    evaluate_predictions(results, truth, load_config(None, ["TEST.DETECTIONS_PER_IMAGE", 2]))
    most = max(
        sum((row["image_id"], row["category_id"]) == key for row in rows)
        for key in {(r["image_id"], r["category_id"]) for r in rows}
    )
    assert f"more than 2 results of a class, at most {most}; the others do not count" in caplog.text
    caplog.clear()
    evaluate_predictions(results, truth, load_config(None, ["TEST.DETECTIONS_PER_IMAGE", most]))
    assert "do not count" not in caplog.text
    assert "results in 9 images; evaluating bbox, segm" in caplog.text
