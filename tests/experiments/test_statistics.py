"""Statistics over seeds and images against scipy and numbers worked out by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from mrcnn_zoo.experiments.statistics import (
    BETTER,
    IMAGES,
    NOT_DISTINGUISHABLE,
    NOTHING,
    SEEDS,
    WORSE,
    Estimate,
    Observations,
    detectable_difference,
    estimate_difference,
    estimate_mean,
    holm,
    satterthwaite,
    verdict_of,
)

FIRST, SECOND = np.array([38.1, 38.9, 37.6, 38.4, 38.0]), np.array([36.2, 37.4, 36.9])


def test_difference_without_images_is_the_test_of_welch() -> None:
    found = estimate_difference(Observations(FIRST), Observations(SECOND))
    expected = stats.ttest_ind(FIRST, SECOND, equal_var=False)
    low, high = expected.confidence_interval(0.95)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-12)
    assert found.degrees == pytest.approx(expected.df, rel=1e-12)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)
    assert found.covers == SEEDS


def test_mean_without_images_has_the_interval_of_student() -> None:
    found = estimate_mean(Observations(np.array([1.0, 2.0, 3.0])))
    assert found.value == 2
    # s = 1, t(0.975, 2) = 4.3027
    assert found.high - found.low == pytest.approx(2 * 4.302653 / math.sqrt(3), rel=1e-6)


def test_image_part_is_the_variance_of_the_common_effect() -> None:
    # Common effect of resamples -1, 1 (variance 2), interaction of seeds +-1 in opposite directions.
    common = np.array([-1.0, 1.0])[:, None] + np.array([[1.0, -1.0], [1.0, -1.0]])
    found = estimate_mean(Observations(np.array([10.0, 12.0]), common, num_units=2))
    assert found.seed_variance == pytest.approx(1.0)  # s^2 = 2, over 2 seeds
    assert found.image_variance == pytest.approx(4.0)  # 2, times N / (N - 1) = 2
    assert found.degrees == pytest.approx(5.0**2 / (1.0**2 / 1 + 4.0**2 / 1))


def test_interaction_of_seeds_and_images_is_not_counted_twice() -> None:
    # Three resamples; the seeds deviate by +-1, +-1, -+2 around a common value of 0: no effect is shared.
    deviation = np.array([1.0, 1.0, -2.0])
    resampled = np.stack([deviation, -deviation], axis=1)
    assert estimate_mean(Observations(np.array([1.0, 2.0]), resampled, num_units=50)).image_variance == 0
    # Independent seeds: the variance of the mean under resampling is the interaction alone.
    rng = np.random.default_rng(0)
    independent = rng.normal(0, 2, (20000, 4))
    found = estimate_mean(Observations(np.array([-3.0, 3.0, -2.0, 2.0]), independent, num_units=100))
    assert found.image_variance < 0.05  # without the correction 2^2 / 4 = 1


def test_sum_of_both_parts_is_at_least_that_of_the_images_alone() -> None:
    independent = np.random.default_rng(0).normal(0, 2, (20000, 4))
    found = estimate_mean(Observations(np.array([1.0, 1.1, 0.9, 1.0]), independent, num_units=100))
    assert found.seed_variance < 0.01  # by chance: the seeds differ less than the images explain
    assert found.seed_variance + found.image_variance == pytest.approx(1, rel=0.03)


def test_difference_on_the_same_images_has_no_image_part_from_what_variants_share() -> None:
    rng = np.random.default_rng(1)
    common = rng.normal(0, 3, (4000, 1))
    sides = [Observations(values, common + np.zeros(len(values)), num_units=100) for values in (FIRST, SECOND)]
    assert estimate_difference(*sides).image_variance == pytest.approx(0, abs=1e-12)
    apart = estimate_difference(*sides, shares_images=False)
    assert apart.image_variance == pytest.approx(2 * 9 * 100 / 99, rel=0.05)


def test_one_seed_has_the_interval_over_images_and_no_p_value() -> None:
    resampled = np.random.default_rng(0).normal(60, 2, (4000, 1))  # the mean of the resamples does not matter
    mean = estimate_mean(Observations(np.array([50.0]), resampled, num_units=100))
    # Standard deviation 2; t of 99 degrees of freedom is 1.984.
    assert (mean.low, mean.high) == pytest.approx((50 - 3.97, 50 + 3.97), abs=0.15)
    assert mean.covers == IMAGES
    difference = estimate_difference(
        Observations(np.array([90.0, 91.0]), np.tile(resampled, 2) / 100 + 40, num_units=100),
        Observations(np.array([50.0]), resampled / 100, num_units=100),
    )
    assert math.isnan(difference.p_value)
    assert difference.low == pytest.approx(40.5)  # far from 0, and yet not called different
    assert verdict_of(difference, holm([difference.p_value])[0]) == NOT_DISTINGUISHABLE
    assert estimate_mean(Observations(np.array([50.0]))).covers == NOTHING


def test_values_without_any_variation_are_not_certain() -> None:
    same = Observations(np.array([40.0, 40.0, 40.0]))
    mean, difference = estimate_mean(same), estimate_difference(same, Observations(np.array([30.0, 30.0])))
    assert mean.covers == difference.covers == NOTHING
    assert math.isnan(mean.low)
    assert math.isnan(difference.p_value)
    assert verdict_of(difference, difference.p_value) == NOT_DISTINGUISHABLE
    # Equal over seeds, but not over images.
    resampled = np.random.default_rng(0).normal(40, 2, (1000, 1)) + np.zeros(3)
    found = estimate_mean(Observations(same.values, resampled, num_units=30))
    assert found.degrees == pytest.approx(29)
    assert found.standard_error == pytest.approx(2, rel=0.1)


def test_resamples_without_a_class_are_left_out() -> None:
    resampled = np.array([[1.0, 1.0], [np.nan, np.nan], [3.0, 3.0]])
    assert estimate_mean(Observations(np.array([1.0, 2.0]), resampled, num_units=2)).image_variance == pytest.approx(4)
    nowhere = np.full((5, 2), np.nan)
    assert estimate_mean(Observations(np.array([1.0, 2.0]), nowhere, num_units=9)).covers == SEEDS


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.04; never below an earlier one.
    assert holm([0.04, 0.01, math.nan, 0.03, 0.02])[:2] == pytest.approx([0.06, 0.04])
    assert holm([0.04, 0.01, math.nan, 0.03, 0.02])[3:] == pytest.approx([0.06, 0.06])
    assert math.isnan(holm([0.04, 0.01, math.nan])[2])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_satterthwaite_by_hand() -> None:
    assert satterthwaite([(1.0, 4), (1.0, 4)]) == pytest.approx(8)
    assert satterthwaite([(2.0, 4), (0.0, 99)]) == pytest.approx(4)
    assert satterthwaite([(0.0, 4), (0.0, 99)]) == 99


def test_verdict_needs_significance_after_correction_and_a_direction() -> None:
    gain, loss = Estimate(2.0, p_value=0.01), Estimate(-2.0, p_value=0.01)
    assert verdict_of(gain, 0.05) == BETTER
    assert verdict_of(loss, 0.05) == WORSE
    assert verdict_of(gain, 0.0501) == NOT_DISTINGUISHABLE
    assert verdict_of(loss, 0.01, higher_is_better=False) == BETTER


def noise_of(*parts: tuple[float, float]) -> Estimate:
    error = math.sqrt(sum(variance for variance, _ in parts))
    return Estimate(0.0, standard_error=error, degrees=satterthwaite(parts), parts=parts)


def test_detectable_difference_of_known_noise_is_that_of_the_normal_distribution() -> None:
    known = noise_of((0.5, 1e6), (3.5, 1e6))
    assert detectable_difference(known, num_tests=1) == pytest.approx(2 * (1.9600 + 0.8416), rel=0.01)
    assert detectable_difference(known, num_tests=5) == pytest.approx(2 * (2.5758 + 0.8416), rel=0.01)
    assert math.isnan(detectable_difference(Estimate(1.0), num_tests=3))


def test_sweeps_find_the_difference_that_sweeps_of_the_same_noise_print() -> None:
    # One part with 4 degrees of freedom: the printed difference varies with the standard error of its sweep.
    printed = detectable_difference(noise_of((1.0, 4)), num_tests=1)
    errors = np.sqrt(stats.chi2.ppf((np.arange(400) + 0.5) / 400, 4) / 4)
    power = stats.nct.sf(stats.t.ppf(0.975, 4), 4, printed * errors).mean()
    assert power == pytest.approx(0.8, abs=0.01)
