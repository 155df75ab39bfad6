"""Work for `launch`: functions that new processes import, each with a fault or an end at a fixed moment."""

import os
import signal
import threading
from pathlib import Path

from mrcnn_zoo.distributed.processes import gather_over_processes, maximum_over_processes, rank
from mrcnn_zoo.errors import NonFiniteLossError, UserError

TERMINATED = 128 + signal.SIGTERM


def count_processes(folder: str) -> int:
    """A file for each process with the ranks of all."""
    ranks = gather_over_processes(rank())
    (Path(folder) / f"{rank()}.txt").write_text(f"{ranks} {maximum_over_processes([float(rank()), 5.0])}")
    return 0


def crash_second() -> int:
    """An error in the second process, while the first would never end."""
    if rank() == 1:
        raise RuntimeError("this process fails on purpose")
    threading.Event().wait()
    return 0


def find_mistake(folder: str) -> int:
    """A mistake of the user in every process, which a file counts."""
    with (Path(folder) / f"{rank()}.txt").open("a") as file:
        file.write("started\n")
    raise UserError("SOLVER.X = 1 is wrong")


def diverge_in_second() -> int:
    """A non-finite loss in the second process, while the first would never end."""
    if rank() == 1:
        raise NonFiniteLossError("the loss is not finite in iteration 3")
    threading.Event().wait()
    return 0


def die_once(folder: str) -> int:
    """SIGKILL in the first attempt; the second writes a file."""
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    (Path(folder) / "attempt").write_text(os.environ["TORCHELASTIC_RESTART_COUNT"])
    return 0


def save_on_sigterm(folder: str) -> int:
    """Has the launcher terminated, and saves when the launcher has passed that on."""
    is_terminated = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: is_terminated.set())
    os.kill(os.getppid(), signal.SIGTERM)
    while not is_terminated.wait(0.05):
        pass
    (Path(folder) / "saved").touch()
    return TERMINATED


def ignore_sigterm() -> int:
    """Has the launcher terminated, and goes on."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.kill(os.getppid(), signal.SIGTERM)
    threading.Event().wait()
    return 0
