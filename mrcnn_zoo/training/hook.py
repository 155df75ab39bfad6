"""What a hook is: something to do at fixed moments of training."""

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
    """What one training step did."""

    iteration: int  # its number, from 0
    metrics: Mapping[str, Tensor]  # detached scalars where they were computed: losses, their total, the model's metrics
    learning_rate: float  # of the first parameter group
    num_images: int  # of this process
    seconds: float  # the whole step; on an accelerator, until its work was handed over
    data_seconds: float  # of it, spent waiting for data


class Hook:
    """Does nothing; a hook overrides the moments it needs.

    All processes call all hooks in the same order, so a hook may communicate, and one that writes must ask
    `is_main_process()` itself.
    """

    def before_train(self, trainer: Trainer) -> None:
        """Once, before the first step of this sitting, after a checkpoint was loaded."""

    def before_step(self, trainer: Trainer, batches: list[list[Sample]]) -> None:
        """Before each step, with the samples it will train on, one list a forward pass."""

    def after_backward(self, trainer: Trainer, batches: list[list[Sample]], outputs: list[TrainingOutput]) -> None:
        """When the gradients are there and the weights are not yet changed; an error raised here leaves them so.

        Args:
            trainer: whose `updater` knows the parameters.
            batches: what the gradients are of.
            outputs: losses and metrics, detached, one a batch.
        """

    def on_floating_point_error(self, trainer: Trainer, batches: list[list[Sample]], error: FloatingPointError) -> None:
        """When the model of this process refuses to go on with numbers that are not finite; training ends then."""

    def after_step(self, trainer: Trainer, report: StepReport) -> None:
        """After each step; `trainer.iteration` already counts it."""

    def after_evaluation(self, trainer: Trainer, results: Results) -> None:
        """After each evaluation, periodic or final."""

    def after_train(self, trainer: Trainer) -> None:
        """Once, when training has ended or was interrupted (`trainer.interrupted`); not after an error."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps; plain values and tensors only."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""


@dataclass(frozen=True)
class Workspace:
    """Handed to the builder of every hook."""

    output_dir: Path
    checkpointer: Checkpointer
    writers: Sequence[MetricWriter]  # none on processes other than the first
    train_datasets: Sequence[Dataset]
    test_datasets: Sequence[Dataset]
