"""Starts the worker processes of a run under PyTorch's elastic agent.

`--num-gpus`, several machines and torchrun are one path: an agent on each machine starts the workers, and each of them
joins the others from its environment. Under torchrun, which is such an agent, the command is a worker already.
"""

import json
import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing import api as agent_processes
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.multiprocessing import ProcessExitedException

from mrcnn_zoo.distributed.processes import is_started_by_torchrun, join_from_environment, leave_processes
from mrcnn_zoo.distributed.worker import (
    FAILED,
    FORWARDED_ERRORS,
    SAVE_SECONDS,
    STARTED,
    Work,
    read_reports,
    run_worker,
)
from mrcnn_zoo.errors import UserError

MEETING_SECONDS = 1800  # in which all machines must have started, or started again
AGENT_LOGGERS = ("torch.distributed.elastic", "torch.multiprocessing.spawn", "torchelastic-events-null")
NO_SHARED_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
HOSTING_DELAY = 1.0  # seconds for the agents of the other machines to end
AGENT_SIGNALS_ARE_CONFIGURABLE = "signals_to_handle" in {field.name for field in fields(LaunchConfig)}  # torch 2.9

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProcessLayout:
    """The processes of a run."""

    processes_per_machine: int = 1
    num_machines: int = 1
    machine_rank: int = 0  # of this machine
    url: str = "auto"  # tcp://HOST:PORT of the machine of rank 0, where the agents meet; auto on a single machine
    device: str = "cpu"  # of the models, a torch device; with cuda each process has its own GPU
    max_restarts: int = 0  # of all processes, after one of them failed

    @property
    def world_size(self) -> int:
        """Processes on all machines."""
        return self.processes_per_machine * self.num_machines

    @property
    def device_type(self) -> str:
        """cuda or cpu, without a number."""
        return torch.device(self.device).type


def launch(work: Work, arguments: Sequence[Any], layout: ProcessLayout) -> int:
    """Call `work(*arguments)` in every process of the layout; in this process if it is the only one.

    Under torchrun the processes exist already, and the layout is torchrun's.

    Args:
        work: a module-level function that returns an exit status.
        arguments: of the work; picklable.
        layout: the processes.

    Returns:
        The exit status: 0; what `work` returned otherwise in a process; 1 after a failure; 128 + number after a signal.

    Raises:
        UserError: an impossible layout, machines that do not meet, or as one process raised it.
        NonFiniteLossError: as one process raised it.
    """
    if is_started_by_torchrun():
        _check_device(layout.device, int(os.environ["WORLD_SIZE"]))
        join_from_environment(device_type=layout.device_type)
        try:
            return work(*arguments)
        finally:
            leave_processes()
    _check(layout)
    if layout.world_size == 1 and not layout.max_restarts:
        return work(*arguments)
    with tempfile.TemporaryDirectory(prefix="mrcnn_zoo_") as reports:
        return _WorkerGroup(layout, Path(reports)).run(work, arguments)


def _check(layout: ProcessLayout) -> None:
    if layout.processes_per_machine < 1 or layout.num_machines < 1:
        raise UserError(
            f"--num-gpus {layout.processes_per_machine} and --num-machines {layout.num_machines} must be at least 1."
        )
    if not 0 <= layout.machine_rank < layout.num_machines:
        raise UserError(
            f"--machine-rank {layout.machine_rank} must be below --num-machines {layout.num_machines}, and at least 0."
        )
    if layout.num_machines > 1:
        _check_url(layout.url)
    _check_device(layout.device, layout.world_size)
    gpus = torch.cuda.device_count()
    if layout.device_type == "cuda" and gpus < layout.processes_per_machine:
        raise UserError(
            f"--num-gpus {layout.processes_per_machine}, but this machine has {gpus}. Use fewer, or processes on the "
            f"CPU: MODEL.DEVICE cpu."
        )


def _check_url(url: str) -> None:
    example = "the address of the machine of rank 0 and a free port there, e.g. tcp://10.0.0.1:29500"
    if url == "auto":
        raise UserError(f"several machines need --dist-url with {example}.")
    try:
        parts = urlsplit(url)
        is_complete = parts.scheme == "tcp" and bool(parts.hostname) and bool(parts.port)
    except ValueError:  # the port is no number, or too large
        is_complete = False
    if not is_complete:
        raise UserError(f"--dist-url {url} must be {example}.")


