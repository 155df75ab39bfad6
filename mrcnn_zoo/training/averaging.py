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

    Statistics are those of the features that weights make, so averaged weights need averaged ones: the latest, of other
    weights, would shift the features of every layer.

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
        """Take the weights after an optimizer step into the average."""
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
        """The model has the averaged weights inside the `with` block, and its own again after it."""
        values = _values(model)
        own = {name: values[name].detach().clone() for name in self._weights}
        _copy_into(model, self._weights)
        try:
            yield
        finally:
            _copy_into(model, own)

    @torch.no_grad()
    def take_buffers(self, model: nn.Module) -> None:
        """Replace the averaged buffers by a model's, e.g. batch-norm statistics that were estimated anew."""
        for name, buffer in model.named_buffers():
            if name in self._weights:
                self._weights[name].copy_(buffer)

    def state_dict(self) -> dict[str, Any]:
        """{"num_updates": int, "weights": {name: tensor}}; the tensors are those that `update` changes."""
        return {"num_updates": self._num_updates, "weights": dict(self._weights)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state; the decay stays the one given to the constructor."""
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
    """The average that SOLVER.EMA asks for; None when it is not enabled."""
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
