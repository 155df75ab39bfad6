"""What a job of the launcher slurm does: it trains one run, and is queued again where it is interrupted.

| signal | sent | the job |
|---|---|---|
| SIGUSR2 | before the time limit; before a preemption, where the cluster is set so | saves, and queues itself again |
| SIGTERM | on a preemption, on scancel | saves, and leaves to the cluster whether it is queued again |
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mrcnn_zoo.experiments.launchers.contract import TrainingProcess
from mrcnn_zoo.experiments.records import FAILED, FINISHED, INTERRUPTED, WAITING, read_run_file, update_run_file
from mrcnn_zoo.experiments.runs import INITIAL_WEIGHTS, RUN_CONFIG

SECONDS_BETWEEN_POLLS = 0.5
SECONDS_FOR_LOCK = 120  # for the process of an interrupted job to end
SECONDS_FOR_CLUSTER = 300  # to end the job after a SIGTERM, once it has saved
FIRST_PORT, NUM_PORTS = 20_000, 20_000  # of the rendezvous of several nodes


class Process(Protocol):
    """The training of this node."""

    def poll(self) -> bool: ...

    def interrupt(self) -> None: ...


@dataclass
class TrainingJob:
    """Trains a run; called by submitit in each task of the job, of which there is one per node.

    Args:
        folder: of the run.
        gpus: per node, one process each; 0 for one process on the CPU.
        nodes: of the job.
    """

    folder: Path
    gpus: int = 0
    nodes: int = 1

    def __call__(self) -> str:
        """Train, and return the status of the run."""
        from submitit import JobEnvironment

        environment = JobEnvironment()
        requeue_signal = environment._usr_sig()
        requeue: Any = signal.getsignal(requeue_signal)  # submitit's
        received: list[int] = []
        # Submitit's own handlers ignore SIGTERM, and end this process on the other signal while the training continues.
        for number in (signal.SIGTERM, signal.SIGINT, requeue_signal):
            signal.signal(number, lambda number, _: received.append(number))
        process = self._start(environment, received)
        if process is not None:
            self._wait(process, received)
        if received and self._status() not in (FINISHED, FAILED):
            self._leave(received, requeue_signal, requeue, is_first=self._rank(environment) == 0)
        return self._status()

    def checkpoint(self) -> Any:
        """The same job again, which resumes from the last checkpoint of the run; called by submitit."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _status(self) -> str:
        return str(read_run_file(self.folder).get("status", WAITING))

    def _rank(self, environment: Any) -> int:
        return int(environment.node) if self.nodes > 1 else 0

    def _start(self, environment: Any, received: Sequence[int]) -> Process | None:
        """The training of this node; None where the run is finished, or another job trains it."""
        options = train_options(self, environment)
        if self._rank(environment) > 0:
            return _FollowingProcess(self.folder, options)
        process = TrainingProcess(self.folder, options=options)
        end = time.monotonic() + SECONDS_FOR_LOCK
        while time.monotonic() < end and not received and self._status() != FINISHED:
            if process.start():
                return process
            time.sleep(SECONDS_BETWEEN_POLLS)
        return None

    def _wait(self, process: Process, received: Sequence[int]) -> None:
        is_stopping = False
        while not process.poll():
            if received and not is_stopping:
                is_stopping = True
                process.interrupt()
            time.sleep(SECONDS_BETWEEN_POLLS)

    def _leave(
        self, received: Sequence[int], requeue_signal: int, requeue: Callable[[int, None], None], *, is_first: bool
    ) -> None:
        """Queue the job again, or wait for the cluster to end it: a job that ends by itself is not queued again."""
        if is_first:
            update_run_file(self.folder, {"status": WAITING})
        end = time.monotonic() + SECONDS_FOR_CLUSTER
        while requeue_signal not in received and signal.SIGINT not in received and time.monotonic() < end:
            time.sleep(SECONDS_BETWEEN_POLLS)
        if requeue_signal in received and is_first:
            requeue(requeue_signal, None)  # does not return
        while not is_first and time.monotonic() < end:  # this task must not end before the first one has queued the job
            time.sleep(SECONDS_BETWEEN_POLLS)
        if is_first:
            update_run_file(self.folder, {"status": INTERRUPTED})


def train_options(job: TrainingJob, environment: Any) -> list[str]:
    """The options of `mrcnn-zoo train` on a node of a job.

    Args:
        job: with its nodes and GPUs.
        environment: of submitit: rank of the node, names of the nodes, id of the job.
    """
    options = ["--num-gpus", str(job.gpus)] if job.gpus > 1 else []
    if job.nodes > 1:
        port = FIRST_PORT + int(environment.raw_job_id) % NUM_PORTS
        options += ["--num-machines", str(job.nodes), "--machine-rank", str(environment.node)]
        options += ["--dist-url", f"tcp://{environment.hostnames[0]}:{port}"]
    return options


class _FollowingProcess:
    """The training on another node than the first, whose job records the state of the run."""

    def __init__(self, folder: Path, options: Sequence[str]) -> None:
        self._folder = folder
        self._command = [sys.executable, "-m", "mrcnn_zoo", "train", "--config-file", str(folder / RUN_CONFIG)]
        self._command += ["--resume", *options]
        self._process: subprocess.Popen[bytes] | None = None
        self._is_interrupted = False

    def poll(self) -> bool:
        if self._process is None:
            is_ready = not read_run_file(self._folder).get("inherited") or (self._folder / INITIAL_WEIGHTS).exists()
            if is_ready and not self._is_interrupted:
                environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
                self._process = subprocess.Popen(self._command, env=environment, start_new_session=True)
            return self._is_interrupted
        return self._process.poll() is not None

    def interrupt(self) -> None:
        self._is_interrupted = True
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
