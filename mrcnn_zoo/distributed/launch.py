"""Starts the processes of a run on this machine and ends all of them when one fails."""

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any

import torch

from mrcnn_zoo.distributed.processes import (
    is_started_by_torchrun,
    join_from_environment,
    join_processes,
    leave_processes,
)
from mrcnn_zoo.errors import NonFiniteLossError, UserError

Work = Callable[..., int]  # -> exit status; a function of a module, so that new processes can import it

FAILED = 1
INTERRUPTED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
TOLD_ERRORS: dict[str, type[Exception]] = {"mistake": UserError, "non-finite": NonFiniteLossError}
ORPHAN_SECONDS = 120.0  # to save and end in, for a process whose parent is gone
LOOK_EVERY = 1.0  # seconds between two looks at signals that arrived

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """Which processes make up a run."""

    processes_per_machine: int = 1
    num_machines: int = 1
    machine_rank: int = 0  # of this machine
    url: str = "auto"  # where all meet, e.g. tcp://10.0.0.1:29500; auto on a single machine
    device: str = "cpu"  # that the models run on, as torch names it; with cuda each process has a GPU of its own

    @property
    def world_size(self) -> int:
        """Processes on all machines."""
        return self.processes_per_machine * self.num_machines

    @property
    def device_type(self) -> str:
        """cuda or cpu, without a number."""
        return torch.device(self.device).type


def launch(work: Work, arguments: Sequence[Any], layout: Layout) -> int:
    """Call `work(*arguments)` in every process of the layout, or right here when that is only this one.

    Under torchrun the processes exist already, and the layout is torchrun's.

    Returns:
        The exit status: 0, or that of the first process that failed; the others are ended then.

    Raises:
        UserError: an impossible layout, or what one process raised as such.
    """
    if is_started_by_torchrun():
        _check_device(layout.device, int(os.environ["WORLD_SIZE"]))
        join_from_environment(device_type=layout.device_type)
        try:
            return work(*arguments)
        finally:
            leave_processes()
    _check(layout)
    if layout.world_size == 1:
        return work(*arguments)
    url = f"tcp://127.0.0.1:{_free_port()}" if layout.url == "auto" else layout.url
    return _Crew(work, arguments, layout, url).run()


def _check(layout: Layout) -> None:
    if layout.processes_per_machine < 1 or layout.num_machines < 1:
        raise UserError(
            f"--num-gpus {layout.processes_per_machine} and --num-machines {layout.num_machines} must be at least 1."
        )
    if not 0 <= layout.machine_rank < layout.num_machines:
        raise UserError(
            f"--machine-rank {layout.machine_rank} must be below --num-machines {layout.num_machines}, and at least 0."
        )
    if layout.num_machines > 1 and layout.url == "auto":
        raise UserError("several machines need --dist-url with the address of the first, e.g. tcp://10.0.0.1:29500.")
    _check_device(layout.device, layout.world_size)
    gpus = torch.cuda.device_count()
    if layout.device_type == "cuda" and gpus < layout.processes_per_machine:
        raise UserError(
            f"--num-gpus {layout.processes_per_machine}, but this machine has {gpus}. Ask for fewer, or for processes "
            f"on the CPU: MODEL.DEVICE cpu."
        )


def _check_device(device: str, world_size: int) -> None:
    name, _, number = device.partition(":")
    if world_size > 1 and number:
        raise UserError(
            f"MODEL.DEVICE = {device} is one device, but there are {world_size} processes. Use MODEL.DEVICE "
            f"{name}; the variable CUDA_VISIBLE_DEVICES says which GPUs they take."
        )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class _Crew:
    """The processes of this machine, from their start to their end."""

    def __init__(self, work: Work, arguments: Sequence[Any], layout: Layout, url: str) -> None:
        context = multiprocessing.get_context("spawn")  # forked processes cannot use CUDA
        self._members: list[SpawnProcess] = []
        self._messages: list[Connection] = []
        self._signal = 0
        for local_rank in range(layout.processes_per_machine):
            receiver, sender = context.Pipe(duplex=False)
            member = context.Process(target=_member, args=(work, tuple(arguments), layout, local_rank, url, sender))
            member.start()
            sender.close()
            self._members.append(member)
            self._messages.append(receiver)

    def run(self) -> int:
        """Wait for all; the exit status of the whole.

        Raises:
            UserError, NonFiniteLossError: as a process has raised it.
        """
        with self._passing_signals_on():
            status = self._wait()
        return 128 + self._signal if status and self._signal else status

    def _wait(self) -> int:
        """Until all have ended well, or one has not: then the others, who may wait for it for ever, are killed."""
        running = {member.sentinel: number for number, member in enumerate(self._members)}
        interruption = 0
        while running:
            for sentinel in wait(list(running), timeout=LOOK_EVERY):
                number = running.pop(sentinel)  # type: ignore[arg-type]
                self._members[number].join()
                status = self._members[number].exitcode or 0
                if status not in (0, *INTERRUPTED):
                    self._end_all()
                    if not self._signal:
                        self._report(number, status)
                    return status if status > 0 else FAILED
                interruption = interruption or status
        return interruption

    def _end_all(self) -> None:
        for member in self._members:
            if member.is_alive():
                member.kill()
        for member in self._members:
            member.join()

    def _report(self, number: int, status: int) -> None:
        """Raise what a process has raised, where its message says all, or tell which process failed."""
        try:
            kind, message = self._messages[number].recv()
        except EOFError:  # it had nothing to tell
            pass
        else:
            raise TOLD_ERRORS[kind](message)
        how = f"exit status {status}" if status > 0 else f"killed by {signal.Signals(-status).name}"
        logger.error("process %d failed (%s); the others were ended", number, how)

    @contextmanager
    def _passing_signals_on(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = {number: signal.signal(number, self._pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._signal and number == signal.SIGINT:
            self._end_all()
            raise KeyboardInterrupt
        self._signal = number
        for member in self._members:
            # SIGTERM for both: a terminal's Ctrl-C has reached the processes already, and a second one would stop them
            # before they have saved.
            if member.is_alive():
                member.terminate()


def _member(
    work: Work, arguments: tuple[Any, ...], layout: Layout, local_rank: int, url: str, messages: Connection
) -> None:
    """What a new process does; its exit status is that of the work."""
    _end_with_parent()
    if layout.device_type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // layout.processes_per_machine))
    status, is_orderly = FAILED, False
    try:
        rank = layout.machine_rank * layout.processes_per_machine + local_rank
        join_processes(
            url,
            rank=rank,
            world_size=layout.world_size,
            local_rank=local_rank,
            device_type=layout.device_type,
        )
        status, is_orderly = work(*arguments), True
    except tuple(TOLD_ERRORS.values()) as error:
        kind = next(name for name, known in TOLD_ERRORS.items() if isinstance(error, known))
        messages.send((kind, str(error)))
    except KeyboardInterrupt:
        pass  # a second one, or one before training: there is nothing to save
    except Exception:
        traceback.print_exc()
    if is_orderly:
        leave_processes()
        sys.exit(status)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # an orderly end might wait for processes that wait for this one


def _end_with_parent() -> None:
    """Stop this process when the one that started it is gone, even if that was killed: first kindly, then not."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_SECONDS)
        os._exit(FAILED)

    threading.Thread(target=watch, daemon=True).start()
