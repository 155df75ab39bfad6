"""What every metric writer does."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Results = Mapping[str, Mapping[str, float]]  # {"bbox": {"AP": ...}, "segm": {...}}


@dataclass(frozen=True)
class RunPlace:
    """What a writer has to know of a run besides the config."""

    output_dir: Path
    start_iteration: int = 0  # the first iteration that this run does
    max_iterations: int = 0  # of the whole training; 0 when unknown
    start_seconds: float = 0.0  # of training in earlier sittings
    max_seconds: float = 0.0  # of the whole training where it has a time budget; else 0


class MetricWriter:
    """A sink for the numbers and pictures of a training run; exists in the first process only.

    Iterations count from 0 as in Detectron2, and `iteration` is the last finished one: a run that resumes at 20 keeps
    what was written for 19. Scalars known by name: total_loss, loss_*, lr, time and data_time (seconds an iteration),
    images_per_second, eta_seconds, memory_mb (peak). Any other name is welcome; those before a slash group,
    e.g. "val/total_loss".

    Every method does nothing here; a writer defines those it has a use for.
    """

    def advance(self, iteration: int) -> None:
        """An iteration is over, its values not known yet. Called after each one, so it must be cheap."""

    def write(self, iteration: int, scalars: Mapping[str, float]) -> None:
        """Metrics since the last call."""

    def write_images(self, iteration: int, images: Mapping[str, Path]) -> None:
        """PNG or JPEG files by name."""

    def write_results(self, iteration: int, results: Results) -> None:
        """Results of an evaluation."""

    def write_checkpoint(self, path: Path) -> None:
        """The final checkpoint."""

    def close(self, *, failed: bool = False) -> None:
        """Flush and let go. A second call does nothing.

        Args:
            failed: an exception ended the run.
        """


def flattened(results: Results) -> dict[str, float]:
    """{"bbox": {"AP": 38.6}} as {"bbox/AP": 38.6}."""
    return {f"{task}/{name}": value for task, metrics in results.items() for name, value in metrics.items()}


def measured(results: Results) -> dict[str, float]:
    """As `flattened`, without the metrics of which the dataset has no objects: charts have no point for them."""
    return {name: value for name, value in flattened(results).items() if not math.isnan(value)}


def set_aside(path: Path) -> None:
    """Keep the file of an earlier run as `<name>.previous.<suffix>`, so that two runs never mix in one file."""
    if path.exists():
        path.replace(path.with_suffix(f".previous{path.suffix}"))
