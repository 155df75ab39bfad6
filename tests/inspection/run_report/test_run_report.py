"""A report as plain data: of a run folder that is written by hand, with files missing or damaged."""

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from mrcnn_zoo.cli.main import run_command
from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inspection.run_report.config import EVALUATED_CONFIG, read_config, record_config
from mrcnn_zoo.inspection.run_report.files import read_log
from mrcnn_zoo.inspection.run_report.funnel import funnel_blocks
from mrcnn_zoo.inspection.run_report.galleries import image_galleries, suspect_gallery
from mrcnn_zoo.inspection.run_report.page import log_run_report, page_text
from mrcnn_zoo.inspection.run_report.pictures import jpeg_within
from mrcnn_zoo.inspection.run_report.report import RunReport, read_report
from mrcnn_zoo.inspection.run_report.tables import change_tables, confusion_table, time_table
from support.run_folders import LOG, RESULTS, write_run, write_squares


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    data = tmp_path_factory.mktemp("data")
    write_squares(data)
    return write_run(tmp_path_factory.mktemp("runs") / "first", data)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed."""
    return Path(shutil.copytree(original, tmp_path / "first"))


@pytest.fixture(scope="module")
def report(original: Path) -> RunReport:
    return read_report(original)


def test_best_evaluation_and_times(report: RunReport) -> None:
    assert report.best is not None
    assert (report.best.metric, report.best.value, report.best.iteration) == ("segm/AP", 60.0, 20)
    training = report.training
    assert (training.iterations, training.seconds, training.data_seconds) == (40, 20 * 0.5 + 20 * 1.0, 20 * 0.3)
    assert training.memory_mb == 2048
    # Sessions of 60 s; 3 images of 2 s; 30 s of training.
    assert [row[1].text for row in time_table(report).rows] == ["24.0 s", "6.0 s", "6.0 s", "0:01:24"]


def test_log_of_two_sessions(report: RunReport) -> None:
    log = report.files.log
    assert (log.seconds, log.sessions, log.seed) == (120.0, 2, 17)
    assert log.warnings == ("WARNING: SOLVER.BASE_LR = 0.1 since resume",)


def test_log_of_two_evaluations(tmp_path: Path) -> None:
    line = "[2026-01-01 1{hour}:00:{second}] INFO mrcnn_zoo.{logger}: {text}\n"
    session = (("00", "evaluation.preflight", "classes"), ("01", "inference.trained", "x.pth: 9 weights loaded"))
    session += (("09", "inspection.run_report_page", "report: here"),)
    (tmp_path / "log.txt").write_text(
        "".join(line.format(hour=hour, second=second, logger=a, text=b) for hour in (0, 1) for second, a, b in session)
    )
    log = read_log(tmp_path / "log.txt")
    assert (log.seconds, log.sessions) == (18.0, 2)


def test_confusions_are_those_of_the_rows(report: RunReport) -> None:
    (evaluation,) = report.evaluations
    assert evaluation.confusion is not None
    # True a: both found. True b: one found, one detected as a. Background: a false a; the b of score 0.3 is below 0.5.
    assert evaluation.confusion.matrix.tolist() == [[2, 0, 0], [1, 1, 0], [1, 0, 0]]
    assert [[cell.text for cell in row] for row in confusion_table(evaluation).rows] == [["b", "a", "1", "50%"]]
    assert evaluation.objects == {"a": 2, "b": 2}


def test_error_types_are_computed_or_read(folder: Path, report: RunReport) -> None:
    pytest.importorskip("hotcoco")
    gains = {name: gain for name, _, gain in report.evaluations[0].errors}
    assert gains["Cls"] > 0
    assert gains["Loc"] == 0
    stored = RESULTS | {"tide_segm": {"AP50": 75.5, "Cls": 12.5, "Loc": 3.5}}
    (folder / "inference" / "results.json").write_text(json.dumps(stored))
    errors = read_report(folder).evaluations[0].errors
    assert [(name, gain) for name, _, gain in errors] == [("Cls", 12.5), ("Loc", 3.5)]


def test_galleries_name_errors_and_show_them(report: RunReport) -> None:
    notes: list[str] = []
    wrong, worst, *others = image_galleries(report.evaluations[0], notes)
    assert [item.title for item in wrong.items] == ["1.png", "3.png"]
    assert "false 'a' with score 0.70" in wrong.items[0].text
    assert [item.title for item in worst.items] == ["3.png", "1.png"]
    assert worst.items[0].text == "0 of 1 object found; 1 false detection; score 0.00"
    assert [item.title for gallery in others for item in gallery.items] == ["2.png"]
    (_, truth), (_, found) = wrong.items[0].pictures
    factor = truth.shape[0] // 60
    border = truth[5 * factor + 1, 15 * factor], found[12 * factor - 1, 45 * factor]  # of a found object, a false one
    assert [tuple(color) for color in border] == [(0, 158, 115), (213, 94, 0)]
    suspects = suspect_gallery(report.evaluations[0], notes)
    assert suspects is not None
    assert notes == []


def test_missing_image_is_noted_and_the_others_are_drawn(tmp_path: Path) -> None:
    write_squares(tmp_path / "data")
    run = write_run(tmp_path / "run", tmp_path / "data")
    report = read_report(run)
    (tmp_path / "data" / "images" / "3.png").unlink()
    notes: list[str] = []
    galleries = image_galleries(report.evaluations[0], notes)
    assert [item.title for item in galleries[0].items] == ["1.png"]
    assert "3.png" in notes[0]


@pytest.mark.parametrize(
    ("missing", "note"),
    [
        ("metrics.json", "metrics.json and results.csv"),
        ("config.yaml", "config.yaml is missing"),
        ("inference/results.json", "has not been evaluated"),
    ],
)
def test_missing_files_leave_out_their_part(folder: Path, missing: str, note: str) -> None:
    (folder / missing).unlink()
    report = read_report(folder)
    assert any(note in text for text in report.notes)
    assert (report.best is None) == (missing == "metrics.json")
    assert bool(report.evaluations) == ("results" not in missing)


def test_damaged_files_leave_out_their_part(folder: Path) -> None:
    metrics = (folder / "metrics.json").read_bytes()
    (folder / "metrics.json").write_bytes(b'{"iteration": 9, "tot\n\xff\n' + metrics)
    rows = folder / "inference" / "coco_instances_results.json"
    rows.write_text(rows.read_text()[:-50])
    (folder / "environment.json").write_text("{")
    report = read_report(folder)
    assert report.training.iterations == 40
    assert report.evaluations[0].confusion is None
    assert any("environment.json cannot be read" in note for note in report.notes)


def test_rows_of_other_images_are_noted(folder: Path) -> None:
    rows = folder / "inference" / "coco_instances_results.json"
    rows.write_text(json.dumps([json.loads(rows.read_text())[0] | {"category_id": 9}]))
    (evaluation,) = read_report(folder).evaluations
    assert evaluation.confusion is None
    assert any("do not belong together" in note for note in evaluation.notes)


def test_dataset_that_is_gone_is_named(folder: Path) -> None:
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("squares.json", "gone.json"))
    report = read_report(folder)
    assert report.evaluations[0].files.name == "squares"
    assert any("gone.json" in note for note in report.notes)
    assert report.evaluations[0].files.results["bbox"]["AP"] == 61.25


def test_annotations_are_enough_for_the_numbers(tmp_path: Path) -> None:
    write_squares(tmp_path / "data")
    run = write_run(tmp_path / "run", tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "images")
    report = read_report(run)
    assert report.evaluations[0].confusion is not None
    assert any("so that pictures are left out" in note for note in report.notes)
    assert image_galleries(report.evaluations[0], []) == []


def test_config_of_a_later_evaluation_is_used(folder: Path) -> None:
    cfg = load_config(None, ["DATASETS.TEST", "[other]", "SEED", "5"])
    record_config(cfg, folder, name=EVALUATED_CONFIG)
    assert read_report(folder).files.config.get("SEED") == 5
    os.utime(folder / EVALUATED_CONFIG, (0, 0))  # of an evaluation before the last one
    assert read_report(folder).files.config.get("SEED") == -1


def test_stages_follow_each_other(original: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name, clock in (("z_first", "09"), ("a_second", "10")):
        shutil.copytree(original, run / name)
        (run / name / "log.txt").write_text(LOG.replace("2026-01-01 10", f"2026-01-01 {clock}"))
        (run / name / "stage.json").write_text(json.dumps({"iterations": 40, "results": RESULTS}))
    shutil.copy(original / "config.yaml", run / "config.yaml")
    report = read_report(run)
    assert [(stage.name, stage.first_iteration) for stage in report.files.stages] == [("z_first", 0), ("a_second", 40)]
    assert report.best is not None
    assert report.best.stage == "a_second"
    assert report.training.iterations == 80
    assert report.evaluations[0].files.output_dir == run / "a_second"


def test_changed_keys_have_their_former_values(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("SOLVER: {MAX_ITER: 10, BASE_LR: 0.5}\n")
    given = tmp_path / "given.yaml"
    given.write_text("_BASE_: base.yaml\nSOLVER: {MAX_ITER: 20}\nSEED: -1\n")
    record_config(load_config(given, ["SOLVER.MAX_ITER", "30", "SEED", "4"]), tmp_path)
    config = read_config(tmp_path, {})
    found = {change.name: (change.value, change.former, change.is_own) for change in config.changes}
    assert found == {
        "SOLVER.BASE_LR": (0.5, 0.001, False),
        "SOLVER.MAX_ITER": (30, 20, True),
        "SEED": (4, -1, True),
    }
    assert Path(config.file) == given


def test_changed_keys_without_record_are_relative_to_the_defaults(report: RunReport) -> None:
    (table,) = change_tables(report)
    keys = {row[0].text: (row[1].text, row[2].text) for row in table.rows}
    assert keys["SOLVER.MAX_ITER"] == ("40", "40000")
    assert "defaults" in table.caption


def test_page_stays_below_its_size_with_many_large_images(tmp_path: Path) -> None:
    write_squares(tmp_path / "data", num_copies=2, side=480, seed=0)
    run = write_run(tmp_path / "run", tmp_path / "data", num_copies=2, side=480)
    (run / "metrics.json").unlink()
    (run / "inference" / "precision_recall.npz").unlink()
    warning = "[2026-01-01 10:00:00] WARNING mrcnn_zoo.data: {} " + 6000 * "x" + "\n"
    (run / "log.txt").write_text("".join(map(warning.format, range(40))))  # more than the share that pictures leave
    report = read_report(run)
    galleries = image_galleries(report.evaluations[0], [])
    pictures = [picture for gallery in galleries for item in gallery.items for _, picture in item.pictures]
    assert sum(len(jpeg_within(picture, 10**6)) for picture in pictures) > 1_000_000  # in their full size
    small = page_text(report, max_bytes=300_000)
    assert len(small.encode()) <= 300_000
    assert small.count("data:image/jpeg") > len(pictures) > 15
    assert "data:image/jpeg" not in page_text(report, max_bytes=1000)


def test_error_at_the_end_of_a_run_is_logged(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert log_run_report(folder / "nowhere") is None
    assert "no report of the run was written" in caplog.messages[-1]
    assert "nowhere is missing" in caplog.messages[-1]
    monkeypatch.setattr("mrcnn_zoo.inspection.run_report.page.curve_plots", lambda _: 1 // 0)
    assert log_run_report(folder) is None
    assert "ZeroDivisionError" in caplog.messages[-1]


@pytest.mark.parametrize("content", ["[]", '{"bbox": {"AP": "x"}, "segm": 3}', "{"])
def test_results_without_numbers_are_left_out(folder: Path, content: str) -> None:
    (folder / "inference" / "results.json").write_text(content)
    (evaluation,) = read_report(folder).evaluations
    assert evaluation.files.results == {}


@pytest.mark.parametrize("content", ['[{"image_id": 1}]', "[1]"])
def test_damaged_files_of_an_evaluation_are_noted(folder: Path, content: str) -> None:
    inference = folder / "inference"
    (inference / "coco_instances_results.json").write_text(content)
    (inference / "precision_recall.npz").write_bytes(b"PK\x03\x04")
    (inference / "recall_funnel.json").write_text('{"tasks": {"bbox": {}}}')
    (evaluation,) = read_report(folder).evaluations
    assert (evaluation.curves_file, evaluation.funnel) == (None, {})
    for text in ("The recall funnel", "Precision over recall", "coco_instances_results.json has no complete list"):
        assert any(text in note for note in evaluation.notes)


def test_command_refuses_what_is_no_run(tmp_path: Path, folder: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.yaml").touch()
    assert run_command("report", [str(tmp_path / "empty")]) == 2
    assert "is not the output folder of a training or an evaluation" in capsys.readouterr().err
    assert run_command("report", [str(tmp_path / "sweep"), str(tmp_path / "gone")]) == 1
    errors = capsys.readouterr().err
    assert "mrcnn-zoo sweep report" in errors
    assert "gone is missing" in errors
    assert run_command("report", [str(folder), str(folder), "--output", str(tmp_path / "x.html")]) == 2
    assert "each gets a report.html" in capsys.readouterr().err


def test_funnel_shows_objects_losses_and_advice(folder: Path) -> None:
    content = {
        "stages": ["anchors", "final"],
        "objects": 4,
        "after": {"anchors": 3, "final": 1},
        "losses": [{"stage": "final", "reason": "mask <0.5", "objects": 2}],
        "advice": "Add:\nSIZES: [[8]]",
    }
    path = folder / "inference" / "recall_funnel.json"
    path.write_text(json.dumps({"iou": 0.5, "images": {}, "tasks": {"segm": content}}))
    html = "".join(funnel_blocks(read_report(folder).evaluations[0]))
    for text in (
        "4 (100.0%)",
        "3 (75.0%, 1 lost)",
        "1 (25.0%, 2 lost)",
        "mask &lt;0.5",
        "SIZES: [[8]]",
        "width: 25.0%",
    ):
        assert text in html


def test_results_without_objects_are_nan(report: RunReport) -> None:
    assert math.isnan(report.evaluations[0].files.results["bbox"]["APm"])
    with pytest.raises(UserError, match="is a file"):
        read_report(report.files.folder / "log.txt")
    assert np.isfinite(report.evaluations[0].files.results["segm"]["AP"])
