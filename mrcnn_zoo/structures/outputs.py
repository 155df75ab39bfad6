"""Losses and metrics of a training step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mrcnn_zoo.errors import UserError, kind_of


@dataclass(frozen=True)
class LossSum:
    """A weighted loss, summed over the items of this process, before its division by the number of items.

    The sum over all processes is divided by the divisor of the count over all processes, so N processes have the
    gradients of one that sees the whole batch, however unevenly the items are spread.
    """

    value: Tensor  # scalar
    count: Tensor | float | None  # items, e.g. sampled regions; None: `value` is a mean over this process's images
    divisor: Callable[[Tensor], Tensor] | None = None  # count -> what to divide by; None: the count, 1 where it is 0


@dataclass(init=False)
class TrainingOutput:
    """Named losses and metrics.

    Args:
        losses: a weighted `LossSum` or scalar per name. A plain scalar is a mean over this process's images.
        metrics: detached scalars by name, on any device.

    Raises:
        UserError: a loss is not a tensor of one number.
    """

    sums: dict[str, LossSum]
    metrics: dict[str, Tensor]
    _divided: dict[str, Tensor] | None = field(default=None, repr=False, compare=False)

    def __init__(
        self, losses: Mapping[str, Tensor | LossSum] | None = None, metrics: Mapping[str, Tensor] | None = None
    ) -> None:
        self.sums = {
            name: loss if isinstance(loss, LossSum) else LossSum(loss, None) for name, loss in (losses or {}).items()
        }
        for name, loss in self.sums.items():
            if not isinstance(loss.value, Tensor) or loss.value.numel() != 1:
                is_tensor = isinstance(loss.value, Tensor)
                what = f"shape {tuple(loss.value.shape)}" if is_tensor else kind_of(loss.value)
                raise UserError(f"loss {name!r} must be a tensor of one number, not {what}.")
        self.metrics = dict(metrics or {})
        self._divided = None

    @property
    def losses(self) -> dict[str, Tensor]:
        """Each loss divided by this process's own count."""
        if self._divided is None:  # once: a divisor may update a running mean
            self._divided = divided_losses(self.sums, {name: loss.count for name, loss in self.sums.items()})
        return self._divided

    def total(self) -> Tensor:
        """The sum of `losses`, to call backward on in a single process.

        Raises:
            ValueError: there are no losses.
        """
        if not self.sums:
            raise ValueError("there are no losses to add up: no part of the model has returned one")
        first, *others = self.losses.values()
        return sum(others, start=first)

    def __or__(self, other: "TrainingOutput") -> "TrainingOutput":
        """The union of both outputs.

        Raises:
            ValueError: a name is in both.
        """
        twice = (self.sums.keys() & other.sums.keys()) | (self.metrics.keys() & other.metrics.keys())
        if twice:
            raise ValueError(f"two components return the same names: {', '.join(sorted(twice))}")
        return TrainingOutput(self.sums | other.sums, self.metrics | other.metrics)


def training_output(returned: Any, *, made_by: object) -> TrainingOutput:
    """The value that `losses` of a component returned.

    Args:
        returned: the value.
        made_by: the component, named in the message.

    Raises:
        UserError: it is not a TrainingOutput.
    """
    if isinstance(returned, TrainingOutput):
        return returned
    raise UserError(
        f"`losses` of {type(made_by).__name__} must return TrainingOutput(losses={{name: scalar}}), but it returned "
        f"{kind_of(returned)}: see mrcnn_zoo/structures/outputs.py."
    )


def divided_losses(sums: Mapping[str, LossSum], counts: Mapping[str, Tensor | float | None]) -> dict[str, Tensor]:
    """Each sum divided by the divisor of its count; losses with a count of None are means and not divided.

    Losses with the same divisor have the same count, and the divisor is called once for all of them.

    Args:
        sums: by name, of this process.
        counts: by name, added up over all processes.
    """
    shared: dict[Callable[[Tensor], Tensor], Tensor] = {}
    divided = {}
    for name, loss in sums.items():
        count = counts[name]
        if count is None:
            divided[name] = loss.value
        elif loss.divisor is None:
            divided[name] = loss.value / at_least_one(count)
        else:
            if loss.divisor not in shared:
                shared[loss.divisor] = loss.divisor(torch.as_tensor(count, device=loss.value.device))
            divided[name] = loss.value / shared[loss.divisor]
    return divided


def at_least_one(count: Tensor | float) -> Tensor | float:
    """The count, or 1 for a count of 0, where the sum is 0, too."""
    return count + (count == 0)
