"""Progress of a training: a bar on a terminal, short lines elsewhere, all numbers in log files."""

import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from time import monotonic
from typing import TYPE_CHECKING

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.progress import Display, ProgressLine, duration, has_terminal, show_progress
from mrcnn_zoo.registries import METRIC_WRITERS
from mrcnn_zoo.training.log_files import log_to_consoles, log_to_files
from mrcnn_zoo.training.writers.contract import MetricWriter, RunPlace

if TYPE_CHECKING:
    from rich.console import Console

logger = logging.getLogger(__name__)

# Ordered by importance: on a narrow terminal the last are left out.
SHOWN: dict[str, Callable[[float], str]] = {
    "eta_seconds": lambda value: f"eta {duration(value)}",
    "total_loss": lambda value: f"loss {value:.3f}" if 1e-3 <= abs(value) < 1e4 else f"loss {value:.2e}",
    "lr": lambda value: f"lr {value:.2e}",
    "images_per_second": lambda value: f"{value:.1f} img/s" if value >= 1 else f"{value:.2g} img/s",
    "memory_mb": lambda value: f"{value / 1024:.1f} GB",
}


class LogLineWriter(MetricWriter):
    """A short line on the console each time metrics are written; log files get all numbers.

    Args:
        max_iterations: of the whole training; 0 when unknown.
    """

    def __init__(self, *, max_iterations: int = 0) -> None:
        self._max_iterations = max_iterations

    def write(self, iteration: int, scalars: Mapping[str, float]) -> None:
        log_to_files(logger, progress_line(iteration, scalars, max_iterations=self._max_iterations))
        log_to_consoles(logger, short_line(iteration, scalars, max_iterations=self._max_iterations))


class ProgressBarWriter(MetricWriter):
    """A progress bar on the terminal; log files get all numbers, pipes the short lines.

    Args:
        console: of the terminal; stderr by default.
        start_iteration: where the bar begins.
        max_iterations: where it ends; 0 when unknown.
        start_seconds: where the bar of a time budget begins.
        max_seconds: where it ends; 0 without such a budget.
    """

    def __init__(
        self,
        *,
        console: "Console | None" = None,
        start_iteration: int = 0,
        max_iterations: int = 0,
        start_seconds: float = 0.0,
        max_seconds: float = 0.0,
    ) -> None:
        self._console = console
        self._max_iterations = max_iterations
        self._max_seconds = max_seconds
        self._began = monotonic() - start_seconds
        if max_seconds:
            self._line = ProgressLine("", total=max_seconds, done=start_seconds, in_words=duration)
        else:
            self._line = ProgressLine("", total=max_iterations, done=start_iteration)
        self._seconds_per_iteration = 0.0  # of the last metrics
        self._display: Display | None = None
        self._open = ExitStack()

    def advance(self, iteration: int) -> None:
        self._move(iteration, self._line.fields)
        self._refresh()

    def write(self, iteration: int, scalars: Mapping[str, float]) -> None:
        log_to_files(logger, progress_line(iteration, scalars, max_iterations=self._max_iterations))
        is_of_steps = "lr" in scalars or "total_loss" in scalars  # not those of a validation
        short = short_line(iteration, scalars, max_iterations=self._max_iterations)
        log_to_consoles(logger, short, terminals=not is_of_steps)
        if is_of_steps:
            self._seconds_per_iteration = 0.0  # the time left is that of these metrics
            if self._max_seconds and "eta_seconds" in scalars:
                self._began = monotonic() - (self._max_seconds - scalars["eta_seconds"])
            self._move(iteration, {name: show(scalars[name]) for name, show in SHOWN.items() if name in scalars})
            self._seconds_per_iteration = scalars.get("time", 0.0)
            self._refresh(now=True)

    def _move(self, iteration: int, fields: Mapping[str, str]) -> None:
        if self._max_seconds:  # the bar shows the time that is left
            self._line.done = min(monotonic() - self._began, self._max_seconds)
            others = {name: text for name, text in fields.items() if name not in ("iteration", "eta_seconds")}
            self._line.show({"iteration": f"iter {iteration + 1}"} | others)
            return
        self._line.done = iteration + 1
        if self._max_iterations and self._seconds_per_iteration:
            left = max(0, self._max_iterations - self._line.done) * self._seconds_per_iteration
            fields = {**fields, "eta_seconds": SHOWN["eta_seconds"](left)}
        self._line.show(fields)

    def close(self, *, failed: bool = False) -> None:  # noqa: ARG002
        self._open.close()
        self._display = None

    def _refresh(self, *, now: bool = False) -> None:
        # Not in the constructor: the line appears with the first iteration.
        if self._display is None:
            self._display = self._open.enter_context(show_progress(self._line, console=self._console))
        if self._display is not None:
            self._display.refresh(now=now)


@METRIC_WRITERS.register("console")
def build_console_writer(cfg: CfgNode, place: RunPlace) -> MetricWriter:  # noqa: ARG001
    """A progress bar on a terminal, short lines elsewhere."""
    if has_terminal(sys.stderr):
        return ProgressBarWriter(
            start_iteration=place.start_iteration,
            max_iterations=place.max_iterations,
            start_seconds=place.start_seconds,
            max_seconds=place.max_seconds,
        )
    return LogLineWriter(max_iterations=place.max_iterations)


def progress_line(iteration: int, scalars: Mapping[str, float], *, max_iterations: int = 0) -> str:
    """All numbers: `iter 20/500  eta 0:01:05  total_loss 1.234  lr 0.001  62.1 img/s  3412 MB  loss_cls 0.3`.

    Args:
        iteration: the last finished one, from 0.
        scalars: by name.
        max_iterations: of the whole training; 0 when unknown.
    """
    known = {
        "eta_seconds": lambda value: f"eta {duration(value)}",
        "total_loss": lambda value: f"total_loss {value:.4g}",
        "lr": lambda value: f"lr {value:.3g}",
        "images_per_second": lambda value: f"{value:.3g} img/s",
        "memory_mb": lambda value: f"{value:.0f} MB",
    }
    first = [show(scalars[name]) for name, show in known.items() if name in scalars]
    others = [f"{name} {value:.4g}" for name, value in scalars.items() if name not in known]
    return "  ".join([_position(iteration, max_iterations), *first, *others])


def short_line(iteration: int, scalars: Mapping[str, float], *, max_iterations: int = 0) -> str:
    """The main numbers: `iter 20/500  loss 1.234  lr 1.00e-03  62.1 img/s  eta 0:01:05`.

    Args:
        iteration: the last finished one, from 0.
        scalars: by name.
        max_iterations: of the whole training; 0 when unknown.
    """
    names = [name for name in ("total_loss", "lr", "images_per_second", "eta_seconds") if name in scalars]
    known = [SHOWN[name](scalars[name]) for name in names]
    totals = [f"{name} {value:.4g}" for name, value in scalars.items() if name.endswith("/total_loss")]
    return "  ".join([_position(iteration, max_iterations), *known, *totals])


def _position(iteration: int, max_iterations: int) -> str:
    return f"iter {iteration + 1}/{max_iterations}" if max_iterations else f"iter {iteration + 1}"
