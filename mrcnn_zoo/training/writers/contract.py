"""The interface of metric writers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mrcnn_zoo.inspection.pictures import PredictionPicture

BEST, FINAL = "best", "final"  # roles of a checkpoint

Results = Mapping[str, Mapping[str, float]]  # {"bbox": {"AP": ...}, "segm": {...}}


@dataclass(frozen=True)
class StageOfRun:
    """Place of a stage in a run of several, for writers that show all stages as one run.

    Args:
        name: of the stage.
        number: of the stage, from 1.
        run_dir: folder of the run.
        first_iteration: iterations of the stages before it.
        is_last: whether it is the last stage.
        begins_session: whether it is the first stage that this session trains.
    """

    name: str
    number: int
    run_dir: Path
    first_iteration: int = 0
    is_last: bool = True
    begins_session: bool = True

    @property
    def scalars(self) -> dict[str, float]:
        """The number of the stage, to be written with its metrics."""
        return {"stage": float(self.number)}


@dataclass(frozen=True)
class RunPlace:
    """Folder and lengths of a run, for the builders of writers.

    Args:
        output_dir: of the run, or of one of its stages.
        start_iteration: first iteration of this session.
        max_iterations: of the whole training; 0 when unknown.
        start_seconds: of training in earlier sessions.
        max_seconds: of the whole training where it has a time budget, else 0.
        stage: in a run of several stages; the numbers above are those of the stage.
    """

    output_dir: Path
    start_iteration: int = 0
    max_iterations: int = 0
    start_seconds: float = 0.0
    max_seconds: float = 0.0
    stage: StageOfRun | None = None

    @property
    def begins_session(self) -> bool:
        """Whether nothing was trained before in this session, for warnings that are logged once."""
        return self.stage is None or self.stage.begins_session


class MetricWriter:
    """A sink for the numbers and pictures of a training run; exists in the first process only.

    Iterations count from 0 as in Detectron2, and `iteration` is the last finished one: a run that resumes at 20 keeps
    what was written for 19. Known scalars: total_loss, loss_*, lr, time and data_time (seconds per iteration),
    images_per_second, eta_seconds, memory_mb (peak). Others are allowed; a prefix groups them, e.g. "val/total_loss".

    Every method but `write_predictions` does nothing here; a writer overrides those that it needs.
    """

    def advance(self, iteration: int) -> None:
        """Called after each iteration, before its values are known; must be cheap.

        Args:
            iteration: that has finished.
        """

    def write(self, iteration: int, scalars: Mapping[str, float]) -> None:
        """Write metrics since the last call.

        Args:
            iteration: the last finished one.
            scalars: means by name.
        """

    def write_images(self, iteration: int, images: Mapping[str, Path]) -> None:
        """Write pictures.

        Args:
            iteration: the last finished one.
            images: PNG or JPEG files by name.
        """

    def write_predictions(self, iteration: int, pictures: Mapping[str, PredictionPicture]) -> None:
        """Write predictions: here the drawn pictures; a writer with layers of its own overrides this.

        Args:
            iteration: the last finished one.
            pictures: by name.
        """
        self.write_images(iteration, {name: picture.path for name, picture in pictures.items()})

    def write_results(self, iteration: int, results: Results) -> None:
        """Write the results of an evaluation.

        Args:
            iteration: the last finished one.
            results: metrics by task.
        """

    def write_checkpoint(
        self, path: Path, *, iteration: int, roles: Sequence[str], metrics: Mapping[str, float]
    ) -> None:
        """Write a checkpoint, when training has ended: the best one, then the final one.

        Args:
            path: of its file.
            iteration: its last finished one.
            roles: BEST, FINAL, or both where the last evaluation is the best.
            metrics: of its evaluation by name, as `flattened` names them; none where it was not evaluated.
        """

    def write_report(self, iteration: int, path: Path) -> None:
        """Write the report of a run, when training has ended.

        Args:
            iteration: the last finished one.
            path: of the HTML page.
        """

    def interrupt(self, signal_number: int) -> None:
        """Called before `close` when a signal has interrupted the training, which is saved and can be resumed.

        Args:
            signal_number: of the signal, e.g. 15 for SIGTERM.
        """

    def close(self, *, failed: bool = False) -> None:
        """Flush and release files. A second call does nothing.

        Args:
            failed: an exception ended the run.
        """


def flattened(results: Results) -> dict[str, float]:
    """{"bbox": {"AP": 38.6}} as {"bbox/AP": 38.6}.

    Args:
        results: metrics by task.
    """
    return {f"{task}/{name}": value for task, metrics in results.items() for name, value in metrics.items()}


def measured(results: Results) -> dict[str, float]:
    """As `flattened`, without NaN, which metrics without objects have and charts cannot show.

    Args:
        results: metrics by task.
    """
    return {name: value for name, value in flattened(results).items() if not math.isnan(value)}


def set_aside(path: Path) -> None:
    """Rename the file of an earlier run to `<name>.previous.<suffix>`, so that two runs never mix in one file.

    Args:
        path: of the file, if it exists.
    """
    if path.exists():
        path.replace(path.with_suffix(f".previous{path.suffix}"))
