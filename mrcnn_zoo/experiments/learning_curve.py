"""A metric against the number of training images, and the value to expect from twice as many.

The law 100 - AP = b n^-c is a line on logarithmic scales (Source: Hestness et al. 2017, Deep Learning Scaling is
Predictable, sec. 3). It is fitted to each seed: a seed has its own nested subsets, weights and batches, so the fits are
independent, and their t interval contains the choice of the images. The test images are the same in all runs; their
noise is not in the intervals. One doubling is predicted and no more: nothing here shows where the line ends.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.experiments.comparison import LESS_IS_BETTER
from mrcnn_zoo.experiments.records import FINISHED, RunRecord, SweepRecord, result_of
from mrcnn_zoo.experiments.statistics import LEVEL, Estimate, Observations, estimate_mean, holm
from mrcnn_zoo.training.run_context import DATASETS_FILE

MIN_FRACTIONS = 4
NOT_LEARNING = 1.0  # AP in percent below which a fraction is left out: no error is above 100, so the law begins later
BEST = 100.0  # percent
ROUNDING = 1e-6  # of the quadratic term of an exact law
CURVE_POINTS = 50  # of the drawn law


@dataclass(frozen=True)
class CurvePoint:
    """A finished run.

    Args:
        fraction: share of the training images.
        seed: of the run.
        num_images: that it was trained on.
        value: of the metric, in percent.
    """

    fraction: float
    seed: int
    num_images: int
    value: float


@dataclass(frozen=True)
class LearningCurve:
    """A metric of one variant against the number of training images.

    Args:
        variant: its name.
        metric: e.g. "segm/AP".
        points: all finished runs.
        scale: b of the law, the geometric mean over seeds; nan where the fit was refused.
        exponent: c of the law, the mean over seeds; None where the fit was refused.
        num_seeds: of the fit.
        num_images: of all images, the mean over seeds.
        fitted: the law at all images.
        doubled: the law at twice as many.
        gain: difference of the two.
        bend: "less" or "more" is to be expected than the law predicts, as the points bend away from it; "" for neither.
        bend_p_value: of the test of the bend; nan without one.
        refusal: why nothing is predicted; empty for a fit.
        notes: such as fractions that were left out.
    """

    variant: str
    metric: str
    points: tuple[CurvePoint, ...]
    scale: float = math.nan
    exponent: Estimate | None = None
    num_seeds: int = 0
    num_images: float = math.nan
    fitted: Estimate | None = None
    doubled: Estimate | None = None
    gain: Estimate | None = None
    bend: str = ""
    bend_p_value: float = math.nan
    refusal: str = ""
    notes: tuple[str, ...] = ()

    def line(self) -> tuple[list[float], list[float]]:
        """Numbers of images, up to twice the largest, and the law there; empty lists where the fit was refused."""
        if self.exponent is None:
            return [], []
        images = np.geomspace(min(point.num_images for point in self.points), 2 * self.num_images, CURVE_POINTS)
        return images.tolist(), (BEST - self.scale * images**-self.exponent.value).tolist()

    def text(self) -> str:
        """What to expect from twice as many images, or why nothing is predicted, in words."""
        if self.exponent is None or self.doubled is None or self.gain is None or self.fitted is None:
            return " ".join([f"No prediction: {self.refusal}", *self.notes])
        law = (
            f"100 - {self.metric} = {self.scale:.3g} n^-{self.exponent.value:.3f}{_interval(self.exponent, digits=3)}."
        )
        images = f"the images ({2 * self.num_images:,.0f} instead of {self.num_images:,.0f}) are expected to give"
        if self.bend:
            bend = f"The points bend away from this law (p = {self.bend_p_value:.3f}): twice {images} {self.bend} than"
            return " ".join([law, f"{bend} {self.metric} {self.doubled.value:.1f}.", *self.notes])
        expected = (
            f"Twice {images} {self.metric} {self.doubled.value:.1f}{_interval(self.doubled)} instead of "
            f"{self.fitted.value:.1f}, a gain of {self.gain.value:.1f}{_interval(self.gain)}"
        )
        doubt = "; it cannot be distinguished from no gain." if self.gain.low <= 0 else "."
        basis = f"Fits of {counted(self.num_seeds, 'seed')}; the noise of the test images is not included."
        if math.isnan(self.gain.low):
            basis = (
                "One seed, so there is no interval." if self.num_seeds == 1 else "The seeds do not differ: no interval."
            )
        return " ".join([law, expected + doubt, basis, "More than one doubling is not predicted.", *self.notes])


def learning_curves(record: SweepRecord, metrics: Sequence[str] | None = None) -> list[LearningCurve]:
    """The curves of all variants that were trained on several fractions of the data.

    Args:
        record: of a sweep with DATA_FRACTIONS.
        metrics: in percent, higher is better; None for such columns of the sweep.

    Raises:
        UserError: a finished run has no record of its number of images.
    """
    chosen = [name for name in record.sweep.columns if not LESS_IS_BETTER.search(name)] if metrics is None else metrics
    runs = [run for run in record.runs if run.key.fold is None]
    curves = []
    for metric in chosen:
        for variant in record.sweep.variants:
            own = [run for run in runs if run.key.variant == variant.name]
            if len({run.key.fraction for run in own}) > 1:
                curves.append(fit_curve(variant.name, metric, _points(own, metric), num_runs=len(own)))
    return curves


def num_training_images(run: RunRecord) -> int:
    """The number of images that the last stage of a run was trained on.

    Args:
        run: finished.

    Raises:
        UserError: its file is missing or cannot be read.
    """
    path = run.results_dir.parent / DATASETS_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return sum(int(counts["images"]) for counts in content["train"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}, with the number of training images of a run, cannot be read ({error}). Train the run again: "
            f"remove {run.folder} and repeat the command."
        ) from error


def _points(runs: Sequence[RunRecord], metric: str) -> list[CurvePoint]:
    points = []
    for run in runs:
        value = result_of(run.results, metric) if run.status == FINISHED else math.nan
        if not math.isnan(value):
            points.append(CurvePoint(run.key.fraction, run.key.seed, num_training_images(run), value))
    return points


def fit_curve(variant: str, metric: str, points: Sequence[CurvePoint], *, num_runs: int = 0) -> LearningCurve:
    """Fit the law to the runs of a variant.

    Refused are fewer than four fractions, a value that falls from one fraction to the next by more than the noise of
    the seeds (a paired t test per step, Holm over the steps; with one seed any fall), and an exponent of 0 or less.

    Args:
        variant: its name.
        metric: its name.
        points: its finished runs, one per fraction and seed.
        num_runs: planned; 0 for as many as there are points.
    """
    fractions = sorted({point.fraction for point in points})
    learned = [share for share in fractions if np.mean(_values(points, share)) >= NOT_LEARNING]
    notes = []
    if len(points) < num_runs:
        notes.append(f"{len(points)} of {counted(num_runs, 'run')} are finished.")
    if len(learned) < len(fractions):
        left_out = ", ".join(f"{share:g}" for share in fractions if share not in learned)
        notes.append(f"Without the fractions {left_out}, where {metric} is below {NOT_LEARNING:g}.")
    seeds = _complete_seeds(points, learned)
    incomplete = sorted({point.seed for point in points} - set(seeds))
    if incomplete and seeds:
        notes.append(f"Without the seeds {', '.join(map(str, incomplete))}, which lack a fraction.")
    refusal = _refusal(metric, points, learned, seeds)
    curve = LearningCurve(variant, metric, tuple(points), refusal=refusal, notes=tuple(notes))
    return curve if refusal else _fitted(curve, *_table(points, learned, seeds))


def _values(points: Sequence[CurvePoint], fraction: float) -> list[float]:
    return [point.value for point in points if point.fraction == fraction]


def _complete_seeds(points: Sequence[CurvePoint], fractions: Sequence[float]) -> list[int]:
    by_seed = {point.seed: {other.fraction for other in points if other.seed == point.seed} for point in points}
    return sorted(seed for seed, present in by_seed.items() if present >= set(fractions))


def _table(
    points: Sequence[CurvePoint], fractions: Sequence[float], seeds: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(seeds, fractions) numbers of images, and values."""
    by_place = {(point.seed, point.fraction): (point.num_images, point.value) for point in points}
    table = np.array([[by_place[seed, share] for share in fractions] for seed in seeds], dtype=np.float64)
    return table[..., 0], table[..., 1]


