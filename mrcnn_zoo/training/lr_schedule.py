"""Learning-rate schedules: pure functions of the iteration, so that a resumed run or a time budget needs no state.

Formulas and key names are Detectron2's. Everything is computed in progress, iteration / length, from 0 to 1.
"""

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass

from torch.optim import Optimizer

from mrcnn_zoo.config import CfgNode, choice_of
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registries import LR_SCHEDULES

PROGRESS_EPSILON = 1e-6  # an iteration that lies on a step by arithmetic counts as having reached it
INSPECTED_ITERATIONS = 500  # of a schedule, for warnings before training


@dataclass(frozen=True)
class MultiStepDecay:
    """Multiplied by gamma at each milestone.

    Args:
        milestones: iterations, ascending, below `length`; one that is given twice counts twice.
        length: iterations of the whole training.
        gamma: in (0, 1] as a rule.
    """

    milestones: tuple[int, ...]
    length: int
    gamma: float

    def __call__(self, progress: float) -> float:
        iteration = int((progress + PROGRESS_EPSILON) * self.length)
        return self.gamma ** bisect.bisect_right(self.milestones, iteration)


@dataclass(frozen=True)
class CosineDecay:
    """Half a cosine from 1 to `end`.

    Source: Loshchilov and Hutter 2017 (SGDR), eq. 5, without restarts.

    Args:
        end: last factor, in [0, 1].
    """

    end: float

    def __call__(self, progress: float) -> float:
        return self.end + 0.5 * (1 - self.end) * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class EvenStepDecay:
    """Multiplied by gamma `num_decays` times, after equal parts of the training.

    Args:
        num_decays: at least 1.
        gamma: in (0, 1].
    """

    num_decays: int
    gamma: float

    def __call__(self, progress: float) -> float:
        part = int((progress + PROGRESS_EPSILON) * (self.num_decays + 1))
        return self.gamma ** min(part, self.num_decays)


def linear_warmup(start: float, end: float, share: float) -> float:
    """The factor between two factors.

    Args:
        start: at share 0.
        end: at share 1.
        share: of the warm-up, in [0, 1].
    """
    return end * share + start * (1 - share)


def constant_warmup(start: float, end: float, share: float) -> float:  # noqa: ARG001
    """The first factor, until the warm-up ends.

    Args:
        start: the factor.
        end: unused.
        share: unused.
    """
    return start


WARMUPS: dict[str, Callable[[float, float, float], float]] = {"linear": linear_warmup, "constant": constant_warmup}


@dataclass(frozen=True)
class Warmup:
    """The warm-up at the start of training.

    Args:
        fraction: of the whole training.
        start: the first factor, relative to the decay's first.
        interpolate: from the first factor, the factor at the end and the share of the warm-up to a factor.
        is_interval_rescaled: the decay starts after the warm-up, not at the first iteration.
    """

    fraction: float
    start: float
    interpolate: Callable[[float, float, float], float] = linear_warmup
    is_interval_rescaled: bool = False