def _check_device(device: str, world_size: int) -> None:
    name, _, number = device.partition(":")
    if world_size > 1 and number:
        raise UserError(
            f"MODEL.DEVICE = {device} is one device, but there are {world_size} processes. Use MODEL.DEVICE "
            f"{name}; CUDA_VISIBLE_DEVICES selects their GPUs."
        )


def _agent_config(layout: ProcessLayout, folder: Path) -> LaunchConfig:
    """The settings of the elastic agent of this machine; c10d rendezvous, hosted by the machine of rank 0."""
    is_host = layout.machine_rank == 0
    extra: dict[str, Any] = {"signals_to_handle": "SIGHUP,SIGQUIT"} if AGENT_SIGNALS_ARE_CONFIGURABLE else {}
    endpoint, host = "127.0.0.1:0", "127.0.0.1"
    if layout.num_machines > 1:
        parts = urlsplit(layout.url)
        endpoint, host = parts.netloc, str(parts.hostname)
    return LaunchConfig(
        min_nodes=layout.num_machines,
        max_nodes=layout.num_machines,
        nproc_per_node=layout.processes_per_machine,
        run_id="mrcnn_zoo",  # the same on all machines
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint,
        rdzv_configs={"is_host": is_host, "join_timeout": MEETING_SECONDS, "read_timeout": MEETING_SECONDS},
        # The agents are ranked by these names, and the first must be an address: that of the host. "~" sorts after all.
        local_addr=host if is_host else f"~{layout.machine_rank:06d}",
        max_restarts=layout.max_restarts,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder)),  # nothing is redirected to it
        # SIGINT and SIGTERM are handled by `_WorkerGroup`.
        **extra,
    )


