# ruff: noqa: ARG001, ARG002, ARG005 - hooks and builders have fixed signatures
"""Built-in hooks around the tiny model's training."""

import json
import math
import os
import signal
from collections.abc import Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mrcnn_zoo.checkpoint import Checkpointer, load_checkpoint
from mrcnn_zoo.data.records import ImageRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inspection.pictures import PredictionPicture
from mrcnn_zoo.structures import Detections, Sample, TrainingOutput
from mrcnn_zoo.training.hooks.best import BestMetric, SaveBest, StopEarly
from mrcnn_zoo.training.hooks.evaluation import Evaluate, validation_losses
from mrcnn_zoo.training.hooks.metrics import ReportUnusedParameters, WriteMetrics
from mrcnn_zoo.training.hooks.pictures import DrawPredictions, DrawTrainingBatches, listed_by_folder
from mrcnn_zoo.training.log_files import logging_to
from mrcnn_zoo.training.stopping import StopSignals
from mrcnn_zoo.training.writers import MetricWriter
from mrcnn_zoo.training.writers.files import JsonLinesWriter
from support.tiny_trainer import TinyModel, batches_from


class Scores:
    """A fake evaluation, which returns the given mask APs in order."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)
        self.calls = 0

    def __call__(self, model: nn.Module, previous: Any) -> dict[str, dict[str, float]]:
        self.calls += 1
        return {"bbox": {"AP": 1.0}, "segm": {"AP": self.values[self.calls - 1]}}


class ListWriter(MetricWriter):
    """Keeps what is written."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.results: list[tuple[int, Mapping[str, Any]]] = []
        self.images: list[tuple[int, Mapping[str, Path]]] = []
        self.advanced: list[int] = []

    def advance(self, iteration: int) -> None:
        self.advanced.append(iteration)

    def write(self, iteration: int, scalars: Mapping[str, float]) -> None:
        self.lines.append((iteration, dict(scalars)))

    def write_results(self, iteration: int, results: Mapping[str, Any]) -> None:
        self.results.append((iteration, results))

    def write_images(self, iteration: int, images: Mapping[str, Path]) -> None:
        self.images.append((iteration, images))


