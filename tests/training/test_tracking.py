"""What W&B and TensorBoard hold of a run: interrupted, resumed, read back from their files, and without an account."""

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.data import load_dataset
from mrcnn_zoo.data.records import ImageRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.experiments.runs import expand
from mrcnn_zoo.experiments.sweep_file import read_sweep
from mrcnn_zoo.inspection.pictures import PredictionPicture, record_targets
from mrcnn_zoo.structures import BoxedBitmaps, Detections
from mrcnn_zoo.training import run
from mrcnn_zoo.training.hook import Hook
from mrcnn_zoo.training.stopping import TrainingInterrupted
from mrcnn_zoo.training.trainer import Trainer
from mrcnn_zoo.training.writers import MetricWriter, build_writers
from mrcnn_zoo.training.writers.overlays import LARGEST_ID, box_layer, mask_layer
from mrcnn_zoo.training.writers.trackers import WandbWriter, _tables_of
from support.small_models import TINY_YAML
from support.wandb_file import artifacts_of, history_of, wandb_records

wandb = pytest.importorskip("wandb")


class InterruptOnce(Hook):
    """SIGTERM after the first step of the run."""

    def after_step(self, trainer: Trainer, report: Any) -> None:  # noqa: ARG002
        if trainer.iteration == 1:
            signal.raise_signal(signal.SIGTERM)


def build_interrupt_once(cfg: CfgNode, workspace: Any) -> Hook:  # noqa: ARG001
    return InterruptOnce()


@dataclass(frozen=True)
class TrackedRun:
    """A run that was interrupted after its first iteration, and resumed."""

    cfg: CfgNode
    sessions: list[list[Any]]  # records of each
    folders: list[Path]  # of each
    log: str

    @property
    def output_dir(self) -> Path:
        return Path(self.cfg.OUTPUT_DIR)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [row for records in self.sessions for row in history_of(records)]

    def media(self, name: str) -> Path:
        """A file of the last evaluation."""
        path = [row for row in self.rows if name in row][-1][name]
        return self.folders[-1] / "files" / path


