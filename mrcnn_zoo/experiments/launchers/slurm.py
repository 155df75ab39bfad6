"""Trainings as jobs of a Slurm cluster, through submitit: ready runs are submitted as one array.

Jobs do not depend on the command that has submitted them: it may end at any time, and the next one finds them by their
ids in run.json. It is needed to submit runs that start from the weights of others.
"""

import logging
import os
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

import mrcnn_zoo
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.experiments.launchers.contract import LaunchOptions
from mrcnn_zoo.experiments.launchers.slurm_job import TrainingJob
from mrcnn_zoo.experiments.launchers.slurm_settings import SECTION, SlurmSettings, read_settings
from mrcnn_zoo.experiments.locks import is_locked
from mrcnn_zoo.experiments.records import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    RUN_LOCK,
    read_run_file,
    update_run_file,
)
from mrcnn_zoo.registries import LAUNCHERS

LOGS = "slurm"  # folder of a sweep with scripts and logs of the jobs
JOB = "job"  # field of run.json
INSTALL = 'pip install "mrcnn_zoo[slurm]"'
SECONDS_TO_SAVE = 120  # between the signal and the end of a job at its time limit
SECONDS_BETWEEN_CHECKS = 30.0  # of the queue
CHECKS = 2  # in which a job must be missing: a shared file system shows its last state later

logger = logging.getLogger(__name__)


class Queue(Protocol):
    """The queue of a cluster."""

    seconds: float  # between two checks

    def alive(self, jobs: Collection[str]) -> set[str] | None:
        """Which jobs wait or run; None where the queue cannot be read now.

        Args:
            jobs: their ids.
        """
        ...

    def cancel(self, job: str) -> None:
        """End a job.

        Args:
            job: its id.
        """
        ...


class SlurmQueue:
    """Slurm's, with its own commands."""

    seconds = SECONDS_BETWEEN_CHECKS

    def alive(self, jobs: Collection[str]) -> set[str] | None:
        command = ["squeue", "--noheader", "--array", "--user", str(os.getuid()), "--format", "%i"]
        try:
            listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            logger.warning("squeue failed, and is tried again: %s", error)
            return None
        return set(jobs) & set(listed.stdout.split())

    def cancel(self, job: str) -> None:
        subprocess.run(["scancel", job], check=False, timeout=60)


class LocalQueue:
    """Submitit's processes of this machine, whose ids are those of their controllers."""

    seconds = 0.0

    def __init__(self) -> None:
        self.jobs: list[Any] = []

    def alive(self, jobs: Collection[str]) -> set[str] | None:
        for job in self.jobs:
            job.get_info()  # collects ended children
        return {job for job in jobs if _is_process(int(job))}

    def cancel(self, job: str) -> None:
        for own in self.jobs:
            if own.job_id == job:
                own.cancel()


def _is_process(number: int) -> bool:
    try:
        os.kill(number, 0)
    except OSError:
        return False
    return True


