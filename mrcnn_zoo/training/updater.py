"""One optimizer step: forward, backward, clipping, and the change of the weights."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.structures import Sample, TrainingOutput, training_output
from mrcnn_zoo.training.clipping import Clipper, gradient_norm
from mrcnn_zoo.training.distributed import LossReduction
from mrcnn_zoo.training.precision import Precision


class Updater:
    """Turns batches into gradients, and gradients into new weights.

    Args:
        optimizer: over the trained parameters.
        precision: of the forward pass.
        clipper: applied to the gradients before each step, if given.
    """

    def __init__(self, optimizer: Optimizer, *, precision: Precision, clipper: Clipper | None = None) -> None:
        self.optimizer = optimizer
        self.precision = precision
        self._clipper = clipper
        self._reduction = LossReduction()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is trained."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def compute_gradients(self, model: nn.Module, batches: Sequence[list[Sample]]) -> list[TrainingOutput]:
        """Put the mean gradient over the batches into the parameters; returns what the model gave for each batch.

        Args:
            model: in training mode; `with_averaged_gradients` where there are several processes.
            batches: each goes through the model on its own.

        Raises:
            UserError: the model returns no losses, or none that depends on what is trained.
        """
        self.optimizer.zero_grad(set_to_none=True)
        outputs = []
        for number, samples in enumerate(batches, start=1):
            with nullcontext() if number == len(batches) else _without_averaging(model):
                with self.precision.autocast():
                    output = _checked_output(model, model(samples))
                output = self._reduction(output, num_images=len(samples))
                self.precision.backward(output.total() / len(batches))
            outputs.append(_detached(output))
        self.precision.unscale(self.optimizer)
        return outputs

    def apply_gradients(self) -> None:
        """Clip, then change the weights."""
        if self._clipper is not None:
            self._clipper(self.parameters)
        self.precision.step(self.optimizer)

    def gradient_norm(self) -> Tensor:
        """L2 norm of the gradients before clipping."""
        return gradient_norm(self.parameters)

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """Momentum and step counts from a checkpoint; learning rate, weight decay and the like stay as configured."""
        settings = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        try:
            self.optimizer.load_state_dict(state)
        except ValueError as error:
            raise UserError(
                f"the optimizer in the checkpoint does not fit the config ({error}). Resume with the settings that the "
                f"run began with, or start a new run from its weights: MODEL.WEIGHTS."
            ) from error
        for group, own in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(own)

    def names_with_nonfinite_gradient(self, model: nn.Module) -> list[str]:
        """Parameters whose gradient holds infinite entries or such that are not a number."""
        return [n for n, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]

    def names_without_gradient(self, model: nn.Module) -> list[str]:
        """Trained parameters that the last loss did not depend on."""
        trained = set(map(id, self.parameters))
        return [name for name, p in model.named_parameters() if id(p) in trained and p.grad is None]


def mean_metrics(outputs: Sequence[TrainingOutput]) -> dict[str, Tensor]:
    """Each loss, their sum as `total_loss`, and each metric, as means over the batches that have them."""
    columns: dict[str, list[Tensor]] = {}
    for output in outputs:
        for name, value in {"total_loss": output.total(), **output.losses, **output.metrics}.items():
            columns.setdefault(name, []).append(value)
    return {name: torch.stack(values).mean() if len(values) > 1 else values[0] for name, values in columns.items()}


def _checked_output(model: nn.Module, returned: Any) -> TrainingOutput:
    inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    output = training_output(returned, made_by=inner)
    if not output.sums:
        raise UserError(
            f"{type(inner).__name__} returned no losses in training: none of its parts learns anything. A model of "
            "your own must return TrainingOutput(losses={name: scalar}). Where nothing is to be learned, evaluate with "
            "--eval-only."
        )
    if not any(loss.value.requires_grad for loss in output.sums.values()):
        raise UserError(
            f"no loss of {type(inner).__name__} ({', '.join(output.sums)}) depends on a parameter that is trained: a "
            f"loss was detached, or all parts with losses are frozen."
        )
    return output


def _without_averaging(model: nn.Module) -> AbstractContextManager[None]:
    return model.no_sync() if isinstance(model, nn.parallel.DistributedDataParallel) else nullcontext()


def _detached(output: TrainingOutput) -> TrainingOutput:
    return TrainingOutput(
        losses={name: loss.detach().float() for name, loss in output.losses.items()},
        metrics={name: metric.detach().float() for name, metric in output.metrics.items()},
    )
