"""What the metric writers leave behind, read back."""

import builtins
import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.training import writers
from mrcnn_zoo.training.writers import StageOfRun, build_writers
from mrcnn_zoo.training.writers.contract import FINAL
from mrcnn_zoo.training.writers.files import CsvWriter, JsonLinesWriter
from mrcnn_zoo.training.writers.trackers import TensorboardWriter
from support.wandb_file import artifacts_of, history_of, wandb_records

SCALARS = {
    "loss_mask": 0.5,
    "total_loss": 1.25,
    "lr": 0.001,
    "images_per_second": 62.14,
    "eta_seconds": 65.4,
    "memory_mb": 3412.3,
}
RESULTS = {"bbox": {"AP": 38.6, "AP50": 59.1}, "segm": {"AP": 35.2}}


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- all of them ------------------------------------------------------------------------------------------------------


def test_default_writers_leave_their_files(tmp_path: Path) -> None:
    for writer in build_writers(load_config(), tmp_path / "new"):
        writer.advance(0)
        writer.write(0, SCALARS)
        writer.write_images(0, {})
        writer.write_results(0, RESULTS)
        writer.write_checkpoint(tmp_path / "model_final.pth", iteration=0, roles=[FINAL], metrics={})
        writer.close()
        writer.close()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["metrics.json", "results.csv"]


