"""One optimizer step: mixed precision, forward, backward, gradient clipping, update."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mrcnn_zoo.config import CfgNode, choice_of
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.structures import Sample, TrainingOutput, training_output
from mrcnn_zoo.training.gradients import Clipper, gradient_norm
from mrcnn_zoo.training.reduction import LossReduction

logger = logging.getLogger(__name__)


class Precision:
    """Autocast for the forward pass, and loss scaling for float16 gradients.

    Args:
        device_type: "cuda" or "cpu".
        dtype: torch.bfloat16 or torch.float16; None computes in float32 throughout.
    """

    def __init__(self, device_type: str, *, dtype: torch.dtype | None = None) -> None:
        self._device_type = device_type
        self._dtype = dtype
        self._scaler = torch.amp.GradScaler(device_type, enabled=dtype == torch.float16)

    @property
    def scales_losses(self) -> bool:
        """Whether losses are scaled; the scaler then skips steps with non-finite gradients and lowers the scale."""
        return self._scaler.is_enabled()

    def autocast(self) -> AbstractContextManager[Any]:
        """The context for the forward pass."""
        return torch.autocast(self._device_type, dtype=self._dtype, enabled=self._dtype is not None)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to the present ones.

        Args:
            loss: scalar.
        """
        self._scaler.scale(loss).backward()

    def unscale(self, optimizer: Optimizer) -> None:
        """Divide the gradients by the scale; once, before clipping and `step`.

        Args:
            optimizer: over the trained parameters.
        """
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> None:
        """One step of the optimizer, skipped where float16 gradients overflowed.

        Args:
            optimizer: over the trained parameters.
        """
        if self.scales_losses:
            _start_momentum(optimizer)
        self._scaler.step(optimizer)
        self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # Empty when the scaler is off: a run may switch AMP on or off when it resumes.
        if state and self.scales_losses:
            self._scaler.load_state_dict(state)


def build_precision(cfg: CfgNode, device: torch.device) -> Precision:
    """The precision of SOLVER.AMP that the device supports.

    Args:
        cfg: SOLVER.AMP.
        device: of the model.

    Raises:
        UserError: float16 without a CUDA device.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return Precision(device.type)
    dtypes = {"auto": _best_dtype(device), "bfloat16": torch.bfloat16, "float16": torch.float16}
    dtype = choice_of(cfg, "SOLVER.AMP.DTYPE", dtypes)
    if dtype is None:
        logger.info("this processor has no bfloat16: training in float32 in spite of SOLVER.AMP.ENABLED")
    if dtype == torch.float16 and device.type != "cuda":
        raise UserError(f"SOLVER.AMP.DTYPE = float16 needs a CUDA device, not {device}. Use bfloat16 or auto.")
    return Precision(device.type, dtype=dtype)


@torch.no_grad()
def _start_momentum(optimizer: Optimizer) -> None:
    """Begin each missing momentum of SGD at 0, which the first step turns into the gradient.

    torch's fused SGD otherwise allocates the momentum without a value and leaves it so when the first step is left out
    for an overflow, as it usually is while the scale is too large; the next step then reads it.
    """
    for group in optimizer.param_groups:
        if isinstance(optimizer, torch.optim.SGD) and group["momentum"] != 0:
            for parameter in group["params"]:
                if parameter.grad is not None and optimizer.state[parameter].get("momentum_buffer") is None:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _step_unless(is_bad: Tensor, optimizer: Any) -> None:
    """A step of a fused optimizer, left out where `is_bad` is 1: read on the device, as `torch.amp.GradScaler` does."""
    _start_momentum(optimizer)
    optimizer.found_inf = is_bad
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf


def _best_dtype(device: torch.device) -> torch.dtype | None:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if _processor_has_bfloat16() else None


def _processor_has_bfloat16() -> bool:
    # Emulated bfloat16 is several times slower than float32, so only what the processor computes itself counts.
    # Older releases of torch have no such check.
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, check)() for check in checks if hasattr(torch.cpu, check))


class Updater:
    """Computes gradients of batches and applies them to the weights.

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
        self._skip: Tensor | None = None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All trained parameters."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def compute_gradients(self, model: nn.Module, batches: Sequence[list[Sample]]) -> list[TrainingOutput]:
        """Store the mean gradient over the batches in the parameters.

        Args:
            model: in training mode; `with_averaged_gradients` where there are several processes.
            batches: one forward pass each.

        Returns:
            Losses and metrics per batch, detached.

        Raises:
            UserError: the model returns no losses, or none that depends on a trained parameter.
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

    @property
    def can_skip(self) -> bool:
        """Whether an accelerator can decide about an update by itself: the optimizer is fused, as for a loss scaler."""
        is_fused = getattr(self.optimizer, "_step_supports_amp_scaling", False)
        on_accelerator = all(parameter.device.type != "cpu" for parameter in self.parameters)
        return bool(is_fused) and on_accelerator and not self.precision.scales_losses

    def skip_if(self, is_bad: Tensor) -> None:
        """Let the device leave the next update out: weights and momentum stay; the host does not wait for the value.

        Args:
            is_bad: scalar bool on the device; `can_skip` must be True.
        """
        self._skip = is_bad.float()

    def apply_gradients(self) -> None:
        """Clip the gradients, then update the weights."""
        if self._clipper is not None:
            self._clipper(self.parameters)
        if self._skip is None:
            self.precision.step(self.optimizer)
        else:
            _step_unless(self._skip, self.optimizer)
            self._skip = None

    def gradient_norm(self) -> Tensor:
        """L2 norm of the gradients before clipping."""
        return gradient_norm(self.parameters)

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """Load momentum and step counts; learning rate, weight decay and the like stay as configured.

        Args:
            state: of the optimizer, from a checkpoint.

        Raises:
            UserError: the state is of another optimizer.
        """
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

    def names_with_nonfinite_gradient(self, model: nn.Module, *, largest: Tensor | None = None) -> list[str]:
        """Names of parameters with infinite or NaN entries in their gradient.

        Args:
            model: of the parameters.
            largest: of `largest_gradients` of a former step, whose gradients are meant; None for the present ones.
        """
        if largest is None:
            return [n for n, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        is_finite = torch.isfinite(largest).tolist()
        return [names[id(p)] for p, is_good in zip(self.parameters, is_finite, strict=True) if not is_good]

    def names_without_gradient(self, model: nn.Module) -> list[str]:
        """Names of trained parameters that the last loss did not depend on.

        Args:
            model: of the parameters.
        """
        trained = set(map(id, self.parameters))
        return [name for name, p in model.named_parameters() if id(p) in trained and p.grad is None]


def mean_metrics(outputs: Sequence[TrainingOutput]) -> dict[str, Tensor]:
    """Each loss, their sum as `total_loss`, and each metric, as means over the batches that have them.

    Args:
        outputs: one per batch.
    """
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
            "your own must return TrainingOutput(losses={name: scalar}). To evaluate without training, add "
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