def _refusal(metric: str, points: Sequence[CurvePoint], fractions: Sequence[float], seeds: Sequence[int]) -> str:
    if len(fractions) < MIN_FRACTIONS:
        return (
            f"{counted(len(fractions), 'fraction')} with {metric} of at least {NOT_LEARNING:g}, and a fit needs "
            f"{MIN_FRACTIONS}."
        )
    if not seeds:
        return "no seed is finished with all fractions."
    images, values = _table(points, fractions, seeds)
    if (np.diff(images, axis=1) <= 0).any():
        return "two fractions have the same number of images, as whole groups are taken."
    if (values >= BEST).any():
        return f"{metric} has reached {BEST:g}, so more images cannot raise it."
    return _fall(metric, values, fractions)


def _fall(metric: str, values: NDArray[np.float64], fractions: Sequence[float]) -> str:
    """Names the first step where the value falls beyond the noise of the seeds; empty for none."""
    steps = np.diff(values, axis=1)
    estimates = [estimate_mean(Observations(step)) for step in steps.T]
    adjusted = holm([estimate.p_value for estimate in estimates])
    for (first, second), estimate, p in zip(pairwise(fractions), estimates, adjusted, strict=True):
        is_certain = p <= LEVEL or math.isnan(p)  # one seed, or seeds that do not differ
        if estimate.value < 0 and is_certain:
            noise = "of one seed, whose noise is unknown" if len(values) == 1 else "by more than the noise of the seeds"
            return (
                f"{metric} falls by {-estimate.value:.1f} from the fraction {first:g} to {second:g}, {noise}. A power "
                "law does not fall: train longer, or look for what differs between the runs."
            )
    return ""


