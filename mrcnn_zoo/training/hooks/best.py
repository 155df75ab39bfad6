"""The best weights by a metric, and early stopping."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrcnn_zoo.checkpoint import Checkpointer
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.distributed.processes import is_main_process
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.evaluation.tables import AUTO_ORDER
from mrcnn_zoo.registries import HOOKS
from mrcnn_zoo.registry import did_you_mean
from mrcnn_zoo.training.hook import Hook, Results, Workspace
from mrcnn_zoo.training.trainer import Trainer
from mrcnn_zoo.training.writers import MetricWriter
from mrcnn_zoo.training.writers.contract import BEST, FINAL, flattened

AUTO = "auto"


class BestMetric:
    """Follows one result over the evaluations of a run.

    Args:
        name: task and metric, e.g. "segm/AP" or "val/total_loss"; "auto" takes segm/AP where there is one, else
            keypoints/AP, else bbox/AP, else box_proposals/AR@1000, else classification/top1. Of a loss the lowest value
            is the best.
    """

    def __init__(self, name: str = AUTO) -> None:
        self.name = name
        self.value = math.nan  # the best so far
        self.iteration = 0  # finished steps at that evaluation
        self.results: dict[str, float] = {}  # all of that evaluation, by task and metric
        self.evaluations_since = 0

    def update(self, results: Results, iteration: int) -> bool:
        """Update with an evaluation; returns whether it is the best so far.

        Args:
            results: metrics by task.
            iteration: finished steps.

        Raises:
            UserError: the results do not hold the metric.
        """
        if self.name == AUTO:
            self.name = _automatic_name(results)
        value = _look_up(results, self.name)
        if self._is_better(value):
            self.value, self.iteration, self.evaluations_since = value, iteration, 0
            self.results = flattened(results)
            return True
        self.evaluations_since += 1
        return False

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # The history of another metric does not count.
        if state and self.name in (AUTO, state["name"]):
            vars(self).update(state)

    def _is_better(self, value: float) -> bool:
        if math.isnan(value):  # no ground truth of that kind
            return False
        if math.isnan(self.value):
            return True
        return value < self.value if "loss" in self.name else value > self.value


def _automatic_name(results: Results) -> str:
    known = _names(results)
    # With several test sets the tasks are called "<dataset>/segm"; the first dataset decides.
    for wanted in AUTO_ORDER:
        for name in known:
            if name == wanted or name.endswith(f"/{wanted}"):
                return name
    return known[0] if known else AUTO


def _look_up(results: Results, name: str) -> float:
    task, _, metric = name.rpartition("/")
    try:
        return float(results[task][metric])
    except KeyError:
        known = _names(results)
        raise UserError(
            f"SOLVER.BEST_METRIC = {name!r} is not among the results of the evaluation: {', '.join(known)}."
            f"{did_you_mean(name, known)}"
        ) from None


def _names(results: Results) -> list[str]:
    return [f"{task}/{metric}" for task, metrics in results.items() for metric in metrics]


logger = logging.getLogger(__name__)


class SaveBest(Hook):
    """Writes `model_best` after each evaluation that is the best so far; a run is resumed from the last checkpoint.

    Args:
        checkpointer: of the run's folder.
        best: metric and its history.
    """

    def __init__(self, checkpointer: Checkpointer, best: BestMetric) -> None:
        self._checkpointer = checkpointer
        self._best = best

    @property
    def best(self) -> BestMetric:
        """The metric and its history."""
        return self._best

    def after_evaluation(self, trainer: Trainer, results: Results) -> None:
        if not self._best.update(results, trainer.iteration):
            self._warn_of_no_value()
            return
        state = trainer.state_dict()
        if is_main_process():
            path = self._checkpointer.save_best(state)
            logger.info("best %s so far: %.4g; saved %s", self._best.name, self._best.value, path)

    def _warn_of_no_value(self) -> None:
        if math.isnan(self._best.value) and self._best.evaluations_since == 1:  # the first evaluation of all
            logger.warning(
                "SOLVER.BEST_METRIC = %s has no value: the test set has no such objects. No weights are kept as the "
                "best, and SOLVER.EARLY_STOPPING has no effect",
                self._best.name,
            )

    def state_dict(self) -> dict[str, Any]:
        return self._best.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best.load_state_dict(state)


class StopEarly(Hook):
    """Ends training after a number of evaluations without a better result.

    Args:
        best: metric and its history.
        patience: number of evaluations; 0 never stops.
    """

    def __init__(self, best: BestMetric, *, patience: int) -> None:
        self._best = best
        self._patience = patience

    def before_train(self, trainer: Trainer) -> None:
        self._stop_if_exhausted(trainer)

    def after_evaluation(self, trainer: Trainer, results: Results) -> None:
        self._best.update(results, trainer.iteration)
        self._stop_if_exhausted(trainer)

    def state_dict(self) -> dict[str, Any]:
        return self._best.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best.load_state_dict(state)

    def _stop_if_exhausted(self, trainer: Trainer) -> None:
        has_value = not math.isnan(self._best.value)
        if has_value and 0 < self._patience <= self._best.evaluations_since:
            trainer.stop(
                f"{self._best.name} has not been better than {self._best.value:.4g}, reached after "
                f"{counted(self._best.iteration, 'iteration')}, in "
                f"{counted(self._best.evaluations_since, 'evaluation')} (SOLVER.EARLY_STOPPING.PATIENCE = "
                f"{self._patience}). To continue, add --resume SOLVER.EARLY_STOPPING.PATIENCE "
                f"{self._best.evaluations_since + self._patience}"
            )


class WriteCheckpoints(Hook):
    """Passes the best and the final checkpoint to the writers, when training has ended and all files are written.

    Args:
        checkpointer: of the run's folder.
        writers: of the checkpoints.
    """

    def __init__(self, checkpointer: Checkpointer, *, writers: Sequence[MetricWriter]) -> None:
        self._checkpointer = checkpointer
        self._writers = writers

    def after_train(self, trainer: Trainer) -> None:
        if trainer.interrupted or not self._writers:
            return
        saving = trainer.hooks.get("SaveBest")
        best = saving.best if isinstance(saving, SaveBest) and not math.isnan(saving.best.value) else None
        roles = [FINAL]
        if best is not None and best.iteration == trainer.iteration:  # the same weights: one upload
            roles = [BEST, FINAL]
        elif best is not None and (path := self._checkpointer.best_path()).is_file():
            self._write(path, best.iteration, [BEST], best.results)
        if (path := self._checkpointer.last_path()).is_file():
            self._write(path, trainer.iteration, roles, flattened(trainer.results))

    def _write(self, path: Path, iteration: int, roles: Sequence[str], metrics: Mapping[str, float]) -> None:
        for writer in self._writers:
            writer.write_checkpoint(path, iteration=iteration - 1, roles=roles, metrics=metrics)


@HOOKS.register("WriteCheckpoints")
def build_write_checkpoints(cfg: CfgNode, workspace: Workspace) -> WriteCheckpoints:  # noqa: ARG001
    return WriteCheckpoints(workspace.checkpointer, writers=workspace.writers)


@HOOKS.register("SaveBest")
def build_save_best(cfg: CfgNode, workspace: Workspace) -> SaveBest:
    return SaveBest(workspace.checkpointer, BestMetric(cfg.SOLVER.BEST_METRIC))


@HOOKS.register("StopEarly")
def build_stop_early(cfg: CfgNode, workspace: Workspace) -> StopEarly:  # noqa: ARG001
    return StopEarly(BestMetric(cfg.SOLVER.BEST_METRIC), patience=cfg.SOLVER.EARLY_STOPPING.PATIENCE)
