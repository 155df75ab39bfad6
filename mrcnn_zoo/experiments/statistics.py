"""Means, intervals and differences of metrics over seeds and images; docs/statistics.md explains the formulas.

The noise of a mean has two parts: training runs differ by their seed, and the test images are a sample. The seed part
is the variance over seeds on the same images. The image part is the variance over bootstrap resamples of the images
that all seeds have in common; what differs by seed (the interaction of seeds and images) is in the seed part already.
The sum of both is at least either of them alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.evaluation.resampled_ap import CONFIDENCE, t_quantile

LEVEL = 0.05
POWER = 0.8
SIMULATIONS = 1000  # of a test, for its power
BETTER, WORSE, NOT_DISTINGUISHABLE = "better", "worse", "not distinguishable"
SEEDS_AND_IMAGES, SEEDS, IMAGES, NOTHING = "seeds and images", "seeds", "images", ""  # what an interval covers


@dataclass(frozen=True)
class Observations:
    """One metric of the seeds of a variant; n seeds, B resamples of the images.

    Args:
        values: (n,) on all test images, n >= 1.
        resampled: (B, n) on resamples of the images; None if the metric cannot be resampled. Rows with nan (of
            resamples without objects of a class) are left out.
        num_units: of the resampled units: images, or groups of images.
    """

    values: NDArray[np.float64]
    resampled: NDArray[np.float64] | None = None
    num_units: int = 0


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, or a difference of two, with its interval.

    Args:
        value: the mean or the difference.
        low: lower end of the 95 % interval; nan if there is none.
        high: upper end.
        standard_error: square root of the seed part plus the image part; nan for one seed.
        degrees: of freedom of t; nan for one seed.
        p_value: two-sided, of the value 0; nan for one seed.
        seed_variance: seed part; nan for one seed.
        image_variance: image part; 0 if the metric cannot be resampled.
        parts: (variance, degrees of freedom) of the seeds of each side and of the images; empty for one seed.
        covers: one of SEEDS_AND_IMAGES, SEEDS, IMAGES and NOTHING; NOTHING of values that do not vary at all.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    standard_error: float = math.nan
    degrees: float = math.nan
    p_value: float = math.nan
    seed_variance: float = math.nan
    image_variance: float = 0.0
    parts: tuple[tuple[float, float], ...] = ()
    covers: str = NOTHING


def estimate_mean(observations: Observations) -> Estimate:
    """Mean over seeds with its interval; of one seed the interval over images.

    Args:
        observations: of one variant.
    """
    return _estimate([observations], shares_images=True)


def estimate_difference(variant: Observations, reference: Observations, *, shares_images: bool = True) -> Estimate:
    """Difference of the means over seeds: that of the variant minus that of the reference.

    Seeds are not paired (Welch): equal seeds of different architectures have nothing in common. Where a side has one
    seed, the interval covers images alone and there is no p-value.

    Args:
        variant: n1 seeds.
        reference: n2 seeds.
        shares_images: row b of both `resampled` is the same resample of the same images; otherwise the test sets are
            different and independent.
    """
    return _estimate([variant, reference], shares_images=shares_images)


def _estimate(sides: Sequence[Observations], *, shares_images: bool) -> Estimate:
    signs = (1.0, -1.0)[: len(sides)]
    value = float(sum(sign * side.values.mean() for sign, side in zip(signs, sides, strict=True)))
    resampled = _complete_resamples(sides)
    if any(len(side.values) < 2 for side in sides):
        if resampled is None:
            return Estimate(value)
        variance = _image_variance(sides, resampled, shares_images=shares_images)
        half = t_quantile(0.5 + CONFIDENCE / 2, min(side.num_units for side in sides) - 1) * math.sqrt(variance)
        return Estimate(value, low=value - half, high=value + half, image_variance=variance, covers=IMAGES)
    parts = [(float(side.values.var(ddof=1)) / len(side.values), len(side.values) - 1) for side in sides]
    seed_variance, image_variance = sum(part for part, _ in parts), 0.0
    if resampled is not None:
        image_variance = _image_variance(sides, resampled, shares_images=shares_images)
        parts.append((image_variance, min(side.num_units for side in sides) - 1))
    if seed_variance + image_variance == 0:  # no variation at all is no certainty: the seed may have no effect
        return Estimate(value, seed_variance=0.0)
    error = math.sqrt(seed_variance + image_variance)
    degrees = satterthwaite(parts)
    half = t_quantile(0.5 + CONFIDENCE / 2, degrees) * error
    return Estimate(
        value,
        low=value - half,
        high=value + half,
        standard_error=error,
        degrees=degrees,
        p_value=_p_value(value, error, degrees),
        seed_variance=seed_variance,
        image_variance=image_variance,
        parts=tuple(parts),
        covers=SEEDS if resampled is None else SEEDS_AND_IMAGES,
    )


def _complete_resamples(sides: Sequence[Observations]) -> list[NDArray[np.float64]] | None:
    """(B, n) per side without the rows in which any value is nan; None if a side has no resamples."""
    parts = [side.resampled for side in sides if side.resampled is not None and side.num_units > 1]
    if len(parts) < len(sides):
        return None
    count = min(map(len, parts))
    is_defined = np.logical_and.reduce([~np.isnan(part[:count]).any(axis=1) for part in parts])
    return [part[:count][is_defined] for part in parts] if is_defined.sum() > 1 else None


def _image_variance(
    sides: Sequence[Observations], resampled: Sequence[NDArray[np.float64]], *, shares_images: bool
) -> float:
    """Variance of the value over resamples of images, without what the seed part of each side already contains.

    The variance of a mean over n seeds under resampling is that of the images' common effect plus 1/n of the
    interaction of seeds and images. The variance over seeds on the same images contains the same interaction.
    """
    signs = (1.0, -1.0)[: len(sides)]
    means = [sign * part.mean(axis=1) for sign, part in zip(signs, resampled, strict=True)]
    # A bootstrap's variance is that of a sample with the divisor N.
    scales = [side.num_units / (side.num_units - 1) for side in sides]
    if shares_images:
        total = scales[0] * float(np.sum(means, axis=0).var(ddof=1))
    else:
        total = sum(scale * float(mean.var(ddof=1)) for scale, mean in zip(scales, means, strict=True))
    if any(part.shape[1] < 2 for part in resampled):
        return total  # no seed part
    for scale, side, part in zip(scales, sides, resampled, strict=True):
        # Not more than the seed part has: the sum of both parts is at least the bootstrap's variance.
        total -= min(scale * _interaction(part), float(side.values.var(ddof=1))) / part.shape[1]
    return max(0.0, total)


def _interaction(resampled: NDArray[np.float64]) -> float:
    """Variance over resamples of one seed's deviation from the mean over seeds; (B, n) -> one number, n >= 2."""
    deviations = resampled - resampled.mean(axis=1, keepdims=True)
    return float(deviations.var(axis=0, ddof=1).sum()) / (resampled.shape[1] - 1)


