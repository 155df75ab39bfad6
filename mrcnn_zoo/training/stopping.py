"""When training stops: after a number of iterations or a time, or by a signal."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Protocol

from typing_extensions import Self

LONGEST_WARMUP = 0.2  # of a time budget

Clock = Callable[[], float]  # seconds from any origin


class Stopwatch:
    """Seconds of training so far, over all sessions.

    Args:
        elapsed: seconds of earlier sessions.
        clock: replaced in tests.
    """

    def __init__(self, *, elapsed: float = 0.0, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._origin = clock() - elapsed

    def elapsed(self) -> float:
        """Seconds since the start of training, without the time between sessions."""
        return self._clock() - self._origin


class Budget(Protocol):
    """The length of a training, and the position in the learning-rate schedule."""

    def position(self, iteration: int, elapsed: float) -> float:
        """The position in the learning-rate schedule, in iterations; fractional for a time budget.

        Args:
            iteration: finished steps.
            elapsed: seconds of training.
        """
        ...

    def is_spent(self, iteration: int, elapsed: float) -> bool:
        """Whether training is over.

        Args:
            iteration: finished steps.
            elapsed: seconds of training.
        """
        ...

    def seconds_left(self, iteration: int, elapsed: float, seconds_per_step: float) -> float:
        """Estimated seconds to the end.

        Args:
            iteration: finished steps.
            elapsed: seconds of training.
            seconds_per_step: recent mean.
        """
        ...


class IterationBudget:
    """Trains for a number of optimizer steps.

    Args:
        iterations: 0 where nothing is trained.
    """

    def __init__(self, iterations: int) -> None:
        self.iterations = iterations

    def position(self, iteration: int, elapsed: float) -> float:  # noqa: ARG002
        return float(iteration)

    def is_spent(self, iteration: int, elapsed: float) -> bool:  # noqa: ARG002
        return iteration >= self.iterations

    def seconds_left(self, iteration: int, elapsed: float, seconds_per_step: float) -> float:  # noqa: ARG002
        return max(0, self.iterations - iteration) * seconds_per_step


class TimeBudget:
    """Trains for a time, with the schedule of `iterations` steps stretched or squeezed to end with it.

    Everything between the first step and the end counts, evaluations and checkpoints included; building the model and
    the data does not. The warm-up is not stretched: it takes as many steps on a slow machine as on a fast one.

    Args:
        seconds: of training.
        iterations: that the schedule is made for.
        warmup_iterations: steps that the warm-up takes, if they fit into its share of the time.
    """

    def __init__(self, seconds: float, *, iterations: int, warmup_iterations: int = 0) -> None:
        self.seconds = seconds
        self.iterations = iterations
        self.warmup_iterations = warmup_iterations

    def position(self, iteration: int, elapsed: float) -> float:
        share = min(elapsed / self.seconds, 1.0)
        if iteration < self.warmup_iterations and share < LONGEST_WARMUP:
            return float(iteration)
        return self.warmup_iterations + share * (self.iterations - self.warmup_iterations)

    def is_spent(self, iteration: int, elapsed: float) -> bool:  # noqa: ARG002
        return elapsed >= self.seconds

    def seconds_left(self, iteration: int, elapsed: float, seconds_per_step: float) -> float:  # noqa: ARG002
        return max(0.0, self.seconds - elapsed)


logger = logging.getLogger(__name__)

HANDLED_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(RuntimeError):  # noqa: N818 - not an error: the user stopped it
    """Training was stopped by a signal, after a checkpoint was saved.

    Args:
        message: with the command that continues.
        signal_number: of the signal.
    """

    def __init__(self, message: str, *, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number

    @property
    def exit_status(self) -> int:
        """128 plus the number of the signal, as shells report it: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signal_number


class StopSignals:
    """Inside the block the first SIGTERM or Ctrl-C is only recorded; a second Ctrl-C stops at once.

    Outside the main thread, where Python allows no handlers, signals are not recorded.
    """

    def __init__(self) -> None:
        self.received = 0  # the signal's number, 0 for none
        self._owner = 0
        self._former: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._owner = os.getpid()
            self._former = {number: signal.signal(number, self._record) for number in HANDLED_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def _record(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if os.getpid() != self._owner:
            # A data-loading process forked from this one also gets a terminal's Ctrl-C and a scheduler's SIGTERM, but
            # the last step needs it. Its parent ends it, or the second signal.
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
        elif not self.received:
            self.received = number
            signal.signal(signal.SIGINT, signal.default_int_handler)
            name = signal.Signals(number).name
            logger.warning("%s: finishing the current step, then saving. Ctrl-C stops at once, unsaved.", name)
