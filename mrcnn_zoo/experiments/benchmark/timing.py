"""Seconds of several contestants, measured in turns, so that a machine that slows down slows all of them."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Contestant:
    """Somebody whose steps are measured.

    Args:
        name: in the report.
        steps: the pieces of work of one round; each returns how many things it produced (instances, images).
        before: called before each step, outside the measured time.
    """

    name: str
    steps: Sequence[Callable[[], int]]
    before: Callable[[], None] | None = None


@dataclass(frozen=True)
class Timing:
    """Seconds of one contestant, one number a round."""

    name: str
    seconds: tuple[float, ...]
    produced: int  # in one round

    @property
    def median(self) -> float:
        """Seconds of a typical round."""
        return statistics.median(self.seconds)

    @property
    def minimum(self) -> float:
        """Seconds of the fastest round: the one that other programs disturbed least."""
        return min(self.seconds)


def time_in_turns(contestants: Sequence[Contestant], *, repeats: int, warmup: int = 1) -> list[Timing]:
    """Run every contestant's steps, taking turns step by step; who begins changes from round to round.

    Args:
        contestants: with equally many steps.
        repeats: rounds that count, at least 1.
        warmup: rounds before them.
    """
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    produced: dict[str, int] = {}
    for round_number in range(warmup + repeats):
        order = contestants if round_number % 2 == 0 else contestants[::-1]
        elapsed = dict.fromkeys(seconds, 0.0)
        produced = dict.fromkeys(seconds, 0)
        for number in range(len(contestants[0].steps)):
            for contestant in order:
                if contestant.before is not None:
                    contestant.before()
                start = _now()
                produced[contestant.name] += contestant.steps[number]()
                elapsed[contestant.name] += _now() - start
        if round_number >= warmup:
            for name, value in elapsed.items():
                seconds[name].append(value)
    return [Timing(name, tuple(values), produced[name]) for name, values in seconds.items()]


def paired_ratio(one: Timing, other: Timing) -> float:
    """The median over the rounds of one's seconds by the other's; below 1 where `one` is faster."""
    return statistics.median(a / b for a, b in zip(one.seconds, other.seconds, strict=True))


def _now() -> float:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
