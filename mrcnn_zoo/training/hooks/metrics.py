"""Hands the means of losses, metrics and times to the writers every few iterations."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.ops.processes import gather_on_main_process, rank, world_size
from mrcnn_zoo.registries import HOOKS
from mrcnn_zoo.training.hook import Hook, Results, StepReport
from mrcnn_zoo.training.memory import peak_memory_mb
from mrcnn_zoo.training.metrics import MetricAccumulator, joined
from mrcnn_zoo.training.trainer import Trainer
from mrcnn_zoo.training.validation import is_validation_task
from mrcnn_zoo.training.workspace import Workspace
from mrcnn_zoo.training.writers import MetricWriter


class WriteMetrics(Hook):
    """Accumulates what the steps return, and writes the means over a period and over all processes.

    What has been accumulated since the last line is part of checkpoints, so that the lines of a resumed run cover the
    same steps as those of a run that was never interrupted.

    Args:
        writers: none on processes other than the first; these accumulate all the same.
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
        if self._reports and not trainer.interrupted:  # else the line is completed when the run goes on
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
        else:  # as many processes as then there are not: the first takes over from all of them
            self._means.load_state_dict(joined(values) if rank() == 0 else {})
        self._reports = [StepReport(**report) for report in state.get("reports", [])]

    def _write(self, trainer: Trainer) -> None:
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
