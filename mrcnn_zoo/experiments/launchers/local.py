"""Trainings on this machine, some at a time, which share its cores and GPUs."""

import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from mrcnn_zoo.experiments.launchers.contract import LaunchOptions, TrainingProcess
from mrcnn_zoo.experiments.locks import is_locked
from mrcnn_zoo.experiments.records import FINISHED, RUN_LOCK, read_run_file
from mrcnn_zoo.registries import LAUNCHERS

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
THREADS = "OMP_NUM_THREADS"


class LocalLauncher:
    """Trains up to `jobs` runs at the same time.

    Args:
        jobs: at the same time.
        cores: of the machine, shared among the jobs.
        gpus: names of devices; job i uses device i modulo their number; empty without GPUs.
    """

    def __init__(self, *, jobs: int, cores: int, gpus: Sequence[str] = ()) -> None:
        self._cores_per_job = max(1, cores // jobs)
        self._gpus = list(gpus)
        self._waiting: deque[Path] = deque()
        self._ended: list[Path] = []
        self._running: dict[int, TrainingProcess] = {}  # by slot
        self._elsewhere: dict[int, Path] = {}  # trained by a process that an earlier, killed sweep has started
        self._slots = range(jobs)

    def submit(self, folders: Sequence[Path]) -> None:
        self._waiting.extend(folders)

    def poll(self) -> list[Path]:
        for slot, process in list(self._running.items()):
            if process.poll():
                del self._running[slot]
                self._ended.append(process.folder)
        for slot, folder in list(self._elsewhere.items()):
            if not is_locked(folder / RUN_LOCK):
                del self._elsewhere[slot]
                self._waiting.appendleft(folder)
        for slot in self._slots:
            if self._waiting and slot not in self._running and slot not in self._elsewhere:
                self._start(self._waiting.popleft(), slot)
        ended, self._ended = self._ended, []
        return ended

    def stop(self, folder: Path) -> None:
        for process in self._running.values():
            if process.folder == folder:
                process.interrupt()

    def interrupt(self) -> None:
        for process in self._running.values():
            process.interrupt()
        self._ended += [*self._waiting, *self._elsewhere.values()]
        self._waiting.clear()
        self._elsewhere.clear()

    def kill(self) -> None:
        for process in self._running.values():
            process.kill()

    def _start(self, folder: Path, slot: int) -> None:
        process = self._process(folder, slot)
        if read_run_file(folder).get("status") == FINISHED:
            self._ended.append(folder)
        elif process.start():
            self._running[slot] = process
        else:
            self._elsewhere[slot] = folder

    def _process(self, folder: Path, slot: int) -> TrainingProcess:
        return TrainingProcess(folder, environment=self._variables(slot))

    def _variables(self, slot: int) -> dict[str, str]:
        variables = {} if THREADS in os.environ else {THREADS: str(self._cores_per_job)}
        return variables | ({VISIBLE_GPUS: self._gpus[slot % len(self._gpus)]} if self._gpus else {})


@LAUNCHERS.register("local")
def build_local_launcher(options: LaunchOptions) -> LocalLauncher:
    gpus = visible_gpus()
    return LocalLauncher(jobs=options.jobs or len(gpus) or 1, cores=available_cores(), gpus=gpus)


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    names = [name.strip() for name in os.environ.get(VISIBLE_GPUS, "").split(",") if name.strip()]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return names[:count] if names else [str(index) for index in range(count)]
