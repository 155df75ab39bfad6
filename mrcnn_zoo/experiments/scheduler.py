"""Trains the runs of a sweep through a launcher, sources before the runs that take their weights."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.experiments.launchers.contract import Launcher
from mrcnn_zoo.experiments.locks import FolderLock, owner_of
from mrcnn_zoo.experiments.plan import RESUME, RETRAIN, SKIP, TRAIN, PlannedRun
from mrcnn_zoo.experiments.records import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    RUNNING,
    RunRecord,
    read_run,
    update_run_file,
)
from mrcnn_zoo.experiments.runs import RunKey
from mrcnn_zoo.training.stopping import StopSignals

SWEEP_LOCK = "sweep.lock"
SECONDS_BETWEEN_POLLS = 0.2

Watch = Callable[[Mapping[RunKey, RunRecord]], None]  # called with the runs that have changed

logger = logging.getLogger(__name__)


class SweepLock:
    """Held while a sweep is run: a second `sweep run` in the folder is refused.

    Args:
        folder: of the sweep.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = FolderLock(folder / SWEEP_LOCK)

    def __enter__(self) -> "SweepLock":
        if not self._lock.acquire():
            folder = self._lock.path.parent
            raise UserError(
                f"{owner_of(self._lock.path)} runs the sweep in {folder} already. Wait for it, or watch it with "
                f"`mrcnn-zoo sweep status {folder}`."
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def run_sweep(planned: Sequence[PlannedRun], launcher: Launcher, *, watch: Watch) -> int:
    """Train the planned runs; those of failed sources are recorded as failed, all others are trained.

    Args:
        planned: all runs of the sweep, sources first; their configs are written.
        launcher: that trains.
        watch: called about five times per second.

    Returns:
        0; 1 if a run has not been finished; 128 plus the number of the signal that has stopped the sweep.
    """
    state = _State(planned)
    signals = StopSignals()
    is_interrupted = False
    try:
        with signals:
            while not state.is_done(is_interrupted=is_interrupted):
                if signals.received and not is_interrupted:
                    is_interrupted = True
                    launcher.interrupt()
                if not is_interrupted:
                    launcher.submit(state.take_ready())
                changed = state.end(launcher.poll())
                watch(changed)
                time.sleep(SECONDS_BETWEEN_POLLS)
    except (OSError, UserError):  # e.g. a full disk; the trainings end with a checkpoint
        launcher.interrupt()
        raise
    except KeyboardInterrupt:  # the second Ctrl-C
        launcher.interrupt()
        launcher.kill()
        while state.submitted:
            state.end(launcher.poll())
            time.sleep(SECONDS_BETWEEN_POLLS)
    if signals.received:
        return 128 + signals.received
    return 0 if all(status == FINISHED for status in state.status.values()) else 1


class _State:
    """The runs that wait, that are submitted, and how the others have ended."""

    def __init__(self, planned: Sequence[PlannedRun]) -> None:
        trained = [run.spec for run in planned if run.action in (TRAIN, RESUME, RETRAIN)]
        self._waiting = {spec.key: spec for spec in trained}
        self._keys = {spec.folder: spec.key for spec in trained}
        self.submitted: set[RunKey] = set()
        self.status = {run.spec.key: FINISHED for run in planned if run.action == SKIP}

    def is_done(self, *, is_interrupted: bool) -> bool:
        return not self.submitted and (is_interrupted or not self._waiting)

    def take_ready(self) -> list[Path]:
        """The folders of waiting runs whose sources are finished; runs of failed sources are recorded as failed."""
        ready: list[Path] = []
        for key, spec in list(self._waiting.items()):
            bad = [source for source in spec.sources if self.status.get(source, FINISHED) != FINISHED]
            if bad:
                del self._waiting[key]
                self.status[key] = FAILED
                how = "has failed" if self.status[bad[0]] == FAILED else "was interrupted"
                reason = f"not trained: {bad[0]}, whose weights it starts from, {how}"
                update_run_file(spec.folder, {"status": FAILED, "error": reason})
                logger.info("%s: %s", key, reason)
            elif all(source in self.status for source in spec.sources):
                del self._waiting[key]
                self.submitted.add(key)
                ready.append(spec.folder)
        return ready

    def end(self, folders: Sequence[Path]) -> dict[RunKey, RunRecord]:
        """Record how trainings have ended; returns their records."""
        ended = {}
        for folder in folders:
            key = self._keys[folder]
            ended[key] = read_run(key, folder)
            # A job of a cluster may have been killed while its loader processes still run.
            self.status[key] = INTERRUPTED if ended[key].status == RUNNING else ended[key].status
            self.submitted.discard(key)
        return ended
