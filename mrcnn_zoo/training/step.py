"""One optimizer step: mixed precision, forward, backward, gradient clipping, update."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mrcnn_zoo.config import CfgNode, choice_of
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.structures import Sample, TrainingOutput, training_output
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


def _best_dtype(device: torch.device) -> torch.dtype | None:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if _processor_has_bfloat16() else None


def _processor_has_bfloat16() -> bool:
    # Emulated bfloat16 is several times slower than float32, so only what the processor computes itself counts.
    # Older releases of torch have no such check.
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, check)() for check in checks if hasattr(torch.cpu, check))


Clipper = Callable[[Sequence[nn.Parameter]], None]


def clip_by_value(parameters: Sequence[nn.Parameter], *, limit: float) -> None:
    """Clamp every entry of every gradient to [-limit, limit].

    Args:
        parameters: those without gradient are left out.
        limit: above 0.
    """
    gradients = gradients_of(parameters)
    if gradients:
        torch._foreach_clamp_min_(gradients, -limit)
        torch._foreach_clamp_max_(gradients, limit)


def clip_each_norm(parameters: Sequence[nn.Parameter], *, limit: float, norm_type: float) -> None:
    """Scale the gradient of each parameter to a norm of at most `limit`, as Detectron2's "norm" does.

    Args:
        parameters: those without gradient are left out.
        limit: above 0.
        norm_type: order of the norm; infinity is the maximum.
    """
    gradients = gradients_of(parameters)
    if not gradients:
        return
    norms = torch.stack(list(torch._foreach_norm(gradients, norm_type)))
    torch._foreach_mul_(gradients, list((limit / (norms + 1e-6)).clamp(max=1.0).unbind()))


def clip_total_norm(parameters: Sequence[nn.Parameter], *, limit: float, norm_type: float) -> None:
    """Scale all gradients by one factor, so that their joint norm is at most `limit`.

    Args:
        parameters: those without gradient are left out.
        limit: above 0.
        norm_type: order of the norm; infinity is the maximum.
    """
    nn.utils.clip_grad_norm_(parameters, limit, norm_type)


def gradients_of(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """The gradients that exist.

    Args:
        parameters: of a model.
    """
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Joint L2 norm of all gradients, a scalar on their device.

    Args:
        parameters: those without gradient are left out.
    """
    return nn.utils.get_total_norm(gradients_of(parameters)).detach()


def build_clipper(cfg: CfgNode) -> Clipper | None:
    """The clipping of SOLVER.CLIP_GRADIENTS; None where it is disabled."""
    settings = cfg.SOLVER.CLIP_GRADIENTS
    if not settings.ENABLED:
        return None
    limit, norm_type = float(settings.CLIP_VALUE), float(settings.NORM_TYPE)
    clippers: dict[str, Clipper] = {
        "value": lambda parameters: clip_by_value(parameters, limit=limit),
        "norm": lambda parameters: clip_each_norm(parameters, limit=limit, norm_type=norm_type),
        "full_model": lambda parameters: clip_total_norm(parameters, limit=limit, norm_type=norm_type),
    }
    return choice_of(cfg, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", clippers)


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

    def apply_gradients(self) -> None:
        """Clip the gradients, then update the weights."""
        if self._clipper is not None:
            self._clipper(self.parameters)
        self.precision.step(self.optimizer)

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

    def names_with_nonfinite_gradient(self, model: nn.Module) -> list[str]:
        """Names of parameters with infinite or NaN entries in their gradient.

        Args:
            model: of the parameters.
        """
        return [n for n, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]

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