class SlurmLauncher:
    """Submits trainings as jobs, and watches them by run.json and the queue.

    Args:
        executor: of submitit, with its parameters.
        queue: of the same cluster.
        settings: of each job.
    """

    def __init__(self, executor: Any, queue: Queue, settings: SlurmSettings) -> None:
        self._executor = executor
        self._queue = queue
        self._settings = settings
        self._waiting: deque[Path] = deque()
        self._submitted: dict[Path, str] = {}  # folder of a run -> id of its job
        self._ended: list[Path] = []
        self._missing: dict[Path, int] = {}  # checks in which the job was not in the queue
        self._checked = -self._queue.seconds

    def submit(self, folders: Sequence[Path]) -> None:
        if not folders:
            return
        former = {folder: read_run_file(folder).get(JOB, "") for folder in folders}
        alive = self._queue.alive(list(filter(None, former.values())))
        for folder, job in former.items():
            if job and (alive is None or job in alive):
                self._submitted[folder] = job
                logger.info("%s: job %s of an earlier command continues", folder, job)
            else:
                self._waiting.append(folder)

    def poll(self) -> list[Path]:
        self._submit_waiting()
        for folder in list(self._submitted):
            if read_run_file(folder).get("status") in (FINISHED, FAILED):
                self._end(folder)
        if time.monotonic() - self._checked >= self._queue.seconds:
            self._checked = time.monotonic()
            self._check_queue()
        ended, self._ended = self._ended, []
        return ended

    def stop(self, folder: Path) -> None:
        if folder in self._submitted:
            self._queue.cancel(self._submitted[folder])

    def interrupt(self) -> None:
        """Leave the jobs to the cluster: logging out must not end them."""
        if self._submitted:
            jobs = " ".join(self._submitted.values())
            count = counted(len(self._submitted), "job")
            logger.info("%s: the same command watches them again; `scancel %s` ends them", f"{count} left alone", jobs)
        self._ended += [*self._waiting, *self._submitted]
        self._waiting.clear()
        self._submitted.clear()

    def kill(self) -> None:
        self.interrupt()

    def _submit_waiting(self) -> None:
        """Submit all that wait as an array, in which Slurm limits the number at the same time; else up to the limit."""
        room = len(self._waiting)
        if isinstance(self._queue, LocalQueue):
            room = min(room, self._settings.max_parallel - len(self._submitted))
        folders = [self._waiting.popleft() for _ in range(room)]
        if not folders:
            return
        try:
            with self._executor.batch():
                own = self._settings
                jobs = [
                    self._executor.submit(TrainingJob(folder.absolute(), gpus=own.gpus, nodes=own.nodes))
                    for folder in folders
                ]
        except Exception as error:  # of sbatch: a partition, an account or a limit
            raise UserError(f"{SECTION}: the jobs cannot be submitted: {error}") from error
        for folder, job in zip(folders, jobs, strict=True):
            self._submitted[folder] = job.job_id
            update_run_file(folder, {JOB: job.job_id})
        if isinstance(self._queue, LocalQueue):
            self._queue.jobs += jobs
        logger.info("%s submitted: %s", counted(len(jobs), "job"), ", ".join(self._submitted[name] for name in folders))

    def _check_queue(self) -> None:
        """End the runs whose jobs are gone without a recorded end: cancelled, killed, or never begun."""
        alive = self._queue.alive(self._submitted.values()) if self._submitted else None
        for folder, job in list(self._submitted.items()):
            if alive is None or job in alive or is_locked(folder / RUN_LOCK):
                self._missing.pop(folder, None)
                continue
            self._missing[folder] = self._missing.get(folder, 0) + 1
            if self._missing[folder] < CHECKS:
                continue
            state = read_run_file(folder)
            if state.get("status") not in (FINISHED, FAILED):
                error = "" if "started" in state else f"job {job} ended before its training began: {self._logs(job)}"
                update_run_file(folder, {"status": FAILED if error else INTERRUPTED, "error": error})
            self._end(folder)

    def _logs(self, job: str) -> str:
        return str(Path(self._executor.folder) / f"{job}_0_log.err")

    def _end(self, folder: Path) -> None:
        del self._submitted[folder]
        self._missing.pop(folder, None)
        self._ended.append(folder)


@LAUNCHERS.register("slurm")
def build_slurm_launcher(options: LaunchOptions) -> SlurmLauncher:
    settings = read_settings(options.settings, jobs=options.jobs)
    try:
        import submitit
    except ImportError as error:
        raise UserError(f"--launcher slurm needs submitit, which is not installed: {INSTALL}") from error
    logs = options.folder.absolute() / LOGS
    if settings.cluster == "local":
        if settings.nodes > 1:
            raise UserError(f"{SECTION}.NODES = {settings.nodes}: CLUSTER local has one node.")
        executor: Any = submitit.LocalExecutor(logs, max_num_timeout=settings.requeues)
        executor.update_parameters(
            timeout_min=settings.time, gpus_per_node=settings.gpus, signal_delay_s=SECONDS_TO_SAVE
        )
        return SlurmLauncher(executor, LocalQueue(), settings)
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise UserError(
            "--launcher slurm: sbatch and srun are not found, so this is no machine of a Slurm cluster. Use --launcher "
            f"local, or `{SECTION}: {{CLUSTER: local}}` to try this launcher."
        )
    executor = submitit.SlurmExecutor(logs, max_num_timeout=settings.requeues)
    executor.update_parameters(**sbatch_parameters(settings, name=options.folder.name))
    return SlurmLauncher(executor, SlurmQueue(), settings)


def sbatch_parameters(settings: SlurmSettings, *, name: str) -> dict[str, Any]:
    """The parameters of submitit's SlurmExecutor.

    Args:
        settings: of each job.
        name: of the jobs.
    """
    package = Path(mrcnn_zoo.__file__).parents[1]
    given = {
        "job_name": name,
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "time": settings.time,
        "nodes": settings.nodes,
        "ntasks_per_node": 1,
        "gpus_per_node": settings.gpus,
        "cpus_per_task": settings.cpus,
        "mem": f"{settings.memory:g}GB" if settings.memory == int(settings.memory) and settings.memory else "",
        "array_parallelism": settings.max_parallel,
        "signal_delay_s": SECONDS_TO_SAVE,
        "setup": [f'export PYTHONPATH="{package}:$PYTHONPATH"', *settings.setup],
        "additional_parameters": {"requeue": True, **(settings.options or {})},
    }
    if settings.memory != int(settings.memory):
        given["mem"] = f"{round(settings.memory * 1024)}MB"
    return {key: value for key, value in given.items() if value not in ("", 0)}
