"""Progress for people: a bar on a terminal, lines in a log."""

import logging
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import timedelta
from typing import TextIO

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.registries import METRIC_WRITERS
from mrcnn_zoo.training.writers.contract import MetricWriter, RunPlace

logger = logging.getLogger(__name__)

BAR_FORMAT = "{percentage:3.0f}%|{bar:16}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
BAR_FORMAT_WITHOUT_LENGTH = "{n_fmt} iterations [{elapsed}{postfix}]"


class LogLineWriter(MetricWriter):
    """One plain line to the log each time metrics are written."""

    def __init__(self, *, max_iterations: int = 0) -> None:
        self._max_iterations = max_iterations

    def write(self, iteration: int, scalars: Mapping[str, float]) -> None:
        logger.info("%s", progress_line(iteration, scalars, max_iterations=self._max_iterations))


class ProgressBarWriter(MetricWriter):
    """A bar that moves with every iteration; the lines go to log files alone, and other messages appear above the bar.

    Args:
        stream: the terminal.
        start_iteration: where the bar begins.
        max_iterations: where it ends; 0 when unknown.
    """

    def __init__(self, stream: TextIO, *, start_iteration: int = 0, max_iterations: int = 0) -> None:
        self._stream = stream
        self._start_iteration = start_iteration
        self._max_iterations = max_iterations
        self._bar: tqdm | None = None
        self._redirection = ExitStack()

    def advance(self, iteration: int) -> None:
        bar = self._opened_bar()
        bar.update(iteration + 1 - bar.n)

    def write(self, iteration: int, scalars: Mapping[str, float]) -> None:
        bar = self._opened_bar()
        bar.set_postfix_str("  ".join(_formatted(scalars)), refresh=False)
        bar.update(iteration + 1 - bar.n)
        bar.refresh()
        _log_to_files(progress_line(iteration, scalars, max_iterations=self._max_iterations))

    def close(self, *, failed: bool = False) -> None:  # noqa: ARG002
        if self._bar is not None:
            self._bar.close()
        self._redirection.close()

    def _opened_bar(self) -> tqdm:
        # Not in the constructor: whatever is logged until training starts would tear the bar.
        if self._bar is None:
            loggers = [log for log in (logging.root, logging.getLogger("mrcnn_zoo")) if _writes_to_terminal(log)]
            self._redirection.enter_context(logging_redirect_tqdm(loggers))
            self._bar = tqdm(
                total=self._max_iterations or None,
                initial=self._start_iteration,
                file=self._stream,
                dynamic_ncols=True,
                bar_format=BAR_FORMAT if self._max_iterations else BAR_FORMAT_WITHOUT_LENGTH,
            )
        return self._bar


@METRIC_WRITERS.register("console")
def build_console_writer(cfg: CfgNode, place: RunPlace) -> MetricWriter:  # noqa: ARG001
    if _has_room_for_a_bar(sys.stderr):
        return ProgressBarWriter(sys.stderr, start_iteration=place.start_iteration, max_iterations=place.max_iterations)
    return LogLineWriter(max_iterations=place.max_iterations)


def _has_room_for_a_bar(stream: TextIO) -> bool:
    # Some containers give a terminal without a width, on which a bar would be nothing at all.
    return stream.isatty() and os.get_terminal_size(stream.fileno()).columns > 0


def progress_line(iteration: int, scalars: Mapping[str, float], *, max_iterations: int = 0) -> str:
    """For example `iter 19/499  eta 0:01:05  total_loss 1.234  lr 0.001  62.1 img/s  3412 MB  loss_cls 0.3`."""
    position = f"iter {iteration}/{max_iterations - 1}" if max_iterations else f"iter {iteration}"
    return "  ".join([position, *_formatted(scalars)])


def _formatted(scalars: Mapping[str, float]) -> list[str]:
    # What people look at first stands first: a terminal cuts the line at its width.
    known = {
        "eta_seconds": lambda value: f"eta {timedelta(seconds=round(value))}",
        "total_loss": lambda value: f"total_loss {value:.4g}",
        "lr": lambda value: f"lr {value:.3g}",
        "images_per_second": lambda value: f"{value:.3g} img/s",
        "memory_mb": lambda value: f"{value:.0f} MB",
    }
    first = [show(scalars[name]) for name, show in known.items() if name in scalars]
    return first + [f"{name} {value:.4g}" for name, value in scalars.items() if name not in known]


def _writes_to_terminal(log: logging.Logger) -> bool:
    return any(
        isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr)
        for handler in log.handlers
    )


def _log_to_files(message: str) -> None:
    record = logger.makeRecord(logger.name, logging.INFO, __file__, 0, message, (), None)
    log: logging.Logger | None = logger
    while log is not None:
        for handler in log.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handle(record)
        log = log.parent if log.propagate else None
