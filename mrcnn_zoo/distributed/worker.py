"""The worker process of a launcher, and the report of its failure."""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from mrcnn_zoo.distributed.processes import join_from_environment, leave_processes, wait_for_all
from mrcnn_zoo.errors import NonFiniteLossError, UserError
from mrcnn_zoo.output_files import write_json

Work = Callable[..., int]  # -> exit status; a function of a module, so that new processes can import it

FAILED = 1
FORWARDED_ERRORS = {error.__name__: error for error in (UserError, NonFiniteLossError)}
SAVE_SECONDS = 120  # for the workers to save and end after a signal, or after the end of their launcher
STARTED = "started"  # a file in the folder of reports
FAILURE_DELAY = 1.0  # seconds before a worker ends with an error, which the end of another one may have caused
ORPHAN_DELAY = 5.0  # seconds before a worker without launcher is terminated; on Linux torch has sent SIGINT


@dataclass(frozen=True)
class Report:
    """Why a worker ended, written by it for the launcher."""

    status: int  # its exit status
    error: str = ""  # a name in FORWARDED_ERRORS
    message: str = ""  # of that error, or the traceback of another one
    is_failure: bool = False  # of a kind that a restart may repair

    def write(self, folder: Path) -> None:
        """Into a file of this worker's own."""
        write_json(folder / f"{os.environ['LOCAL_RANK']}.json", asdict(self))


def read_reports(folder: Path) -> list[Report]:
    """Of all workers that have ended with one, by local rank."""
    return [Report(**json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("*.json"))]


def run_worker(work: Work, arguments: Sequence[Any], device_type: str, folder: str) -> None:
    """What each new process does; it returns when the work has ended well, and exits with a report otherwise.

    Args:
        work: called when the other processes are joined.
        arguments: of the work.
        device_type: "cuda" or "cpu", what the models run on.
        folder: of reports.
    """
    (Path(folder) / STARTED).touch()
    _end_with_launcher()
    if device_type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"])))
    report = _work(work, arguments, device_type)
    if report is None:
        leave_processes()
        return
    report.write(Path(folder))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(report.status)  # an orderly end might wait for processes that wait for this one


def _work(work: Work, arguments: Sequence[Any], device_type: str) -> Report | None:
    """Join the others and work; None when it ended well."""
    try:
        join_from_environment(device_type=device_type)
        status = work(*arguments)
        if not status:
            return None
        sys.stdout.flush()
        with suppress(RuntimeError):  # others have ended already
            wait_for_all()  # the first worker that ends with a report ends those that still write a checkpoint
        return Report(status)
    except tuple(FORWARDED_ERRORS.values()) as error:
        name = next(name for name, kind in FORWARDED_ERRORS.items() if isinstance(error, kind))
        return Report(FAILED, name, str(error))
    except KeyboardInterrupt:  # a second one, or one before training: there is nothing to save
        os._exit(128 + signal.SIGINT)
    except Exception:
        trace = traceback.format_exc().rstrip()
        time.sleep(FAILURE_DELAY)  # the agent finds a process that ended at once before those that this made fail
        return Report(FAILED, message=trace, is_failure=True)


def _end_with_launcher() -> None:
    """Stop this process when its launcher is gone, even if that was killed: first so that it saves, then at once."""
    launcher = multiprocessing.parent_process()
    if launcher is None:
        return

    def watch() -> None:
        wait([launcher.sentinel])
        time.sleep(ORPHAN_DELAY)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(SAVE_SECONDS)
        os._exit(FAILED)

    threading.Thread(target=watch, daemon=True).start()
