"""Seconds, interleaved between candidates, and peak memory, of inference and training steps."""

import multiprocessing
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from mrcnn_zoo.errors import UserError


@dataclass(frozen=True)
class Candidate:
    """Work to be timed.

    Args:
        name: in the report.
        steps: the steps of one round; each returns the number of instances or images that it produced.
        before: called before each step, outside the measured time.
    """

    name: str
    steps: Sequence[Callable[[], int]]
    before: Callable[[], None] | None = None


@dataclass(frozen=True)
class Timing:
    """Seconds of one candidate, one number per round."""

    name: str
    seconds: tuple[float, ...]
    produced: int  # in one round

    @property
    def median(self) -> float:
        """Median seconds per round."""
        return statistics.median(self.seconds)

    @property
    def minimum(self) -> float:
        """Seconds of the fastest round, the one least disturbed by other processes."""
        return min(self.seconds)


def time_interleaved(candidates: Sequence[Candidate], *, repeats: int, warmup: int = 1) -> list[Timing]:
    """Run the steps of all candidates interleaved; their order alternates between rounds.

    Args:
        candidates: with the same number of steps.
        repeats: measured rounds, at least 1.
        warmup: rounds before them.
    """
    seconds: dict[str, list[float]] = {candidate.name: [] for candidate in candidates}
    produced: dict[str, int] = {}
    for round_number in range(warmup + repeats):
        order = candidates if round_number % 2 == 0 else candidates[::-1]
        elapsed = dict.fromkeys(seconds, 0.0)
        produced = dict.fromkeys(seconds, 0)
        for number in range(len(candidates[0].steps)):
            for candidate in order:
                if candidate.before is not None:
                    candidate.before()
                start = _now()
                produced[candidate.name] += candidate.steps[number]()
                elapsed[candidate.name] += _now() - start
        if round_number >= warmup:
            for name, value in elapsed.items():
                seconds[name].append(value)
    return [Timing(name, tuple(values), produced[name]) for name, values in seconds.items()]


def paired_ratio(one: Timing, other: Timing) -> float:
    """The median over rounds of the ratio of seconds; below 1 where `one` is faster."""
    return statistics.median(a / b for a, b in zip(one.seconds, other.seconds, strict=True))


def _now() -> float:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


MEBIBYTE = 2**20
STATUS_FILE = Path("/proc/self/status")

Prepare = Callable[[Any], Callable[[], None]]


def peak_memory_mib(prepare: Prepare, job: Any) -> float:
    """Peak memory of a job in MiB, without the memory in use before it starts.

    Args:
        prepare: a module-level function; called with the job in a new process, it returns the work. Its own
            allocations, such as the inputs, are not counted; those of the work, such as the model, are.
        job: picklable argument of `prepare`.

    Returns:
        Allocated GPU memory where the work uses CUDA, else the resident set of the process.

    Raises:
        RuntimeError: the work failed; with its traceback.
        UserError: raised by the work.
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
    except BaseException:  # sent to the parent, which raises it
        sender.send(traceback.format_exc())


def resident_mib() -> float:
    """Resident memory of this process in MiB; its peak where the system has no current value."""
    return _status("VmRSS:") or _largest_resident_mib()


def peak_resident_mib() -> float:
    """Peak resident memory of this process in MiB.

    Read from /proc where it exists: on Linux the value of getrusage may be inherited from the parent process.
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
