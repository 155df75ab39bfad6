"""The interface of launchers, and the process with lock, log and state in which each of them trains a run."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import mrcnn_zoo
from mrcnn_zoo.config import changed_config, load_config
from mrcnn_zoo.config.stage_list import InheritedPart
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.experiments.locks import FolderLock
from mrcnn_zoo.experiments.records import (
    CONSOLE_LOG,
    FAILED,
    FINISHED,
    INTERRUPTED,
    RUN_LOCK,
    RUNNING,
    read_run_file,
    stage_records,
    update_run_file,
)
from mrcnn_zoo.experiments.runs import FINAL_WEIGHTS, INITIAL_WEIGHTS, RUN_CONFIG

ERROR_LINES = 8  # of the log that are recorded
ERROR_CHARACTERS = 2000
LOG_TAIL = 20_000  # bytes in which they are searched
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class LaunchOptions:
    """Options of `sweep run` for the builder of a launcher.

    Args:
        folder: of the sweep.
        jobs: trainings at the same time; 0 for the launcher's default.
        settings: of the launcher, from the sweep's file, e.g. of its section SLURM.
    """

    folder: Path
    jobs: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)


class Launcher(Protocol):
    """Trains runs, each with `mrcnn-zoo train --config-file FOLDER/run.yaml --resume` in a new process.

    A launcher trains by `TrainingProcess`, which records the state of the run in its run.json.
    """

    def submit(self, folders: Sequence[Path]) -> None:
        """Start trainings now, or when others have ended.

        Args:
            folders: of runs; the runs whose weights they take are finished.
        """
        ...

    def poll(self) -> list[Path]:
        """The folders of submitted trainings that have ended since the last call, also those that never began."""
        ...

    def stop(self, folder: Path) -> None:
        """Let one submitted training save and end; without effect on one that an earlier process has started.

        Args:
            folder: of its run.
        """
        ...

    def interrupt(self) -> None:
        """Stop: trainings save a checkpoint and end as "interrupted", those that wait do not begin."""
        ...

    def kill(self) -> None:
        """Stop at once, without saving."""
        ...


class TrainingProcess:
    """Trains one run; other processes cannot train in its folder meanwhile.

    The lock of the folder is inherited by the training, which so keeps it even if this process is killed.

    Args:
        folder: of the run, with run.yaml and run.json.
        environment: variables in addition to those of this process.
        prefix: of the command, e.g. of torchrun; empty for one process.
        options: of `mrcnn-zoo train`, at its end.
    """

    def __init__(
        self,
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self._environment = dict(environment or {})
        self._command = [*(prefix or (sys.executable,)), "-m", "mrcnn_zoo", "train"]
        self._command += ["--config-file", str(folder / RUN_CONFIG), "--resume", *options]
        self._lock = FolderLock(folder / RUN_LOCK)
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._is_killed = False

    def start(self) -> bool:
        """Start the training; False where another process trains in the folder.

        A training whose initial weights cannot be made has failed when this returns.
        """
        if not self._lock.acquire():
            return False
        self._started = time.time()
        try:
            write_initial_weights(self.folder)
        except (UserError, OSError, RuntimeError) as error:
            self._end(FAILED, str(error))
            return True
        with (self.folder / CONSOLE_LOG).open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._variables(),
                pass_fds=(self._lock.file_descriptor,),
                start_new_session=True,  # a terminal's Ctrl-C reaches this process, which passes it on once
            )
        host = os.uname().nodename
        state = {"pid": self._process.pid, "host": host, "started": self._started, "error": "", "status": RUNNING}
        try:
            update_run_file(self.folder, state)
        except (OSError, UserError):  # e.g. a full disk; the caller does not know this training
            self.interrupt()
            raise
        return True

    def poll(self) -> bool:
        """Whether the training has ended; its state is then recorded."""
        if self._process is None:
            return True
        status = self._process.poll()
        if status is None:
            return False
        self._process = None
        if status == 0:
            self._end(FINISHED)
        elif self._is_killed or status in [128 + number for number in INTERRUPTIONS] or -status in INTERRUPTIONS:
            self._end(INTERRUPTED)
        else:
            self._end(FAILED, _error_of(self.folder / CONSOLE_LOG, status))
        return True

    def interrupt(self) -> None:
        """Let the training save and end."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the training and its loader processes at once."""
        if self._process is not None:
            self._is_killed = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _variables(self) -> dict[str, str]:
        # The package of this process, wherever the command is started.
        package = str(Path(mrcnn_zoo.__file__).parents[1])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH", "")])]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **self._environment}

    def _end(self, status: str, error: str = "") -> None:
        former = read_run_file(self.folder)
        ended = time.time()
        seconds = former.get("seconds", 0.0) + ended - self._started
        state = {"status": status, "error": error, "ended": ended, "seconds": seconds}
        with contextlib.suppress(UserError):  # a damaged stage.json; the training has failed with it
            state["stages"] = list(stage_records(self.folder))
        try:
            update_run_file(self.folder, state)
        finally:
            self._lock.release()


def write_initial_weights(folder: Path) -> None:
    """Join the weights that a run takes by part from other runs, unless it has been done.

    Args:
        folder: of the run.

    Raises:
        UserError: the parts do not fit the model.
    """
    parts = read_run_file(folder).get("inherited", [])
    path = folder / INITIAL_WEIGHTS
    if not parts or path.exists():
        return
    from mrcnn_zoo.modeling import build_model
    from mrcnn_zoo.training.stages.inheritance import join_weights

    own, base = load_config(folder / RUN_CONFIG), read_run_file(folder).get("base_weights", "")
    cfg = changed_config(own, {"MODEL.WEIGHTS": base, "MODEL.DEVICE": "cpu"})
    files = {part["source_run"]: folder / part["folder"] / FINAL_WEIGHTS for part in parts}
    inherited = [InheritedPart(part["part"], part["source_run"], part["source"]) for part in parts]
    join_weights(build_model(cfg), inherited, files, base=base).write(path)


def _error_of(log: Path, status: int) -> str:
    """The last lines of a log, from the last "error: " on where there is one."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL))
        lines = [line.rstrip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    shown = lines[starts[-1] :] if starts and starts[-1] >= len(lines) - ERROR_LINES else lines[-ERROR_LINES:]
    text = "\n".join(shown)[-ERROR_CHARACTERS:]
    if status < 0:
        name = signal.Signals(-status).name
        memory = ", perhaps because memory ran out" if -status == signal.SIGKILL else ""
        return f"ended by {name}{memory}\n{text}"
    return text or f"exit status {status}"
