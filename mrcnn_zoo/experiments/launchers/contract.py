"""The interface of launchers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


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