@pytest.fixture
def without_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """W&B on a machine without a login."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb.teardown()  # else the variables of an earlier test are in use
    yield monkeypatch
    wandb.teardown()


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> TrackedRun:
    folder = tmp_path_factory.mktemp("tracked") / "output"
    settings = (
        f"OUTPUT_DIR={folder}",
        "WRITERS=['csv', 'wandb', 'tensorboard']",
        f"HOOKS=['{__name__}:build_interrupt_once']",
        *(
            "DATASETS.SCENES.NUM_VAL=2",
            "SOLVER.MAX_ITER=2",
            "TEST.EVAL_PERIOD=1",
            "TEST.VAL_LOSS=True",
            "VIS.NUM_IMAGES=1",
            "VIS.SCORE_THRESH=0",
        ),
        *("WANDB.PROJECT=shapes", "WANDB.GROUP=backbones", "WANDB.NAME=R-18, seed 3", "WANDB.JOB_TYPE=sweep"),
        *("WANDB.NOTES=what if", "WANDB.TAGS=['a', 'b']"),
    )
    cfg = load_config(TINY_YAML, list(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        wandb.teardown()
        with pytest.raises(TrainingInterrupted):
            run(cfg)
        run(cfg, resume=True)
        folders = sorted((folder / "wandb").glob("offline-run-*"))
        sessions = [wandb_records(each) for each in folders]
    return TrackedRun(cfg, sessions, folders, (folder / "log.txt").read_text())


def values_of(records: list[Any], kind: str) -> list[Any]:
    return [getattr(record, kind) for record in records if record.HasField(kind)]


# --- W&B --------------------------------------------------------------------------------------------------------------


def test_wandb_run_has_the_names_and_the_config_of_the_run(tracked: TrackedRun) -> None:
    (record,) = values_of(tracked.sessions[0], "run")
    assert (record.project, record.run_group, record.job_type) == ("shapes", "backbones", "sweep")
    assert (record.display_name, record.notes, list(record.tags)) == ("R-18, seed 3", "what if", ["a", "b"])
    settings = {update.key: json.loads(update.value_json) for update in record.config.update}
    assert settings["SOLVER"]["MAX_ITER"] == 2
    assert settings["MODEL"]["ROI_HEADS"]["NUM_CLASSES"] == 3


def test_interrupted_run_is_preempted_and_the_resumed_one_continues_it(tracked: TrackedRun) -> None:
    first, second = tracked.sessions
    assert len(values_of(first, "preempting")) == 1
    assert values_of(second, "preempting") == []
    codes = [values_of(records, "exit")[0].exit_code for records in (first, second)]
    assert codes == [128 + signal.SIGTERM, 0]
    assert values_of(first, "run")[0].run_id == values_of(second, "run")[0].run_id
    assert artifacts_of(first) == []


def test_wandb_has_losses_rates_times_memory_and_validation_of_each_iteration(tracked: TrackedRun) -> None:
    expected = {
        "total_loss",
        "loss_mask",
        "lr",
        "time",
        "data_time",
        "images_per_second",
        "memory_mb",
        "val/total_loss",
    }
    for iteration in (0, 1):
        names = {name for row in tracked.rows if row["iteration"] == iteration for name in row}
        assert expected | {"val/total_loss", "segm/AP", "bbox/AP-square"} <= names


def test_ap_per_class_is_a_table(tracked: TrackedRun) -> None:
    table = json.loads(tracked.media("per_class/path").read_text())
    row = next(row for row in reversed(tracked.rows) if "segm/AP" in row)
    assert table["columns"] == ["class", "bbox/AP", "segm/AP"]
    assert [name for name, *_ in table["data"]] == list(load_dataset(tracked.cfg, "shapes_val").class_names)
    assert any(value is not None for _, *values in table["data"] for value in values)
    for name, *values in table["data"]:
        assert values == [row.get(f"bbox/AP-{name}"), row.get(f"segm/AP-{name}")]


def test_metrics_of_classes_beside_ap_are_in_the_table_per_class_and_scores_are_named() -> None:
    tables = _tables_of({"f1_segm": {"F1": 50.0, "threshold": 0.6, "F1-guide-dog": 40.0}})
    assert (tables["per_class"].columns, tables["per_class"].data) == (["class", "f1_segm/F1"], [["guide-dog", 40.0]])
    assert tables["results"].data == [["F1", 50.0], ["threshold (score)", 0.6]]


def test_predictions_are_layers_over_the_image_of_the_file(tracked: TrackedRun) -> None:
    dataset = load_dataset(tracked.cfg, "shapes_val")
    record, key = dataset.records[0], "shapes_val/1"
    assert record.image_id == 1
    np.testing.assert_array_equal(np.asarray(Image.open(tracked.media(f"{key}/path"))), record.source.read())
    boxes = json.loads(tracked.media(f"{key}/boxes/ground_truth/path").read_text())["box_data"]
    corners = [[box["position"][side] for side in ("minX", "minY", "maxX", "maxY")] for box in boxes]
    assert corners == [pytest.approx(instance.box) for instance in record.instances]
    names = [dataset.class_names[instance.class_index] for instance in record.instances]
    assert [box["box_caption"] for box in boxes] == names
    mask = np.asarray(Image.open(tracked.media(f"{key}/masks/ground_truth/path")))
    covered = record_targets(record).masks.bitmaps().any(dim=0).numpy()  # type: ignore[union-attr]
    np.testing.assert_array_equal(mask > 0, covered)
    assert set(np.unique(mask)) <= {0, *(instance.class_index + 1 for instance in record.instances)}
    assert tracked.media(f"{key}/boxes/predictions/path").is_file()
    assert tracked.media(f"{key}/masks/predictions/path").is_file()


def test_best_and_latest_checkpoint_are_versions_with_their_metrics(tracked: TrackedRun) -> None:
    models = artifacts_of(tracked.sessions[-1])
    assert len({model.name for model in models}) == 1
    assert {alias for model in models for alias in model.aliases} == {"best", "latest"}
    for model in models:
        metadata = json.loads(model.metadata)
        (logged,) = (row for row in tracked.rows if row["iteration"] == metadata["iteration"] and "segm/AP" in row)
        assert metadata["segm/AP"] == pytest.approx(logged["segm/AP"])
        assert not any("AP-" in name for name in metadata)


def test_command_that_sends_an_offline_run_names_all_its_sessions(tracked: TrackedRun) -> None:
    command = f"wandb sync {tracked.folders[0]} {tracked.folders[1]}"
    assert tracked.log.count(command) == 1
    assert tracked.log.count("send it with: wandb sync") == 2  # once per session


# --- TensorBoard ------------------------------------------------------------------------------------------------------


def test_tensorboard_has_the_scalars_and_pictures_of_wandb(tracked: TrackedRun) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(tracked.output_dir)).Reload()
    logged: dict[str, list[tuple[int, Any]]] = {}
    for row in tracked.rows:
        for name, value in row.items():
            if isinstance(value, int | float) and not name.startswith("_"):
                logged.setdefault(name, []).append((row["iteration"], pytest.approx(value, rel=1e-5)))
    scalars = events.Tags()["scalars"]
    assert {"segm/AP-square", "val/total_loss", "memory_mb"} <= set(scalars) <= set(logged)
    for name in scalars:
        assert [(event.step, event.value) for event in events.Scalars(name)] == logged[name], name
    (picture,) = (tracked.output_dir / "pictures" / "predictions" / "shapes_val").glob("*.png")
    drawn = events.Images("shapes_val/1")[-1]
    assert (drawn.width, drawn.height) == Image.open(picture).size


# --- layers -----------------------------------------------------------------------------------------------------------


def detections(classes: list[int]) -> Detections:
    """A large and a small square inside it, then squares of one pixel along the bottom."""
    boxes = [(0, 0, 6, 6), (2, 2, 4, 4), *((x, 7, x + 1, 8) for x in range(len(classes) - 2))][: len(classes)]
    bitmaps = [np.ones((y2 - y1, x2 - x1), np.uint8) for x1, y1, x2, y2 in boxes]
    return Detections(
        image_size=(8, 400),
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.full((len(boxes),), 0.75),
        classes=torch.tensor(classes, dtype=torch.int64),
        masks=BoxedBitmaps.from_windows([box[:2] for box in boxes], bitmaps, (8, 400)),  # type: ignore[arg-type]
    )


def test_layer_of_boxes_has_classes_and_scores() -> None:
    layer = box_layer(detections([1, 0]), ["cat", "dog"])
    assert layer["class_labels"] == {1: "cat", 2: "dog"}
    assert layer["box_data"][0] == {
        "position": {"minX": 0, "minY": 0, "maxX": 6, "maxY": 6},
        "domain": "pixel",
        "class_id": 2,
        "box_caption": "dog 75%",
        "scores": {"score": 0.75},
    }


def test_small_mask_is_in_front_of_the_large_one_around_it() -> None:
    for order in ([1, 0], [0, 1]):
        layer = mask_layer(detections(order), ["cat", "dog"])
        expected = np.zeros((8, 400))
        expected[:6, :6] = order[0] + 1
        expected[2:4, 2:4] = order[1] + 1
        np.testing.assert_array_equal(layer["mask_data"], expected)


def test_masks_of_no_object_are_an_empty_map() -> None:
    layer = mask_layer(detections([]), ["cat"])
    assert layer["mask_data"].shape == (8, 400)
    assert not layer["mask_data"].any()
    assert box_layer(detections([]), ["cat"]) == {"box_data": [], "class_labels": {1: "cat"}}


def test_more_classes_than_a_mask_can_number_are_numbered_within_the_image() -> None:
    names = [f"class {index}" for index in range(1203)]  # LVIS
    layer = mask_layer(detections([1000, 7]), names)
    assert layer["class_labels"] == {0: "no object", 1: "class 7", 2: "class 1000"}
    assert sorted(np.unique(layer["mask_data"])) == [0, 1, 2]
    many = mask_layer(detections(list(range(900, 900 + LARGEST_ID + 20))), names)
    assert len(many["class_labels"]) == LARGEST_ID + 1
    assert many["mask_data"].max() == LARGEST_ID


class Images(MetricWriter):
    """Keeps the pictures of a writer without layers."""

    def write_images(self, iteration: int, images: Any) -> None:
        self.written = (iteration, dict(images))


def test_writer_without_layers_gets_the_drawn_picture() -> None:
    record = ImageRecord(1, None, (8, 400), ())  # type: ignore[arg-type]
    writer = Images()
    writer.write_predictions(9, {"val/1": PredictionPicture(Path("1.png"), record, detections([]), ["cat"], ["cat"])})
    assert writer.written == (9, {"val/1": Path("1.png")})


# --- sweeps -----------------------------------------------------------------------------------------------------------


def test_runs_of_a_sweep_are_a_group_unless_the_config_names_another(tmp_path: Path) -> None:
    path = tmp_path / "layers.yaml"
    path.write_text(
        f"BASE: {TINY_YAML}\nSEEDS: [4]\nREFERENCE: a\n"
        "VARIANTS: {a: {LOG_PERIOD: 2}, b: {LOG_PERIOD: 3, WANDB.GROUP: mine, WANDB.JOB_TYPE: ''}}\n"
    )
    found = {
        spec.key.variant: (spec.cfg.WANDB.GROUP, spec.cfg.WANDB.NAME, spec.cfg.WANDB.JOB_TYPE)
        for spec in expand(read_sweep(path))
    }
    assert found == {"a": ("layers", "a/seed_4", "sweep"), "b": ("mine", "b/seed_4", "sweep")}


# --- without account, with a wrong key, and failures ------------------------------------------------------------------


def test_without_account_the_run_is_recorded_offline_with_one_warning(
    without_account: pytest.MonkeyPatch,  # noqa: ARG001
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (writer,) = build_writers(load_config(overrides=["WRITERS", ["wandb"]]), tmp_path)
    writer.write(3, {"lr": 0.5})
    writer.close()
    (warning,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert "No API key configured" in warning
    assert "wandb login" in warning
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert [(row["iteration"], row["lr"]) for row in history_of(wandb_records(folder))] == [(3, 0.5)]


def test_wrong_key_is_an_error(without_account: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_account.setenv("WANDB_API_KEY", "short")
    with pytest.raises(UserError, match=r"W&B refuses the API key: WANDB_API_KEY invalid.*wandb login --relogin"):
        build_writers(load_config(overrides=["WRITERS", ["wandb"]]), tmp_path)


class BrokenRun:
    """A W&B run whose service has ended."""

    settings = wandb.Settings(mode="online")

    def __init__(self) -> None:
        self.calls = 0

    def define_metric(self, name: str, step_metric: str = "") -> None:
        pass

    def log(self, values: Any) -> None:  # noqa: ARG002
        self.calls += 1
        raise ConnectionResetError("the service has gone")

    def finish(self, exit_code: int) -> None:  # noqa: ARG002
        raise ConnectionResetError("the service has gone")


def test_failing_tracker_is_warned_of_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    broken = BrokenRun()
    writer = WandbWriter(broken)
    for iteration in range(3):
        writer.write(iteration, {"lr": 0.5})
        writer.write_results(iteration, {"bbox": {"AP": 1.0}})
    writer.close()
    assert broken.calls == 9  # scalars, results and tables of each iteration
    assert caplog.text.count("ConnectionResetError: the service has gone. Training continues") == 1
