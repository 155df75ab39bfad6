"""How long training lasts: a number of iterations, or a time."""

import time
from collections.abc import Callable
from typing import Protocol

LONGEST_WARMUP = 0.2  # of a time budget

Clock = Callable[[], float]  # seconds from any origin


class Stopwatch:
    """Seconds of training so far, over all sittings.

    Args:
        elapsed: seconds from earlier sittings.
        clock: replaced in tests.
    """

    def __init__(self, *, elapsed: float = 0.0, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._origin = clock() - elapsed

    def elapsed(self) -> float:
        """Seconds since the start of training, time between sittings not counted."""
        return self._clock() - self._origin


class Budget(Protocol):
    """When training is over, and how far the learning-rate schedule is by then."""

    def position(self, iteration: int, elapsed: float) -> float:
        """The iteration that the learning-rate schedule is at; a time budget gives fractions."""
        ...

    def is_spent(self, iteration: int, elapsed: float) -> bool:
        """Whether to stop after `iteration` finished steps and `elapsed` seconds."""
        ...

    def seconds_left(self, iteration: int, elapsed: float, seconds_per_step: float) -> float:
        """Estimated seconds to the end."""
        ...


class IterationBudget:
    """Train for so many optimizer steps."""

    def __init__(self, iterations: int) -> None:
        self.iterations = iterations

    def position(self, iteration: int, elapsed: float) -> float:  # noqa: ARG002
        return float(iteration)

    def is_spent(self, iteration: int, elapsed: float) -> bool:  # noqa: ARG002
        return iteration >= self.iterations

    def seconds_left(self, iteration: int, elapsed: float, seconds_per_step: float) -> float:  # noqa: ARG002
        return max(0, self.iterations - iteration) * seconds_per_step


class TimeBudget:
    """Train for so many seconds, with the schedule of `iterations` steps stretched or squeezed to end with them.

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