class LRSchedule:
    """A factor on every initial learning rate.

    Args:
        decay: from progress in [0, 1] to a factor.
        warmup: before the decay.
        length: iterations that the settings were made for; the default of `max_iterations` below.
    """

    def __init__(self, decay: Callable[[float], float], *, warmup: Warmup, length: int) -> None:
        self._decay = decay
        self._warmup = warmup
        self._length = length

    def factor(self, iteration: float, max_iterations: float | None = None) -> float:
        """The factor for a training step.

        Args:
            iteration: of the step, from 0. Need not be whole: a run with a time budget passes the elapsed share of it.
            max_iterations: the length of training; another one than `length` stretches both steps and warm-up.
        """
        progress = min(max(iteration / (max_iterations or self._length), 0.0), 1.0)
        if progress + PROGRESS_EPSILON <= self._warmup.fraction:
            return self._warmup_factor(progress)
        return self._decay(self._decay_progress(progress))

    def apply(self, optimizer: Optimizer, iteration: float, max_iterations: float | None = None) -> None:
        """Set the learning rate of each parameter group to its `initial_lr` times the factor.

        Args:
            optimizer: its groups have `initial_lr`.
            iteration: see `factor`.
            max_iterations: see `factor`.
        """
        factor = self.factor(iteration, max_iterations)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def highest_factor(self, iterations: int) -> tuple[float, int]:
        """The largest factor in a training, and the first iteration that has it.

        Args:
            iterations: length of the training.
        """
        places = sorted({*self._inspected(iterations), *self._around(self._warmup.fraction * iterations, iterations)})
        factors = [self.factor(place, iterations) for place in places]
        highest = max(factors)
        return highest, places[factors.index(highest)]

    def first_zero(self, iterations: int) -> int:
        """The first iteration of a final part with factor 0, if it is longer than one iteration; else `iterations`.

        Args:
            iterations: length of the training.
        """
        places = self._inspected(iterations)
        zeros = [place for place in places if self.factor(place, iterations) == 0.0 and place < iterations - 1]
        return zeros[0] if zeros and self.factor(iterations - 1, iterations) == 0.0 else iterations

    def _inspected(self, iterations: int) -> list[int]:
        """Some hundred iterations, spread evenly, with the first and the last."""
        step = max(1, iterations // INSPECTED_ITERATIONS)
        return sorted({*range(0, iterations, step), iterations - 1})

    def _around(self, place: float, iterations: int) -> list[int]:
        return [number for number in range(int(place) - 1, int(place) + 3) if 0 <= number < iterations]

    def _warmup_factor(self, progress: float) -> float:
        start = self._warmup.start * self._decay(0.0)
        end = self._decay(self._decay_progress(self._warmup.fraction))
        return self._warmup.interpolate(start, end, progress / self._warmup.fraction)

    def _decay_progress(self, progress: float) -> float:
        if not self._warmup.is_interval_rescaled or self._warmup.fraction >= 1:
            return progress
        return (progress - self._warmup.fraction) / (1 - self._warmup.fraction)


def build_lr_schedule(cfg: CfgNode) -> LRSchedule:
    """The schedule that SOLVER.LR_SCHEDULER_NAME names."""
    schedule: LRSchedule = LR_SCHEDULES.get(cfg.SOLVER.LR_SCHEDULER_NAME)(cfg)
    return schedule


@LR_SCHEDULES.register("WarmupMultiStepLR")
def build_multi_step(cfg: CfgNode) -> LRSchedule:
    milestones = [step for step in cfg.SOLVER.STEPS if step < cfg.SOLVER.MAX_ITER]
    return _with_warmup(cfg, MultiStepDecay(tuple(milestones), length=cfg.SOLVER.MAX_ITER, gamma=cfg.SOLVER.GAMMA))


@LR_SCHEDULES.register("WarmupCosineLR")
def build_cosine(cfg: CfgNode) -> LRSchedule:
    if cfg.SOLVER.BASE_LR <= 0:
        raise UserError(f"SOLVER.BASE_LR = {cfg.SOLVER.BASE_LR} must be above 0 for a cosine schedule.")
    return _with_warmup(cfg, CosineDecay(cfg.SOLVER.BASE_LR_END / cfg.SOLVER.BASE_LR))


@LR_SCHEDULES.register("WarmupStepWithFixedGammaLR")
def build_even_step(cfg: CfgNode) -> LRSchedule:
    return _with_warmup(cfg, EvenStepDecay(cfg.SOLVER.NUM_DECAYS, cfg.SOLVER.GAMMA))


def _with_warmup(cfg: CfgNode, decay: Callable[[float], float]) -> LRSchedule:
    warmup = Warmup(
        fraction=min(cfg.SOLVER.WARMUP_ITERS / cfg.SOLVER.MAX_ITER, 1.0),
        start=cfg.SOLVER.WARMUP_FACTOR,
        interpolate=choice_of(cfg, "SOLVER.WARMUP_METHOD", WARMUPS),
        is_interval_rescaled=cfg.SOLVER.RESCALE_INTERVAL,
    )
    return LRSchedule(decay, warmup=warmup, length=cfg.SOLVER.MAX_ITER)
