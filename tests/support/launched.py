"""Functions for tests of `launch`, importable by new processes, most of them with a fault."""

import os
import signal
import threading
from pathlib import Path

from mrcnn_zoo.distributed.processes import gather_over_processes, maximum_over_processes, rank
from mrcnn_zoo.errors import NonFiniteLossError, UserError

TERMINATED = 128 + signal.SIGTERM


def count_processes(folder: str) -> int:
    """Write one file per process with the ranks of all processes."""
    ranks = gather_over_processes(rank())
    (Path(folder) / f"{rank()}.txt").write_text(f"{ranks} {maximum_over_processes([float(rank()), 5.0])}")
    return 0


def crash_second() -> int:
    """Raise an error in the second process; the first waits forever."""
    if rank() == 1:
        raise RuntimeError("failed in the test")
    threading.Event().wait()
    return 0


def raise_user_error(folder: str) -> int:
    """Raise a UserError in every process; one line per start in a file."""
    with (Path(folder) / f"{rank()}.txt").open("a") as file:
        file.write("started\n")
    raise UserError("SOLVER.X = 1 is wrong")


def diverge_in_second() -> int:
    """Raise a non-finite loss in the second process; the first waits forever."""
    if rank() == 1:
        raise NonFiniteLossError("the loss is not finite in iteration 3")
    threading.Event().wait()
    return 0


def die_once(folder: str) -> int:
    """Kill the process in the first attempt; write a file in the second."""
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    (Path(folder) / "attempt").write_text(os.environ["TORCHELASTIC_RESTART_COUNT"])
    return 0


def save_on_sigterm(folder: str) -> int:
    """Terminate the launcher, and save when it forwards SIGTERM."""
    is_terminated = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: is_terminated.set())
    os.kill(os.getppid(), signal.SIGTERM)
    while not is_terminated.wait(0.05):
        pass
    (Path(folder) / "saved").touch()
    return TERMINATED


def ignore_sigterm() -> int:
    """Terminate the launcher, and ignore the SIGTERM that it forwards."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.kill(os.getppid(), signal.SIGTERM)
    threading.Event().wait()
    return 0