class _WorkerGroup:
    """The workers of this machine, which the elastic agent starts, restarts after a failure, and ends.

    An end that a restart cannot repair stops the agent by a KeyboardInterrupt in this process: a report of a worker, a
    signal to this process after which a worker failed or SAVE_SECONDS passed, or a second Ctrl-C.
    """

    def __init__(self, layout: ProcessLayout, folder: Path) -> None:
        self._layout = layout
        self._folder = folder  # of reports
        self._signal = 0  # the first that arrived
        self._workers: list[BaseProcess] = []  # that were alive then
        self._is_stopped = False
        self._failures = 0

    def run(self, work: Work, arguments: Sequence[Any]) -> int:
        """The exit status of the whole, when all workers have ended."""
        try:
            with self._handling_signals(), self._logging_failures(), _own_store_per_attempt(), _hosting(self._layout):
                start = elastic_launch(_agent_config(self._layout, self._folder / "agent"), run_worker)
                start(work, tuple(arguments), self._layout.device_type, str(self._folder))
        except KeyboardInterrupt:
            return self._conclude(FAILED)
        except ChildFailedError as error:
            _, failure = error.get_first_failure()
            return self._conclude(max(failure.exitcode, FAILED))
        except SignalException as error:
            return 128 + error.sigval
        except (RendezvousError, dist.DistNetworkError) as error:
            self._fail_to_meet(error)
            return FAILED
        return 0

    def _conclude(self, status: int) -> int:
        """Raise the forwarded error of a worker, or return the exit status of the group."""
        reports = read_reports(self._folder)
        for report in reports:
            if report.error:
                raise FORWARDED_ERRORS[report.error](report.message)
        if reports and reports[0].is_failure:
            logger.error("%s", reports[0].message)
        elif reports:
            status = reports[0].status
        return 128 + self._signal if self._signal else status

    def _fail_to_meet(self, error: Exception) -> None:
        if not (self._folder / STARTED).exists():
            raise UserError(
                f"--dist-url {self._layout.url}: {self._layout.num_machines} machines did not meet there "
                f"({error.__cause__ or error}). Start the same command on each, with its own --machine-rank."
            ) from error
        logger.error("the run ends: another machine has ended (%s)", error.__cause__ or error)

    @contextmanager
    def _handling_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handled = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD)
        former = {number: signal.signal(number, self._on_signal) for number in handled}
        agents_handler = agent_processes._terminate_process_handler
        if not AGENT_SIGNALS_ARE_CONFIGURABLE:  # the agent installs this handler when it starts the workers
            agent_processes._terminate_process_handler = self._on_signal  # type: ignore[assignment]
        try:
            yield
        finally:
            self._is_stopped = True
            agent_processes._terminate_process_handler = agents_handler
            if self._signal:
                signal.alarm(0)
            for number, handler in former.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._is_stopped:
            return
        if number == signal.SIGCHLD:
            is_over = any(not report.is_failure for report in read_reports(self._folder))
            is_over = is_over or any(worker.exitcode for worker in self._workers)
        elif not self._signal:
            is_over = not self._forward(number)
        else:
            is_over = number in (signal.SIGINT, signal.SIGALRM)  # a second Ctrl-C; SAVE_SECONDS are over
        if is_over:
            self._is_stopped = True
            for worker in multiprocessing.active_children():
                worker.kill()
            raise KeyboardInterrupt

    def _forward(self, number: int) -> bool:
        """Terminate the workers after SAVE_SECONDS to save; returns whether there are any."""
        self._signal = number
        self._workers = multiprocessing.active_children()
        for worker in self._workers:
            # SIGTERM for both: a terminal's Ctrl-C has reached the workers already, and a second one would stop them
            # before they have saved.
            worker.terminate()
        signal.alarm(SAVE_SECONDS)
        return bool(self._workers)

    @contextmanager
    def _logging_failures(self) -> Iterator[None]:
        """Log each failure that the agent logs as an exception as one line; drop its other messages."""
        handler = _FailureHandler(self._on_failure)
        loggers = [logging.getLogger(name) for name in AGENT_LOGGERS]
        for agent_logger in loggers:
            agent_logger.addHandler(handler)
            agent_logger.propagate = False
        try:
            yield
        finally:
            for agent_logger in loggers:
                agent_logger.removeHandler(handler)
                agent_logger.propagate = True

    def _on_failure(self, local_rank: int, status: int) -> None:
        if self._is_stopped or self._signal or any(not report.is_failure for report in read_reports(self._folder)):
            return
        self._failures += 1
        path = self._folder / f"{local_rank}.json"
        if path.exists():
            logger.error("%s", json.loads(path.read_text(encoding="utf-8"))["message"])
        for path in self._folder.glob("*.json"):  # others failed because of this one
            path.unlink()
        rank = self._layout.machine_rank * self._layout.processes_per_machine + local_rank
        how = f"exit status {status}" if status > 0 else f"killed by {signal.Signals(-status).name}"
        restarts = self._layout.max_restarts
        if self._failures > restarts:
            logger.error("process %d failed (%s); the others were ended", rank, how)
        else:
            logger.error(
                "process %d failed (%s); restart %d of %d from the last checkpoint", rank, how, self._failures, restarts
            )


class _FailureHandler(logging.Handler):
    """Calls a function with local rank and exit status of each worker that failed; drops all other records."""

    def __init__(self, on_failure: Callable[[int, int], None]) -> None:
        super().__init__()
        self._on_failure = on_failure

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, ProcessExitedException):
            self._on_failure(error.error_index, error.exit_code)


@contextmanager
def _hosting(layout: ProcessLayout) -> Iterator[None]:
    """Host the rendezvous store on machine 0 until the agents of the other machines have ended."""
    if layout.num_machines == 1 or layout.machine_rank > 0:
        yield
        return
    parts = urlsplit(layout.url)
    host, port = str(parts.hostname), int(parts.port or 0)
    store = dist.TCPStore(host, port, is_master=True, multi_tenant=True, wait_for_workers=False)
    yield
    time.sleep(HOSTING_DELAY)
    del store


@contextmanager
def _own_store_per_attempt() -> Iterator[None]:
    """Disable the agents' shared store: after a restart it would have the addresses of ended processes."""
    former = os.environ.get(NO_SHARED_STORE)
    os.environ[NO_SHARED_STORE] = "1"
    try:
        yield
    finally:
        os.environ.pop(NO_SHARED_STORE)
        os.environ.update({} if former is None else {NO_SHARED_STORE: former})
