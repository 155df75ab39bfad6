"""Who we are among the processes of a distributed run; one process alone is rank 0 of 1."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Value = TypeVar("Value")


_is_alone: ContextVar[bool] = ContextVar("_is_alone", default=False)


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _has_others() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if _has_others() else 0


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process counts as the only one and waits for no other.

    For what each process does a different number of times, such as the losses of its share of the validation images.
    """
    token = _is_alone.set(True)
    try:
        yield
    finally:
        _is_alone.reset(token)


def _has_others() -> bool:
    return dist.is_available() and dist.is_initialized() and not _is_alone.get()


@torch.no_grad()
def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes, without gradient; the tensor itself when there is one process.

    Losses divide by a count averaged like this. The gradients, averaged over processes, then equal those of one process
    that sees the whole batch, however unevenly the counts are spread.
    """
    if world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def gather_on_main_process(value: Value) -> list[Value]:
    """The values of all processes in the order of their ranks on process 0; an empty list on the others."""
    if world_size() == 1:
        return [value]
    values: list[Any] | None = [None] * world_size() if rank() == 0 else None
    dist.gather_object(value, values, dst=0)
    return values or []


def value_of_main_process(value: Value) -> Value:
    """What process 0 passed in, on every process."""
    if world_size() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
