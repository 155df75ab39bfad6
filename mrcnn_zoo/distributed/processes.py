"""Rank, world size and collectives of a distributed run; a single process is rank 0 of 1."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mrcnn_zoo.errors import UserError

Value = TypeVar("Value")

COLLECTIVE_TIMEOUT = timedelta(hours=2)  # evaluation on one process may take long while the others wait for it


def world_size() -> int:
    """Number of processes of the run."""
    return dist.get_world_size() if _has_others() else 1


def rank() -> int:
    """Rank of this process, in [0, world size)."""
    return dist.get_rank() if _has_others() else 0


def _has_others() -> bool:
    return dist.is_available() and dist.is_initialized()


@torch.no_grad()
def mean_over_processes(value: Tensor) -> Tensor:
    """Mean of a tensor over all processes, without gradient.

    Args:
        value: of any shape, the same on every process.
    """
    if world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def gather_on_main_process(value: Value) -> list[Value]:
    """Gather the values of all processes on rank 0.

    Args:
        value: picklable.

    Returns:
        The values by rank on rank 0; an empty list on the others.
    """
    if world_size() == 1:
        return [value]
    values: list[Any] | None = [None] * world_size() if rank() == 0 else None
    dist.gather_object(value, values, dst=0)
    return values or []


def value_of_main_process(value: Value) -> Value:
    """Broadcast a value of rank 0.

    Args:
        value: picklable; ignored on other ranks.

    Returns:
        The value of rank 0, on every process.
    """
    if world_size() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def results_of_main_process(measure: Callable[[], Value]) -> Value:
    """Call a function on rank 0 and broadcast its result.

    Args:
        measure: called on rank 0 only; its result is picklable.

    Raises:
        RuntimeError: on the other ranks if the call fails; rank 0 raises the original error.
    """
    results: Any = None
    failure: Exception | None = None
    if rank() == 0:
        try:
            results = measure()
        except Exception as error:  # sent to the other processes before it is raised; they would wait otherwise
            failure = error
    results, message = value_of_main_process((results, failure and str(failure)))
    if failure is not None:
        raise failure
    if message:
        raise RuntimeError(f"the evaluation failed on process 0: {message}")
    return results


def is_main_process() -> bool:
    """Whether this process has rank 0, which writes files and prints."""
    return rank() == 0


def is_started_by_torchrun() -> bool:
    """Whether torchrun, or a scheduler that sets the same variables, has started this process."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def is_restarted() -> bool:
    """Whether an elastic agent has restarted any process of this run after a failure; the same in all of them."""
    (count,) = maximum_over_processes([float(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))])
    return count > 0


def may_be_restarted() -> bool:
    """Whether an elastic agent may restart the processes of this run after a failure."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def join_from_environment(*, device_type: str) -> None:
    """Initialise the process group from the variables of torchrun; see `join_processes`.

    Args:
        device_type: "cuda" or "cpu", of the models.
    """
    join_processes(
        "env://",
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        local_rank=int(os.environ.get("LOCAL_RANK", os.environ["RANK"])),
        device_type=device_type,
    )


def join_processes(url: str, *, rank: int, world_size: int, local_rank: int, device_type: str) -> None:
    """Initialise the process group: gloo for CPUs, NCCL for GPUs.

    Args:
        url: e.g. "tcp://127.0.0.1:29500", "file:///tmp/rendezvous" or "env://".
        rank: of this process in the run.
        world_size: of the run.
        local_rank: of this process on its machine, and index of its GPU.
        device_type: "cuda" or "cpu", of the models.

    Raises:
        UserError: this machine has no GPU of that number.
    """
    backend = "gloo"
    if device_type == "cuda":
        gpus = torch.cuda.device_count()
        if local_rank >= gpus:
            raise UserError(
                f"process {local_rank} of this machine has no GPU: there are {gpus} here. Start as many processes as "
                "there are GPUs, or run them on the CPU: MODEL.DEVICE cpu."
            )
        torch.cuda.set_device(local_rank)
        backend = "cpu:gloo,cuda:nccl"
    group: dict[str, Any] = {"rank": rank, "world_size": world_size, "timeout": COLLECTIVE_TIMEOUT}
    if url == "env://" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        dist.init_process_group(backend, store=_store_of_attempt(), **group)
    else:
        dist.init_process_group(backend, init_method=url, **group)


def _store_of_attempt() -> dist.Store:
    """The store of torchrun's agent; it outlives a restart, so that the keys of each attempt need a prefix."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, is_master=False, timeout=COLLECTIVE_TIMEOUT)
    return dist.PrefixStore(f"attempt_{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)


def leave_processes() -> None:
    """Destroy the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def maximum_over_processes(values: list[float]) -> list[float]:
    """Maximum of each value over all processes.

    Args:
        values: equally many on every process.
    """
    if world_size() == 1:
        return values
    largest = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest.tolist()


def gather_over_processes(value: Value) -> list[Value]:
    """Gather the values of all processes on every process, by rank.

    Args:
        value: picklable.
    """
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def wait_for_all() -> None:
    """Barrier: return when every process has called it."""
    if world_size() > 1:
        gather_over_processes(None)
