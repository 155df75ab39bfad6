"""Peak memory of a piece of work, in a process of its own: the peak of a process never goes down again."""

import multiprocessing
import resource
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from mrcnn_zoo.errors import UserError

MEBIBYTE = 2**20
STATUS_FILE = Path("/proc/self/status")

Prepare = Callable[[Any], Callable[[], None]]


def peak_memory_mib(prepare: Prepare, job: Any) -> float:
    """MiB that a piece of work needs at its highest, on top of what was there before it began.

    Args:
        prepare: a function of a module; called in a new process with the job, it returns the work. What it allocates,
            such as the inputs, does not count; what the work allocates, such as the model, does.
        job: picklable.

    Returns:
        Of tensors on the GPU where the work uses CUDA, else of the resident set of the process.

    Raises:
        RuntimeError: the work failed; with its traceback.
        UserError: as the work raised it.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(prepare, job, sender), daemon=True)
    process.start()
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(
            f"the process that measures memory ended with code {process.exitcode}; was it out of memory?"
        ) from None
    process.join()
    if isinstance(answer, UserError):
        raise answer
    if isinstance(answer, str):
        raise RuntimeError(f"the work whose memory is measured failed:\n{answer}")
    return answer


def _measure(prepare: Prepare, job: Any, sender: Connection) -> None:
    try:
        work = prepare(job)
        before = resident_mib()
        work()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            sender.send(torch.cuda.max_memory_allocated() / MEBIBYTE)
        else:
            sender.send(peak_resident_mib() - before)
    except UserError as error:
        sender.send(error)
    except BaseException:  # told to the parent, which raises it
        sender.send(traceback.format_exc())


def resident_mib() -> float:
    """MiB of this process in memory now; its peak where the system does not tell."""
    return _status("VmRSS:") or _largest_resident_mib()


def peak_resident_mib() -> float:
    """MiB of this process at its highest.

    Not getrusage where it can be helped: on Linux a new process may inherit the figure of the one that started it.
    """
    return _status("VmHWM:") or _largest_resident_mib()


def _status(label: str) -> float:
    if not STATUS_FILE.exists():
        return 0.0
    line = next((line for line in STATUS_FILE.read_text().splitlines() if line.startswith(label)), "0 0")
    return int(line.split()[1]) / 1024


def _largest_resident_mib() -> float:
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MEBIBYTE
