"""An exponential moving average of the weights and of their batch-norm statistics."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError


class WeightsAverage:
    """A running mean of a model's trainable parameters and batch-norm statistics; all else is the latest.

    Averaged weights need averaged statistics: the latest, of the features of other weights, would shift each layer.

    torch.optim.swa_utils.AveragedModel copies the whole module and averages all its buffers or none; the checkpoints of
    this class hold single tensors, and counters or running normalizers must stay the latest.

    Source: Polyak and Juditsky 1992 in the exponential form; the decay grows from 1/10 to its final value as in
    TensorFlow's ExponentialMovingAverage, so that the first averages are not dominated by the initial weights.

    Args:
        model: without wrappers; defines the names and the starting values.
        decay: share of the old average kept at each update, in [0, 1).
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self._decay = decay
        self._num_updates = 0
        self._statistics = _names_of_statistics(model)
        saved = model.state_dict().keys()  # leaves out buffers that are only caches and may change their size
        self._weights = {name: value.detach().clone() for name, value in _values(model).items() if name in saved}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average with the weights after an optimizer step.

        Args:
            model: as in the constructor.
        """
        self._num_updates += 1
        decay = min(self._decay, (1 + self._num_updates) / (10 + self._num_updates))
        averaged: list[tuple[Tensor, Tensor]] = []
        latest: list[tuple[Tensor, Tensor]] = []
        values = _values(model)
        for name in self._weights:
            value = values[name]
            is_averaged = value.requires_grad or name in self._statistics
            (averaged if is_averaged else latest).append((self._weights[name], value))
        if averaged:
            old, new = map(list, zip(*averaged, strict=True))
            torch._foreach_lerp_(old, new, 1 - decay)
        if latest:
            old, new = map(list, zip(*latest, strict=True))
            torch._foreach_copy_(old, new)

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Replace the weights of a model by the average inside the `with` block.

        Args:
            model: as in the constructor; it has its own weights again afterwards.
        """
        values = _values(model)
        own = {name: values[name].detach().clone() for name in self._weights}
        _copy_into(model, self._weights)
        try:
            yield
        finally:
            _copy_into(model, own)

    @torch.no_grad()
    def take_buffers(self, model: nn.Module) -> None:
        """Replace the averaged buffers by those of a model, e.g. newly estimated batch-norm statistics.

        Args:
            model: as in the constructor.
        """
        for name, buffer in model.named_buffers():
            if name in self._weights:
                self._weights[name].copy_(buffer)

    def state_dict(self) -> dict[str, Any]:
        """{"num_updates": int, "weights": {name: tensor}}; the tensors are those that `update` changes."""
        return {"num_updates": self._num_updates, "weights": dict(self._weights)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state; the decay stays that of the constructor.

        Args:
            state: from `state_dict`.

        Raises:
            UserError: the averaged weights are those of another model.
        """
        if state["weights"].keys() != self._weights.keys():
            different = sorted(state["weights"].keys() ^ self._weights.keys())
            raise UserError(
                f"the checkpoint's averaged weights are those of another model: {len(different)} names differ, "
                f"e.g. {different[0]}."
            )
        self._num_updates = int(state["num_updates"])
        for name, value in self._weights.items():
            value.copy_(state["weights"][name])


def build_weights_average(cfg: CfgNode, model: nn.Module) -> WeightsAverage | None:
    """The average of SOLVER.EMA; None where it is disabled.

    Args:
        cfg: SOLVER.EMA.
        model: on its device.
    """
    if not cfg.SOLVER.EMA.ENABLED:
        return None
    return WeightsAverage(model, decay=cfg.SOLVER.EMA.DECAY)


def _names_of_statistics(model: nn.Module) -> set[str]:
    norms = [(name, module) for name, module in model.named_modules() if isinstance(module, BatchNorm)]
    return {f"{name}.{buffer}".lstrip(".") for name, _ in norms for buffer in ("running_mean", "running_var")}


def _values(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@torch.no_grad()
def _copy_into(model: nn.Module, values: dict[str, Tensor]) -> None:
    targets = _values(model)
    for name, value in values.items():
        targets[name].copy_(value)
