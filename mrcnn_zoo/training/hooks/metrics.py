"""Means of losses, metrics and times for the writers, and a report of unused parameters."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.distributed.processes import gather_on_main_process, is_main_process, rank, world_size
from mrcnn_zoo.errors import counted
from mrcnn_zoo.ops.memory import peak_memory_mb
from mrcnn_zoo.registries import HOOKS
from mrcnn_zoo.structures import Sample, TrainingOutput
from mrcnn_zoo.training.hook import Hook, Results, StepReport, Workspace
from mrcnn_zoo.training.hooks.evaluation import is_validation_task
from mrcnn_zoo.training.hooks.nonfinite import shortened
from mrcnn_zoo.training.log_files import log_to_files
from mrcnn_zoo.training.trainer import Trainer
from mrcnn_zoo.training.writers import MetricWriter

Totals = dict[str, tuple[float, int]]  # name -> (sum, count)


class MetricAccumulator:
    """Keeps the scalars of each step on their device, and copies them to the host once per mean."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = {}

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Add the scalars of one step; a step may lack some names.

        Args:
            metrics: scalars by name.
        """
        for name, value in metrics.items():
            self._values.setdefault(name, []).append(value.detach())

    def pop_means(self) -> dict[str, float]:
        """Means since the last call, over the steps and processes with a value.

        A collective: every process must call it at the same iteration.
        """
        totals = self._pop_totals()
        if world_size() > 1:
            # As objects: processes may have seen different names, e.g. one without any foreground.
            of_processes: list[Totals] = [{}] * world_size()
            dist.all_gather_object(of_processes, totals)
            totals = _added_up(of_processes)
        return {name: total / count for name, (total, count) in totals.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """The values since the last means, of this process: (n,) for each name, on the CPU."""
        return {name: torch.stack(values).to("cpu") for name, values in self._values.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the values of `state_dict`.

        Args:
            state: (n,) for each name.
        """
        self._values = {name: list(values.unbind()) for name, values in state.items()}

    def _pop_totals(self) -> Totals:
        if not self._values:
            return {}
        names, counts = list(self._values), [len(values) for values in self._values.values()]
        # Stacked by name first: dtypes differ between names, and float16 sums would overflow.
        sums = torch.stack([_sum(values) for values in self._values.values()]).tolist()
        self._values = {}
        return {name: (total, count) for name, total, count in zip(names, sums, counts, strict=True)}


def joined(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The values of several `state_dict`s as those of one.

    Args:
        states: one per process.
    """
    names = dict.fromkeys(name for state in states for name in state)
    return {name: torch.cat([state[name] for state in states if name in state]) for name in names}


def _sum(values: list[Tensor]) -> Tensor:
    device = values[-1].device  # those from a checkpoint lie on the CPU
    return torch.stack([value.to(device) for value in values]).float().sum()


def _added_up(of_processes: list[Totals]) -> Totals:
    added: Totals = {}
    for totals in of_processes:
        for name, (total, count) in totals.items():
            before, count_before = added.get(name, (0.0, 0))
            added[name] = (before + total, count_before + count)
    return added


logger = logging.getLogger(__name__)


class ReportUnusedParameters(Hook):
    """Logs the trained parameters without gradient after the first step of a session."""

    def __init__(self) -> None:
        self._is_reported = False

    def after_backward(self, trainer: Trainer, batches: list[list[Sample]], outputs: list[TrainingOutput]) -> None:  # noqa: ARG002
        if self._is_reported:
            return
        self._is_reported = True
        names = trainer.updater.names_without_gradient(trainer.model)
        if names:
            # In the log file alone: that a backbone computes a map that no head reads is common.
            log_to_files(
                logger,
                f"no loss depends on {counted(len(names), 'parameter')} of the model, which stay as they are: "
                f"{shortened(names)}",
            )


@HOOKS.register("ReportUnusedParameters")
def build_report_unused_parameters(cfg: CfgNode, workspace: Workspace) -> ReportUnusedParameters:  # noqa: ARG001
    return ReportUnusedParameters()


class WriteMetrics(Hook):
    """Accumulates the metrics of the steps, and writes their means over a period and over all processes.

    The values since the last line are part of checkpoints, so the lines of a resumed run cover the same steps as those
    of an uninterrupted one.

    Args:
        writers: none on processes other than the first.
        period: iterations between two lines.
    """

    def __init__(self, writers: Sequence[MetricWriter], *, period: int) -> None:
        self._writers = writers
        self._period = period
        self._means = MetricAccumulator()
        self._reports: list[StepReport] = []  # since the last line

    def after_step(self, trainer: Trainer, report: StepReport) -> None:
        self._means.add(report.metrics)
        self._reports.append(replace(report, metrics={}))
        if trainer.iteration % self._period == 0:
            self._write(trainer)
        for writer in self._writers:
            writer.advance(report.iteration)

    def after_evaluation(self, trainer: Trainer, results: Results) -> None:
        losses = {
            f"{task}/{name}": value
            for task, metrics in results.items()
            if is_validation_task(task)
            for name, value in metrics.items()
        }
        metrics = {task: metrics for task, metrics in results.items() if not is_validation_task(task)}
        for writer in self._writers:
            if losses:
                writer.write(trainer.iteration - 1, losses)
            if metrics:
                writer.write_results(trainer.iteration - 1, metrics)

    def after_train(self, trainer: Trainer) -> None:
        if self._reports and not trainer.interrupted:  # a resumed run completes the line
            self._write(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {
            "values": gather_on_main_process(self._means.state_dict()),  # of each process
            "reports": [asdict(report) for report in self._reports],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        values = state.get("values", [])
        if len(values) == world_size():
            self._means.load_state_dict(values[rank()])
        else:  # another number of processes: the first takes all values
            self._means.load_state_dict(joined(values) if is_main_process() else {})
        self._reports = [StepReport(**report) for report in state.get("reports", [])]

    def _write(self, trainer: Trainer) -> None:
        trainer.settle()
        count = len(self._reports)
        seconds = sum(report.seconds for report in self._reports) / count
        images = sum(report.num_images for report in self._reports) / count * world_size()
        scalars = {
            **self._means.pop_means(),
            "lr": self._reports[-1].learning_rate,
            "time": seconds,
            "data_time": sum(report.data_seconds for report in self._reports) / count,
            "images_per_second": images / seconds,
            "eta_seconds": trainer.plan.budget.seconds_left(trainer.iteration, trainer.elapsed, seconds),
            "memory_mb": peak_memory_mb(next(trainer.model.parameters()).device),
        }
        self._reports.clear()
        for writer in self._writers:
            writer.write(trainer.iteration - 1, scalars)


@HOOKS.register("WriteMetrics")
def build_write_metrics(cfg: CfgNode, workspace: Workspace) -> WriteMetrics:
    return WriteMetrics(workspace.writers, period=cfg.LOG_PERIOD)
