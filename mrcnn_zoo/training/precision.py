"""Automatic mixed precision: the autocast region and the loss scaling that float16 needs."""

import logging
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError

logger = logging.getLogger(__name__)


class Precision:
    """Runs the forward pass in a lower precision and keeps small float16 gradients from vanishing.

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
        """Whether single non-finite gradients are part of the method: the scaler skips their step and scales less."""
        return self._scaler.is_enabled()

    def autocast(self) -> AbstractContextManager[Any]:
        """The context for the forward pass."""
        return torch.autocast(self._device_type, dtype=self._dtype, enabled=self._dtype is not None)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a scalar loss to those that are there."""
        self._scaler.scale(loss).backward()

    def unscale(self, optimizer: Optimizer) -> None:
        """Bring the gradients to their true size; once before clipping and `step`."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> None:
        """One step of the optimizer, left out where float16 gradients overflowed."""
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
    """What SOLVER.AMP asks for, as far as the device has it."""
    if not cfg.SOLVER.AMP.ENABLED:
        return Precision(device.type)
    choices = {"auto": _best_dtype(device), "bfloat16": torch.bfloat16, "float16": torch.float16}
    if cfg.SOLVER.AMP.DTYPE not in choices:
        raise UserError(f"SOLVER.AMP.DTYPE = {cfg.SOLVER.AMP.DTYPE!r} is not one of {', '.join(choices)}.")
    dtype = choices[cfg.SOLVER.AMP.DTYPE]
    if dtype is None:
        logger.info("this processor has no bfloat16: training in float32 in spite of SOLVER.AMP.ENABLED")
    if dtype == torch.float16 and device.type != "cuda":
        raise UserError(f"SOLVER.AMP.DTYPE = float16 needs a CUDA device, not {device}. Use bfloat16 or auto.")
    return Precision(device.type, dtype=dtype)


@torch.no_grad()
def _start_momentum(optimizer: Optimizer) -> None:
    """Begin each missing momentum of SGD at 0, which the first step turns into the gradient.

    torch's fused SGD otherwise allocates the momentum without a value and leaves it so when the first step is left out
    for an overflow, as it usually is while the scale is still too large; the next step then reads it.
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
    # Releases of torch that cannot tell have no such check.
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, check)() for check in checks if hasattr(torch.cpu, check))
