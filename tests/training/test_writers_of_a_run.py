"""How a run uses its writers: the final checkpoint, the end, and an evaluation that is done twice."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mrcnn_zoo.checkpoint import Checkpointer
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.training import run
from mrcnn_zoo.training.hooks.best import BestMetric, SaveBest, WriteCheckpoints
from mrcnn_zoo.training.hooks.checkpoints import SaveCheckpoints
from mrcnn_zoo.training.hooks.evaluation import Evaluate
from mrcnn_zoo.training.writers import MetricWriter, StageOfRun, closing
from mrcnn_zoo.training.writers.files import CsvWriter, JsonLinesWriter
from mrcnn_zoo.training.writers.trackers import WandbWriter


class Witness(MetricWriter):
    """Records checkpoints and how it was closed."""

    def __init__(self) -> None:
        self.checkpoints: list[tuple[str, int, list[str], dict[str, float]]] = []
        self.failures: list[bool] = []

    def write_checkpoint(
        self, path: Path, *, iteration: int, roles: Sequence[str], metrics: Mapping[str, float]
    ) -> None:
        assert path.is_file()
        self.checkpoints.append((path.name, iteration, list(roles), dict(metrics)))

    def close(self, *, failed: bool = False) -> None:
        self.failures.append(failed)


class WandbRun:
    """A fake W&B run."""

    def __init__(self) -> None:
        self.exit_codes: list[int] = []
        self.is_preempting = False

    def mark_preempting(self) -> None:
        self.is_preempting = True

    def define_metric(self, name: str, step_metric: str = "") -> None:
        pass

    settings = SimpleNamespace(mode="online", sync_dir="wandb/run-1")

    def finish(self, exit_code: int) -> None:
        self.exit_codes.append(exit_code)


def test_writers_get_the_final_checkpoint_and_no_other(make_trainer: Any, tmp_path: Path) -> None:
    witness = Witness()
    hooks = {
        "SaveCheckpoints": SaveCheckpoints(Checkpointer(tmp_path), period=2),
        "WriteCheckpoints": WriteCheckpoints(Checkpointer(tmp_path), writers=[witness]),
    }
    make_trainer(budget=4, hooks=hooks).train()
    assert witness.checkpoints == [("model_final.pth", 3, ["final"], {})]
    assert (tmp_path / "model_0000001.pth").is_file()


@pytest.mark.parametrize(
    ("values", "written"),
    [
        (
            (1.0, 3.0, 2.0),
            [
                ("model_best.pth", 1, ["best"], {"segm/AP": 3.0}),
                ("model_final.pth", 2, ["final"], {"segm/AP": 2.0}),
            ],
        ),
        ((1.0, 2.0, 3.0), [("model_final.pth", 2, ["best", "final"], {"segm/AP": 3.0})]),
    ],
)
def test_writers_get_the_best_checkpoint_with_the_results_of_its_evaluation(
    values: tuple[float, ...], written: list[Any], make_trainer: Any, tmp_path: Path
) -> None:
    witness, remaining = Witness(), list(values)
    checkpointer = Checkpointer(tmp_path)
    hooks = {
        "SaveCheckpoints": SaveCheckpoints(checkpointer, period=0),
        "Evaluate": Evaluate(lambda model, previous: results(remaining.pop(0)), period=1),  # noqa: ARG005
        "SaveBest": SaveBest(checkpointer, BestMetric()),
        "WriteCheckpoints": WriteCheckpoints(checkpointer, writers=[witness]),
    }
    make_trainer(budget=3, hooks=hooks).train()
    assert witness.checkpoints == written


def test_no_checkpoint_is_the_best_where_the_metric_has_no_value(make_trainer: Any, tmp_path: Path) -> None:
    witness, checkpointer = Witness(), Checkpointer(tmp_path)
    hooks = {
        "SaveCheckpoints": SaveCheckpoints(checkpointer, period=0),
        "Evaluate": Evaluate(lambda model, previous: results(math.nan), period=1),  # noqa: ARG005
        "SaveBest": SaveBest(checkpointer, BestMetric()),
        "WriteCheckpoints": WriteCheckpoints(checkpointer, writers=[witness]),
    }
    make_trainer(budget=2, hooks=hooks).train()
    assert [roles for _, _, roles, _ in witness.checkpoints] == [["final"]]


def test_writers_are_told_whether_the_run_failed() -> None:
    first, second = Witness(), Witness()
    with closing([first, second]):
        pass
    with pytest.raises(KeyboardInterrupt), closing([first, second]):
        raise KeyboardInterrupt
    with closing([]):
        pass
    assert first.failures == second.failures == [False, True]


def test_a_writer_that_cannot_close_leaves_none_open() -> None:
    class Broken(MetricWriter):
        def close(self, *, failed: bool = False) -> None:  # noqa: ARG002
            raise OSError("disk full")

    witness = Witness()
    with pytest.raises(OSError, match="disk full"), closing([witness, Broken(), witness]):
        pass
    assert len(witness.failures) == 2


@pytest.mark.parametrize(("failed", "exit_code"), [(False, 0), (True, 1)])
def test_wandb_shows_a_failed_run_as_failed(failed: bool, exit_code: int) -> None:
    wandb_run = WandbRun()
    WandbWriter(wandb_run).close(failed=failed)
    assert wandb_run.exit_codes == [exit_code]


def test_wandb_run_of_several_stages_ends_with_the_last_or_with_an_interruption() -> None:
    for is_last, signal_number, exit_codes in ((False, 0, []), (True, 0, [0]), (False, 15, [143])):
        wandb_run = WandbRun()
        stage = StageOfRun("heads", 1, Path("run"), is_last=is_last)
        writer = WandbWriter(wandb_run, stage=stage)
        if signal_number:
            writer.interrupt(signal_number)
        writer.close()
        writer.close()
        assert wandb_run.exit_codes == exit_codes
        assert wandb_run.is_preempting == bool(signal_number)


def results(value: float) -> Mapping[str, Mapping[str, float]]:
    return {"segm": {"AP": value}}


def test_json_has_one_line_of_results_when_a_resumed_run_evaluates_its_checkpoint_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    first = JsonLinesWriter(path)
    first.write_results(49, results(1.0))
    first.write(99, {"lr": 0.5})
    first.write_results(99, results(2.0))
    first.close()
    resumed = JsonLinesWriter(path, start_iteration=100)
    resumed.write_results(99, results(3.0))
    resumed.write(109, {"lr": 0.25})
    resumed.write_results(109, results(4.0))
    resumed.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"iteration": 49, "segm/AP": 1.0},
        {"iteration": 99, "lr": 0.5},
        {"iteration": 99, "segm/AP": 3.0},
        {"iteration": 109, "lr": 0.25},
        {"iteration": 109, "segm/AP": 4.0},
    ]


def test_csv_replaces_the_row_of_an_evaluation_done_again_and_keeps_its_metrics(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    first = CsvWriter(path)
    first.write_results(49, results(1.0))
    first.write(99, {"lr": 0.5})
    first.write_results(99, results(2.0))
    CsvWriter(path, start_iteration=100).write_results(99, results(3.0))
    assert path.read_text().splitlines() == ["iteration,segm/AP,lr", "49,1.0,", "99,3.0,0.5"]


def test_evaluation_alone_refuses_weights_for_other_classes(tiny_config: Any, tmp_path: Path) -> None:
    run(tiny_config("SOLVER.MAX_ITER=1", "DATASETS.TEST=[]"))
    weights = ("MODEL.WEIGHTS", str(tmp_path / "output" / "model_final.pth"))
    digits = ("DATASETS.TEST=['digits_val']", "MODEL.ROI_HEADS.NUM_CLASSES=10")
    with pytest.raises(UserError, match=r"NUM_CLASSES = 10, but .* was trained on 3 classes"):
        run(tiny_config(*weights, *digits, f"OUTPUT_DIR={tmp_path / 'evaluation'}"), eval_only=True)