def test_parameters_without_gradient_are_named_once_in_the_log_file(
    make_trainer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = TinyModel()
    model.forgotten = nn.Linear(1, 1)
    with logging_to(tmp_path) as log:
        log.open()
        make_trainer(budget=2, model=model, hooks={"report": ReportUnusedParameters()}).train()
    text = (tmp_path / "log.txt").read_text()
    assert text.count("no loss depends on 2 parameters of the model") == 1
    assert text.count("forgotten.weight, forgotten.bias") == 1
    assert "forgotten" not in caplog.text


def test_best_checkpoint_is_kept_apart_from_the_last(make_trainer: Any, recorder: Any, tmp_path: Path) -> None:
    last: dict[int, str] = {}
    recorder.on_step = lambda trainer: last.update({trainer.iteration: Checkpointer(tmp_path).last_path().name})
    hooks = {
        "Evaluate": Evaluate(Scores(10.0, 30.0, 20.0), period=2),
        "SaveBest": SaveBest(Checkpointer(tmp_path), BestMetric()),
        "recorder": recorder,
    }
    trainer = make_trainer(budget=6, hooks=hooks, checkpoint_period=1)
    trainer.train()
    assert last[4] == "model_0000003.pth"
    assert load_checkpoint(tmp_path / "model_best.pth")["iteration"] == 4
    assert Checkpointer(tmp_path).last_path().name == "model_final.pth"
    assert trainer.results["segm"]["AP"] == 20.0


def test_training_stops_when_the_best_stays_the_best(make_trainer: Any) -> None:
    hooks = {
        "Evaluate": Evaluate(Scores(10.0, 30.0, 20.0, 30.0, 50.0), period=1),
        "StopEarly": StopEarly(BestMetric("segm/AP"), patience=2),
    }
    trainer = make_trainer(budget=100, hooks=hooks)
    trainer.train()
    assert trainer.iteration == 4
    assert "segm/AP has not been better than 30, reached after 2 iterations" in trainer.stop_reason
    assert trainer.stop_reason.endswith("add --resume SOLVER.EARLY_STOPPING.PATIENCE 4")
    assert trainer.has_stopped_early


def test_metric_without_objects_is_warned_of_once_and_does_not_stop_training(
    make_trainer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hooks = {
        "Evaluate": Evaluate(Scores(*[math.nan] * 4), period=1),
        "SaveBest": SaveBest(Checkpointer(tmp_path), BestMetric("segm/AP")),
        "StopEarly": StopEarly(BestMetric("segm/AP"), patience=2),
    }
    trainer = make_trainer(budget=4, hooks=hooks)
    trainer.train()
    assert trainer.iteration == 4
    assert not (tmp_path / "model_best.pth").exists()
    (message,) = [message for message in caplog.messages if "BEST_METRIC" in message]
    assert message.startswith("SOLVER.BEST_METRIC = segm/AP has no value: the test set has no such objects")


def test_patience_that_runs_out_at_the_end_has_not_stopped_early(make_trainer: Any) -> None:
    hooks = {
        "Evaluate": Evaluate(Scores(10.0, 30.0, 20.0, 30.0), period=1),
        "StopEarly": StopEarly(BestMetric("segm/AP"), patience=2),
    }
    trainer = make_trainer(budget=4, hooks=hooks)
    trainer.train()
    assert trainer.stop_reason
    assert not trainer.has_stopped_early


def test_early_stopping_state_survives_a_restart(make_trainer: Any, tmp_path: Path) -> None:
    def hooks(*scores: float) -> dict[str, Any]:
        return {
            "Evaluate": Evaluate(Scores(*scores), period=1),
            "StopEarly": StopEarly(BestMetric("segm/AP"), patience=3),
        }

    make_trainer(budget=3, hooks=hooks(30.0, 20.0, 20.0)).train()
    resumed = make_trainer(budget=100, hooks=hooks(20.0, 99.0))
    resumed.load_state_dict(load_checkpoint(tmp_path / "model_final.pth"))
    resumed.train()
    assert resumed.iteration == 4
    stopped = make_trainer(budget=100, hooks=hooks(99.0))
    stopped.load_state_dict(load_checkpoint(tmp_path / "model_final.pth"))
    stopped.train()
    assert stopped.iteration == 4


def test_patience_of_zero_never_stops(make_trainer: Any) -> None:
    hooks = {
        "Evaluate": Evaluate(Scores(*[5.0] * 9), period=1),
        "StopEarly": StopEarly(BestMetric("segm/AP"), patience=0),
    }
    trainer = make_trainer(budget=9, hooks=hooks)
    trainer.train()
    assert trainer.iteration == 9


@pytest.mark.parametrize(("period", "budget", "calls"), [(0, 5, 1), (2, 4, 2), (2, 5, 3), (10, 5, 1)])
def test_evaluations_are_periodic_and_once_at_the_end(make_trainer: Any, period: int, budget: int, calls: int) -> None:
    scores = Scores(*range(10))
    make_trainer(budget=budget, hooks={"Evaluate": Evaluate(scores, period=period)}).train()
    assert scores.calls == calls


def test_missing_evaluation_of_a_killed_run_is_done_after_resume(make_trainer: Any, tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def die(model: nn.Module, previous: Any) -> Any:
        raise KilledError

    with pytest.raises(KilledError):
        make_trainer(hooks={"Evaluate": Evaluate(die, period=4)}, checkpoint_period=4).train()
    scores = Scores(1.0, 2.0, 3.0)
    resumed = make_trainer(budget=8, hooks={"Evaluate": Evaluate(scores, period=4)})
    resumed.load_state_dict(load_checkpoint(tmp_path / "model_0000003.pth"))
    resumed.train()
    assert scores.calls == 2


def test_finished_run_that_is_resumed_keeps_its_results(make_trainer: Any, tmp_path: Path) -> None:
    make_trainer(budget=4, hooks={"Evaluate": Evaluate(Scores(8.0), period=4)}).train()
    resumed = make_trainer(budget=4, hooks={"Evaluate": Evaluate(Scores(), period=4)})
    resumed.load_state_dict(load_checkpoint(tmp_path / "model_final.pth"))
    resumed.train()
    assert resumed.results["segm"]["AP"] == 8.0


def test_finished_run_that_is_resumed_with_another_test_set_is_evaluated_on_it(
    make_trainer: Any, tmp_path: Path
) -> None:
    make_trainer(budget=4, hooks={"Evaluate": Evaluate(Scores(8.0), period=4, datasets=["a"])}).train()
    resumed = make_trainer(budget=4, hooks={"Evaluate": Evaluate(Scores(5.0), period=4, datasets=["b"])})
    resumed.load_state_dict(load_checkpoint(tmp_path / "model_final.pth"))
    resumed.train()
    assert resumed.results["segm"]["AP"] == 5.0


@pytest.mark.parametrize(
    ("name", "values", "best"),
    [
        ("auto", [1.0, 3.0, 2.0], 2),
        ("val/total_loss", [3.0, 1.0, 2.0], 2),
        ("auto", [math.nan, 1.0, math.nan], 2),
        ("auto", [2.0, 2.0], 1),
    ],
)
def test_best_metric_finds_the_best(name: str, values: list[float], best: int) -> None:
    metric = BestMetric(name)
    for iteration, value in enumerate(values, start=1):
        metric.update({"bbox": {"AP": 0.0}, "segm": {"AP": value}, "val": {"total_loss": value}}, iteration)
    assert metric.iteration == best


def test_automatic_metric_is_boxes_where_there_are_no_masks_and_the_first_of_several_sets() -> None:
    metric = BestMetric()
    metric.update({"bbox": {"AR": 5.0, "AP": 4.0}}, 1)
    assert (metric.name, metric.value) == ("bbox/AP", 4.0)
    metric = BestMetric()
    metric.update({"a/bbox": {"AP": 4.0}, "a/segm": {"AP": 3.0}, "b/segm": {"AP": 9.0}}, 1)
    assert (metric.name, metric.value) == ("a/segm/AP", 3.0)


def test_automatic_metric_of_proposals_is_their_recall() -> None:
    metric = BestMetric()
    metric.update({"val": {"total_loss": 1.0}, "box_proposals": {"AR@100": 40.0, "AR@1000": 60.0}}, 1)
    assert (metric.name, metric.value) == ("box_proposals/AR@1000", 60.0)


def test_unknown_best_metric_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"SOLVER.BEST_METRIC = 'segm/ap'.*Did you mean 'segm/AP'"):
        BestMetric("segm/ap").update({"segm": {"AP": 1.0}}, 1)


def test_metrics_are_written_each_period_and_at_the_end(make_trainer: Any, recorder: Any) -> None:
    writer = ListWriter()
    make_trainer(budget=5, hooks={"recorder": recorder, "WriteMetrics": WriteMetrics([writer], period=2)}).train()
    assert [iteration for iteration, _ in writer.lines] == [1, 3, 4]
    losses = [line["total_loss"] for _, line in writer.lines]
    assert losses == pytest.approx([sum(recorder.losses[:2]) / 2, sum(recorder.losses[2:4]) / 2, recorder.losses[4]])
    assert writer.advanced == [0, 1, 2, 3, 4]
    last = writer.lines[-1][1]
    assert last["lr"] == recorder.rates[-1]
    assert last["eta_seconds"] == 0
    assert last["images_per_second"] == pytest.approx(2 / last["time"])
    assert last["memory_mb"] > 1
    assert last["data_time"] <= last["time"]


TIMES = {"time", "data_time", "images_per_second", "eta_seconds", "memory_mb"}


def lines_of(path: Path) -> list[dict[str, float]]:
    lines = map(json.loads, path.read_text().splitlines())
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


@pytest.mark.parametrize("is_killed", [False, True])
def test_lines_of_a_resumed_run_cover_the_same_steps(
    make_trainer: Any, recorder: Any, tmp_path: Path, is_killed: bool
) -> None:
    # Lines after the steps 3, 6, 9 and 10. One run is interrupted after step 5, another is killed after step 8, when
    # it has written a line more than at its checkpoint of step 5.
    def train(name: str, on_step: Any, **state: Any) -> None:
        recorder.on_step = on_step
        writer = JsonLinesWriter(tmp_path / name / "metrics.json", start_iteration=state.get("iteration", 0))
        with closing(writer):
            hooks = {"recorder": recorder, "WriteMetrics": WriteMetrics([writer], period=3)}
            # The checkpoint comes after the line, as in a run.
            trainer = make_trainer(noise=1.0, hooks=hooks, folder=tmp_path / name, checkpoint_period=5)
            trainer.hooks = {key: trainer.hooks[key] for key in ("recorder", "WriteMetrics", "SaveCheckpoints")}
            if state:
                trainer.load_state_dict(state)
            with StopSignals() as signals:
                trainer.train(signals=signals)

    def disturb(trainer: Any) -> None:
        if is_killed and trainer.iteration == 8:
            raise RuntimeError("killed")
        if not is_killed and trainer.iteration == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    (tmp_path / "whole").mkdir()
    (tmp_path / "disturbed").mkdir()
    train("whole", lambda trainer: None)
    with pytest.raises(RuntimeError, match="killed") if is_killed else nullcontext():
        train("disturbed", disturb)
    train("disturbed", lambda trainer: None, **load_checkpoint(Checkpointer(tmp_path / "disturbed").last_path()))
    whole = lines_of(tmp_path / "whole" / "metrics.json")
    assert [line["iteration"] for line in whole] == [2, 5, 8, 9]
    assert {"total_loss", "loss_square", "largest_error", "lr"} <= whole[0].keys()
    assert lines_of(tmp_path / "disturbed" / "metrics.json") == whole


def test_results_and_validation_losses_are_written_apart(make_trainer: Any) -> None:
    writer = ListWriter()
    results = {"segm": {"AP": 1.0}, "val": {"total_loss": 2.0}}
    hooks = {
        "WriteMetrics": WriteMetrics([writer], period=10),
        "Evaluate": Evaluate(lambda model, previous: results, period=0),
    }
    make_trainer(budget=3, hooks=hooks).train()
    assert writer.results == [(2, {"segm": {"AP": 1.0}})]
    assert writer.lines[-1] == (2, {"val/total_loss": 2.0})


def test_periodic_checkpoints_are_pruned(make_trainer: Any, tmp_path: Path) -> None:
    from mrcnn_zoo.training.hooks.checkpoints import SaveCheckpoints

    saving = SaveCheckpoints(Checkpointer(tmp_path), period=2, keep=2)
    make_trainer(budget=9, hooks={"SaveCheckpoints": saving}).train()
    names = sorted(path.name for path in tmp_path.glob("*.pth"))
    assert names == ["model_0000005.pth", "model_0000007.pth", "model_final.pth"]


def test_first_training_batches_are_drawn(make_trainer: Any, tmp_path: Path) -> None:
    drawn: list[tuple[list[str], str]] = []

    def draw(samples: list[Sample], path: Path) -> Path:
        drawn.append(([sample.file_name for sample in samples], path.name))
        return path

    writer = ListWriter()
    hook = DrawTrainingBatches(draw, folder=tmp_path, writers=[writer], num_first=1, period=3)
    make_trainer(budget=5, hooks={"DrawTrainingBatches": hook}).train()
    assert drawn == [
        (["image_0.png", "image_1.png"], "train_batch_0000000.png"),
        (["image_6.png", "image_7.png"], "train_batch_0000003.png"),
    ]
    assert [iteration for iteration, _ in writer.images] == [0, 3]


def test_each_picture_of_the_last_evaluation_is_listed_at_the_end(
    make_trainer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def pictures(**names: str) -> dict[str, PredictionPicture]:
        record = ImageRecord(1, None, (8, 8), ())  # type: ignore[arg-type]
        found = Detections((8, 8), torch.zeros(0, 4), scores=torch.zeros(0), classes=torch.zeros(0, dtype=torch.int64))
        return {key: PredictionPicture(tmp_path / name, record, found, (), ()) for key, name in names.items()}

    drawn = iter([pictures(a="old.png"), pictures(a="1.png", b="2.png")])
    writer = ListWriter()
    hooks = {
        "Evaluate": Evaluate(Scores(1.0, 2.0), period=1),
        "DrawPredictions": DrawPredictions(lambda model: next(drawn), writers=[writer]),
    }
    with caplog.at_level("INFO"):
        make_trainer(budget=2, hooks=hooks).train()
    assert caplog.messages[-1] == f"pictures of predictions: {tmp_path}: 1.png, 2.png"
    assert writer.images == [(0, {"a": tmp_path / "old.png"}), (1, {"a": tmp_path / "1.png", "b": tmp_path / "2.png"})]


def test_pictures_are_listed_by_folder() -> None:
    assert listed_by_folder([Path("a/1.png"), Path("a/2.png"), Path("b/3.png")]) == "a: 1.png, 2.png; b: 3.png"
    assert listed_by_folder([]) == ""


def test_validation_loss_is_the_mean_over_images() -> None:
    model = TinyModel()
    whole = next(batches_from(0, size=3))
    expected = {name: loss.item() for name, loss in model.losses(whole).losses.items()}
    losses = validation_losses(model, [whole[:2], whole[2:]])
    assert losses == pytest.approx({**expected, "total_loss": sum(expected.values())})


def test_validation_loss_of_no_image_is_empty() -> None:
    assert validation_losses(TinyModel(), []) == {}


def test_validation_loss_leaves_model_and_generators_as_they_were() -> None:
    class WithStatistics(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def losses(self, samples: list[Sample]) -> TrainingOutput:
            means = torch.stack([sample.image.float().mean(dim=(1, 2)) for sample in samples])
            return TrainingOutput({"loss": (self.norm(means) * torch.rand(3)).sum()})

    model = WithStatistics().train()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    losses = [validation_losses(model, [next(batches_from(0))]) for _ in range(2)]
    assert torch.equal(torch.rand(1), expected)
    assert losses[0] == losses[1]
    assert int(model.norm.num_batches_tracked) == 0
    assert model.training
    assert model.norm.training