def test_a_typo_opens_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'csv'"):
        build_writers(load_config(overrides=["WRITERS", ["json", "cvs"]]), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_writers_at_all(tmp_path: Path) -> None:
    assert build_writers(load_config(overrides=["WRITERS", []]), tmp_path) == []


def test_other_processes_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "is_main_process", lambda: False)
    assert build_writers(load_config(), tmp_path / "new") == []
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_without_a_package_one_warning_has_the_remedy_and_the_others_write(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    genuine = builtins.__import__

    def without_package(module: str, *arguments: object) -> object:
        if module.startswith((name, f"torch.utils.{name}")):
            raise ImportError(f"No module named {module!r}")
        return genuine(module, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_package)
    for number in (1, 2):  # the stages of one run
        stage = StageOfRun(str(number), number, tmp_path, begins_session=number == 1)
        cfg = load_config(overrides=["WRITERS", [name, "json"]])
        for writer in build_writers(cfg, tmp_path / stage.name, stage=stage):
            writer.write(0, SCALARS)
            writer.write_results(0, RESULTS)
            writer.close()
        assert len(lines_of(tmp_path / stage.name / "metrics.json")) == 2
    assert caplog.text.count(f"pip install {name}") == 1


# --- JSON lines -------------------------------------------------------------------------------------------------------


def test_json_lines_are_there_before_the_file_is_closed(tmp_path: Path) -> None:
    writer = JsonLinesWriter(tmp_path / "metrics.json")
    writer.write(19, {"lr": 0.5})
    assert lines_of(tmp_path / "metrics.json") == [{"iteration": 19, "lr": 0.5}]
    writer.close()


def test_json_results_are_flat(tmp_path: Path) -> None:
    writer = JsonLinesWriter(tmp_path / "metrics.json")
    writer.write_results(19, RESULTS)
    writer.close()
    assert lines_of(tmp_path / "metrics.json") == [
        {"iteration": 19, "bbox/AP": 38.6, "bbox/AP50": 59.1, "segm/AP": 35.2}
    ]


def test_json_has_null_for_numbers_that_are_not_finite(tmp_path: Path) -> None:
    writer = JsonLinesWriter(tmp_path / "metrics.json")
    writer.write(0, {"a": float("nan"), "b": float("-inf"), "c": 1.0})
    writer.close()
    assert lines_of(tmp_path / "metrics.json") == [{"iteration": 0, "a": None, "b": None, "c": 1.0}]


def test_json_resume_drops_what_will_be_done_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 9}\n{"iteration": 19}\n{"iteration": 20}\n{"iteration": 29}\n{"iterat')
    writer = JsonLinesWriter(path, start_iteration=20)
    writer.write(29, {"lr": 1.0})
    writer.close()
    assert lines_of(path) == [{"iteration": 9}, {"iteration": 19}, {"iteration": 29, "lr": 1.0}]


def test_a_fresh_run_sets_the_files_of_an_earlier_one_aside(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"iteration": 9}\n')
    (tmp_path / "results.csv").write_text("iteration\n9\n")
    JsonLinesWriter(tmp_path / "metrics.json").close()
    CsvWriter(tmp_path / "results.csv").write_results(3, {})
    assert lines_of(tmp_path / "metrics.json") == []
    assert lines_of(tmp_path / "metrics.previous.json") == [{"iteration": 9}]
    assert rows_of(tmp_path / "results.csv") == [{"iteration": "3"}]
    assert rows_of(tmp_path / "results.previous.csv") == [{"iteration": "9"}]


# --- CSV --------------------------------------------------------------------------------------------------------------


def test_csv_has_a_row_for_each_evaluation_with_the_latest_metrics(tmp_path: Path) -> None:
    writer = CsvWriter(tmp_path / "results.csv")
    writer.write(9, {"lr": 0.1})
    writer.write(19, {"lr": 0.2})
    writer.write_results(19, {"bbox": {"AP": 1.0}})
    writer.write_results(39, {"bbox": {"AP": 2.0}})
    assert rows_of(tmp_path / "results.csv") == [
        {"iteration": "19", "bbox/AP": "1.0", "lr": "0.2"},
        {"iteration": "39", "bbox/AP": "2.0", "lr": "0.2"},
    ]


def test_csv_columns_stay_and_new_ones_come_last(tmp_path: Path) -> None:
    writer = CsvWriter(tmp_path / "results.csv")
    writer.write_results(1, {"bbox": {"AP": 1.0}})
    writer.write_results(2, {"segm": {"AP": 3.0}, "bbox": {"AP": 2.0}})
    assert (tmp_path / "results.csv").read_text().splitlines() == ["iteration,bbox/AP,segm/AP", "1,1.0,", "2,2.0,3.0"]


def test_csv_resume_keeps_the_rows_before(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("iteration,bbox/AP\n9,1.0\n19,2.0\n29,3.0\n")
    CsvWriter(path, start_iteration=20).write_results(29, {"bbox": {"AP": 4.0}})
    assert [row["bbox/AP"] for row in rows_of(path)] == ["1.0", "2.0", "4.0"]


# --- TensorBoard ------------------------------------------------------------------------------------------------------


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.full((4, 6, 3), 200, np.uint8)).save(path)
    return path


def test_tensorboard_events_hold_scalars_and_pictures(tmp_path: Path, picture: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    writer = TensorboardWriter(tmp_path / "events")
    writer.write(19, {"total_loss": 1.25})
    writer.write_results(19, RESULTS)
    writer.write_images(19, {"predictions": picture})
    writer.close()
    events = accumulator.EventAccumulator(str(tmp_path / "events")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("total_loss")] == [(19, 1.25)]
    assert events.Scalars("segm/AP")[0].value == pytest.approx(35.2)
    image = events.Images("predictions")[0]
    assert (image.step, image.width, image.height) == (19, 6, 4)


def test_tensorboard_has_no_points_where_there_are_no_objects(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    writer = TensorboardWriter(tmp_path)
    writer.write_results(9, {"bbox": {"AP": 50.0, "APl": float("nan")}})
    writer.close()
    assert accumulator.EventAccumulator(str(tmp_path)).Reload().Tags()["scalars"] == ["bbox/AP"]


def test_tensorboard_resume_hides_what_is_done_again(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for start, value in ((0, 1.0), (20, 2.0)):
        writer = TensorboardWriter(tmp_path, start_iteration=start)
        for iteration in (19, 29) if start == 0 else (29,):
            writer.write(iteration, {"lr": value})
        writer.close()
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("lr")] == [(19, 1.0), (29, 2.0)]


# --- Weights & Biases -------------------------------------------------------------------------------------------------


@pytest.fixture
def wandb_config(monkeypatch: pytest.MonkeyPatch) -> CfgNode:
    """A config that logs to W&B, and an environment without account and network."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_API_KEY", "WANDB_RUN_ID", "WANDB_RESUME"):
        monkeypatch.delenv(name, raising=False)
    return load_config(overrides=["WRITERS", ["wandb"], "WANDB.PROJECT", "test", "WANDB.TAGS", ["digits"]])


def test_wandb_offline_run_holds_everything(tmp_path: Path, picture: Path, wandb_config: CfgNode) -> None:
    checkpoint = tmp_path / "model_final.pth"
    torch.save({"model": {}}, checkpoint)
    (writer,) = build_writers(wandb_config, tmp_path)
    writer.write(19, {"total_loss": 1.25})
    writer.write_images(19, {"predictions": picture})
    writer.write_results(19, RESULTS)
    writer.write_checkpoint(checkpoint, iteration=19, roles=[FINAL], metrics={})
    writer.close()

    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    records = wandb_records(folder)
    history = {name: value for row in history_of(records) for name, value in row.items()}
    assert history["iteration"] == 19
    assert history["total_loss"] == 1.25
    assert history["segm/AP"] == 35.2
    assert history["predictions/_type"] == "image-file"
    assert (folder / "files" / history["predictions/path"]).is_file()
    assert history["results/_type"] == "table-file"
    table = json.loads((folder / "files" / history["results/path"]).read_text())
    assert table["columns"] == ["metric", "bbox", "segm"]
    assert table["data"] == [["AP", 38.6, 35.2], ["AP50", 59.1, None]]
    (run,) = [record.run for record in records if record.HasField("run")]
    assert run.project == "test"
    assert list(run.tags) == ["digits"]
    settings = {update.key: json.loads(update.value_json) for update in run.config.update}
    assert settings["SOLVER"]["BASE_LR"] == 0.001
    (model,) = artifacts_of(records)
    assert [entry.path for entry in model.manifest.contents] == ["model_final.pth"]


def test_wandb_resume_continues_the_same_run(tmp_path: Path, wandb_config: CfgNode) -> None:
    for start in (0, 20, 0):
        (writer,) = build_writers(wandb_config, tmp_path, start_iteration=start)
        writer.close()
    ids = [
        path.name.removeprefix("run-").removesuffix(".wandb") for path in (tmp_path / "wandb").glob("offline*/*.wandb")
    ]
    assert len(ids) == 3
    assert len(set(ids)) == 2
    assert (tmp_path / "wandb_run_id.txt").read_text() in ids


def test_stages_of_a_run_are_one_wandb_run(tmp_path: Path, wandb_config: CfgNode) -> None:
    for number, name in enumerate(("heads", "all"), start=1):
        stage = StageOfRun(name, number, tmp_path, first_iteration=20 * (number - 1), is_last=number == 2)
        (writer,) = build_writers(wandb_config, tmp_path / name, stage=stage)
        writer.write(19, {"lr": 0.1 * number})
        writer.close()
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    records = wandb_records(folder)
    rows = history_of(records)
    assert [(row["iteration"], row["stage"], row["lr"]) for row in rows] == [(19, 1, 0.1), (39, 2, 0.2)]
    assert sum(record.HasField("exit") for record in records) == 1
    updates = [update for record in records if record.HasField("config") for update in record.config.update]
    assert {"heads", "all"} <= {update.key for update in updates}


def test_a_stage_that_is_resumed_continues_the_wandb_run_of_its_run(tmp_path: Path, wandb_config: CfgNode) -> None:
    ids = []
    for number in (1, 2):  # sessions: the first ends after stage 1
        stage = StageOfRun("all", number, tmp_path, is_last=True)
        (writer,) = build_writers(wandb_config, tmp_path / "all", stage=stage)
        writer.close()
        ids.append((tmp_path / "wandb_run_id.txt").read_text())
    assert ids[0] == ids[1]
