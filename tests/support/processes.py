"""Runs functions in several processes of a gloo group."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PRELOADED = ["torch", "torch.distributed", "mrcnn_zoo.modeling", "mrcnn_zoo.training"]


def run_in_processes(function: Callable[..., Any], *arguments: Any, folder: Path, count: int = 2) -> list[Any]:
    """Run `function(rank, *arguments)` in `count` processes of one group, with one thread each.

    Processes are forked from a server that has imported torch, so each starts in a tenth of a second.

    Args:
        function: importable; its result must be picklable.
        arguments: picklable.
        folder: empty; used for the rendezvous and the results.
        count: number of processes.

    Returns:
        The results by rank.

    Raises:
        torch.multiprocessing.ProcessRaisedException: a process failed; the traceback is in the message.
    """
    multiprocessing.set_forkserver_preload(PRELOADED)
    task = (function, arguments, str(folder), count)
    mp.start_processes(_run_in_group, args=task, nprocs=count, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]


def _run_in_group(rank: int, function: Callable[..., Any], arguments: tuple[Any, ...], folder: str, count: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=count)
    result = function(rank, *arguments)
    torch.save(result, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