def _fitted(curve: LearningCurve, images: NDArray[np.float64], values: NDArray[np.float64]) -> LearningCurve:
    """The law per seed by least squares on logarithmic scales, and its mean over the seeds."""
    fits = [np.polyfit(np.log(n), np.log(BEST - ap), 1) for n, ap in zip(images, values, strict=True)]
    exponents, scales = np.array([-slope for slope, _ in fits]), np.exp([start for _, start in fits])
    largest = images[:, -1]
    present, doubled = (BEST - scales * (factor * largest) ** -exponents for factor in (1, 2))
    exponent = estimate_mean(Observations(exponents))
    bend, bend_p_value = _bend(images, values)
    if exponent.value <= 0:
        reason = f"{curve.metric} does not rise with the number of images (exponent {exponent.value:.3f})."
        return replace(curve, refusal=reason)
    return replace(
        curve,
        scale=float(np.exp(np.log(scales).mean())),
        exponent=exponent,
        num_seeds=len(values),
        num_images=float(largest.mean()),
        fitted=estimate_mean(Observations(present)),
        doubled=estimate_mean(Observations(doubled)),
        gain=estimate_mean(Observations(doubled - present)),
        bend=bend,
        bend_p_value=bend_p_value,
    )


def _bend(images: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[str, float]:
    """`bend` and `bend_p_value`: a t test, over the seeds, of the quadratic term on logarithmic scales."""
    fits = [np.polyfit(np.log(n), np.log(BEST - ap), 2) for n, ap in zip(images, values, strict=True)]
    curvature = estimate_mean(Observations(np.array([quadratic for quadratic, _, _ in fits])))
    if not curvature.p_value <= LEVEL or abs(curvature.value) < ROUNDING:  # p is nan of one seed
        return "", curvature.p_value
    return "less" if curvature.value > 0 else "more", curvature.p_value


def _interval(estimate: Estimate, *, digits: int = 1) -> str:
    if math.isnan(estimate.low):
        return ""
    return f" (95 %: {estimate.low:.{digits}f} to {estimate.high:.{digits}f})"
