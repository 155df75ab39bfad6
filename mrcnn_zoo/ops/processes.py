"""Rank and world size of a distributed run, and simple collectives; a single process is rank 0 of 1."""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Value = TypeVar("Value")


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _has_others() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if _has_others() else 0


def _has_others() -> bool:
    return dist.is_available() and dist.is_initialized()


@torch.no_grad()
def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes, without gradient; the tensor itself when there is one process."""
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
