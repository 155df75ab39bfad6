"""The interface of hooks, which are called at fixed points of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mrcnn_zoo.checkpoint import Checkpointer
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.structures import Sample, TrainingOutput
from mrcnn_zoo.training.writers import MetricWriter

if TYPE_CHECKING:
    from mrcnn_zoo.training.trainer import Trainer

Results = Mapping[str, Mapping[str, float]]  # {"bbox": {"AP": ...}, "segm": {...}}


@dataclass(frozen=True)
class StepReport:
    """Metrics and times of one training step.

    Args:
        iteration: its number, from 0.
        metrics: detached scalars on their device: losses, their total, the model's metrics.
        learning_rate: of the first parameter group.
        num_images: of this process.
        seconds: of the whole step; on an accelerator, until its work was queued.
        data_seconds: of it, spent waiting for data.
    """

    iteration: int
    metrics: Mapping[str, Tensor]
    learning_rate: float
    num_images: int
    seconds: float
    data_seconds: float


class Hook:
    """Does nothing; a hook overrides the methods it needs.

    All processes call all hooks in the same order, so a hook may use collectives. One that writes files checks
    `is_main_process()`.
    """

    def before_train(self, trainer: Trainer) -> None:
        """Called once, before the first step of this session, after a checkpoint was loaded."""

    def before_step(self, trainer: Trainer, batches: list[list[Sample]]) -> None:
        """Called before each step.

        Args:
            trainer: of the run.
            batches: samples of the step, one list per forward pass.
        """

    def after_backward(self, trainer: Trainer, batches: list[list[Sample]], outputs: list[TrainingOutput]) -> None:
        """Called when the gradients are computed and the weights unchanged; after an error they stay so.

        Args:
            trainer: its `updater` has the parameters.
            batches: samples of the step, one list per forward pass.
            outputs: losses and metrics, detached, one per batch.
        """

    def settle(self, trainer: Trainer) -> None:
        """Called before weights or metrics are read, at the same points on all processes.

        A check of the last step that was put off, to spare a wait for the device, is made here.

        Args:
            trainer: of the run.
        """

    def on_floating_point_error(self, trainer: Trainer, batches: list[list[Sample]], error: FloatingPointError) -> None:
        """Called when the model of this process raises FloatingPointError for non-finite numbers; training ends.

        Args:
            trainer: of the run.
            batches: samples of the step, one list per forward pass.
            error: of the model.
        """

    def after_step(self, trainer: Trainer, report: StepReport) -> None:
        """Called after each step, which `trainer.iteration` counts already.

        Args:
            trainer: of the run.
            report: of the step.
        """

    def after_evaluation(self, trainer: Trainer, results: Results) -> None:
        """Called after each evaluation, periodic or final.

        Args:
            trainer: of the run.
            results: metrics by task.
        """

    def after_train(self, trainer: Trainer) -> None:
        """Called once, when training has ended or was interrupted (`trainer.interrupted`); not after an error."""

    def state_dict(self) -> dict[str, Any]:
        """The state for checkpoints; plain values and tensors only."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of `state_dict`.

        Args:
            state: empty where the checkpoint has none.
        """


@dataclass(frozen=True)
class Workspace:
    """Folder, writers and data of a run, for the builders of hooks.

    Args:
        output_dir: of the run.
        checkpointer: of its folder.
        writers: none on processes other than the first.
        train_datasets: with one list of classes.
        test_datasets: of DATASETS.TEST.
    """

    output_dir: Path
    checkpointer: Checkpointer
    writers: Sequence[MetricWriter]
    train_datasets: Sequence[Dataset]
    test_datasets: Sequence[Dataset]