def satterthwaite(parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of variances; those of the largest part if all are 0.

    Source: Satterthwaite 1946 (An approximate distribution of estimates of variance components).

    Args:
        parts: (variance, its degrees of freedom) of each.
    """
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return max(degrees for _, degrees in parts)
    return total**2 / sum(variance**2 / degrees for variance, degrees in parts)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of a family of tests; nan, of what was not tested, stays and does not count.

    Source: Holm 1979 (A simple sequentially rejective multiple test procedure).

    Args:
        p_values: of each test.
    """
    tested = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        adjusted[place] = largest
    return adjusted


def verdict_of(difference: Estimate, adjusted_p: float, *, higher_is_better: bool = True, level: float = LEVEL) -> str:
    """BETTER, WORSE or NOT_DISTINGUISHABLE; without a p-value never different.

    Args:
        difference: of the variant to the reference.
        adjusted_p: its p-value after `holm`.
        higher_is_better: False for times and errors.
        level: largest p-value that counts as different.
    """
    if math.isnan(adjusted_p) or adjusted_p > level or difference.value == 0:
        return NOT_DISTINGUISHABLE
    return BETTER if (difference.value > 0) == higher_is_better else WORSE


def detectable_difference(difference: Estimate, *, num_tests: int, level: float = LEVEL, power: float = POWER) -> float:
    """The smallest true difference that as many seeds and images find with the given power; nan for one seed.

    Computed by simulation of the test at the level `level / num_tests`, which is Holm's for a single row that differs.
    Each simulated sweep has new estimates of all parts of the variance, and so another standard error and other degrees
    of freedom. The true variance is that of `difference` times a factor that is as uncertain as its estimate. Without
    both, few seeds would have a power well below the one that is asked for: their standard error is often too small.

    Args:
        difference: whose noise is assumed.
        num_tests: rows that are compared with the reference.
        level: of the whole family.
        power: probability of a significant difference, on average over sweeps.
    """
    from scipy import optimize, special

    if not difference.standard_error > 0 or num_tests < 1:
        return math.nan
    rng = np.random.default_rng(0)
    stratified = (np.arange(SIMULATIONS) + 0.5) / SIMULATIONS
    uniform = np.stack([rng.permutation(stratified) for _ in range(1 + len(difference.parts))])
    factor = 1 / _mean_square(uniform[0], difference.degrees)
    estimates = np.array(
        [
            variance * factor * _mean_square(draws, degrees)
            for (variance, degrees), draws in zip(difference.parts, uniform[1:], strict=True)
        ]
    )
    of_parts = np.array([degrees for _, degrees in difference.parts])[:, None]
    total = estimates.sum(axis=0)
    degrees = total**2 / (estimates**2 / of_parts).sum(axis=0)  # Satterthwaite
    critical = special.stdtrit(degrees, 1 - level / num_tests / 2) * np.sqrt(total)
    error = difference.standard_error * np.sqrt(factor)

    def excess_power(shift: float) -> float:
        found = special.ndtr((shift - critical) / error) + special.ndtr((-shift - critical) / error)
        return float(found.mean()) - power

    high = difference.standard_error
    while excess_power(high) < 0:
        high *= 2
    return float(optimize.brentq(excess_power, 0.0, high, xtol=1e-3 * high))


def _mean_square(uniform: NDArray[np.float64], degrees: float) -> NDArray[np.float64]:
    """Chi-square variables divided by their degrees of freedom, of uniform variables in (0, 1)."""
    from scipy import special

    return special.chdtri(degrees, 1 - uniform) / degrees


def _p_value(value: float, error: float, degrees: float) -> float:
    from scipy import special

    return float(2 * special.stdtr(degrees, -abs(value) / error))
