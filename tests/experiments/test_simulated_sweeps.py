"""Coverage, level and power of the comparison on sweeps with a known truth."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from mrcnn_zoo.evaluation.resampled_ap import bootstrap_interval, draw_weights
from mrcnn_zoo.experiments.comparison import MetricComparison, VariantValues, compare_variants
from mrcnn_zoo.experiments.resampled_runs import ResampledMetric
from mrcnn_zoo.experiments.statistics import NOT_DISTINGUISHABLE
from support.simulated_sweeps import Noise, World, mean_ap

SWEEPS = 1000


def covers(sweeps: Sequence[MetricComparison], variant: str, truth: float) -> float:
    """Share of the sweeps in which the interval of the difference of a variant contains the truth."""
    differences = [sweep.row(variant).difference for sweep in sweeps]
    return float(np.mean([found is not None and found.low <= truth <= found.high for found in differences]))


def finds(sweeps: Sequence[MetricComparison], variants: Sequence[str]) -> float:
    """Share of the sweeps in which any of the variants is called different."""
    return float(np.mean([any(sweep.row(v).verdict != NOT_DISTINGUISHABLE for v in variants) for sweep in sweeps]))


def linear_sweep(rng: np.random.Generator, shifts: Sequence[float], *, num_seeds: int) -> MetricComparison:
    """A sweep of a metric that is the mean over 40 images of a value per run and image."""
    num_images, variants = 40, []
    weights = draw_weights(num_images, 100, seed=int(rng.integers(2**32)))
    of_images = rng.normal(0, 5, num_images)
    for number, shift in enumerate(shifts):
        of_variant = shift + of_images + rng.normal(0, 2, num_images)
        runs = of_variant + rng.normal(0, 0.3, (num_seeds, 1)) + rng.normal(0, 3, (num_seeds, num_images))
        resampled = runs @ weights.T / num_images
        parts = {seed: ResampledMetric(part, num_images, "same", num_images) for seed, part in enumerate(resampled)}
        variants.append(VariantValues(f"v{number}", num_seeds, dict(enumerate(runs.mean(axis=1).tolist())), parts))
    return compare_variants("bbox/AP", variants, reference="v0")


def test_coverage_level_and_power_of_a_mean_over_images() -> None:
    rng = np.random.default_rng(0)
    null = [linear_sweep(rng, (0, 0, 0), num_seeds=3) for _ in range(150)]
    coverage = np.mean([covers(null, variant, 0) for variant in ("v1", "v2")])
    assert 0.93 <= coverage <= 0.98
    assert 0.01 <= finds(null, ["v1", "v2"]) <= 0.06
    printed = np.array([sweep.row("v2").detectable for sweep in null])
    # True values: seeds 0.3^2 + 3^2 / 40 per run, images 2^2 / 40 per variant.
    error = math.sqrt(2 * ((0.3**2 + 3**2 / 40) / 3 + 2**2 / 40))
    assert 3.1 * error < np.median(printed) < 4.5 * error  # 3.1: normal quantiles of 0.0125 and 0.8
    power = np.mean([finds([linear_sweep(rng, (0, 0, shift), num_seeds=3)], ["v2"]) for shift in printed])
    assert 0.72 <= power <= 0.88


def test_simulated_detections_have_the_ap_of_their_quality() -> None:
    perfect = mean_ap((0.0, 1.0, 20.0), num_images=10, noise=Noise(0, 0, 0, 0), draws=10)
    assert 30 < perfect[0] < perfect[1] < perfect[2]
    assert perfect[2] == pytest.approx(100)
    found = World((0.0, 3.0), num_seeds=2, num_images=20, resamples=50).draw(np.random.default_rng(1))
    assert found.row("v1").difference.value > 20  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.parametrize(("num_images", "num_classes"), [(50, 1), (50, 10), (300, 10)])
@pytest.mark.parametrize("quality", [-3.0, -1.0, 2.0])
def test_coverage_of_the_interval_of_one_evaluation(quality: float, num_images: int, num_classes: int) -> None:
    rng = np.random.default_rng(0)
    noise = Noise(seed=0.0)
    many = World((quality,), num_seeds=1, num_images=50_000, noise=noise, num_classes=num_classes)
    truth = float(many.average_precisions(rng, np.ones((1, many.num_images), np.uint16))[0, 0, 0])
    world = replace(many, num_images=num_images)
    is_covered, percentiles_cover, values = [], [], []
    for number in range(SWEEPS):
        weights = draw_weights(num_images, world.resamples, seed=number)
        ap = world.average_precisions(rng, np.concatenate([np.ones((1, num_images), np.uint16), weights]))[0, 0]
        low, high = bootstrap_interval(float(ap[0]), ap[1:], num_units=num_images)
        is_covered.append(low <= truth <= high)
        low, high = np.quantile(ap[1:], [0.025, 0.975])
        percentiles_cover.append(low <= truth <= high)
        values.append(ap[0])
    coverage = float(np.mean(is_covered))
    print(
        f"{num_images} images, {num_classes} classes, AP {truth:.1f}, mean {np.mean(values):.1f}: "
        f"coverage {coverage:.3f}, of percentiles {np.mean(percentiles_cover):.3f}"
    )
    assert coverage >= 0.8  # at an AP of 2 with one class; elsewhere above 0.9


@pytest.mark.slow
@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_coverage_and_level_on_simulated_detections(num_seeds: int) -> None:
    rng = np.random.default_rng(num_seeds)
    null = World((0.0, 0.0, 0.0, 0.0), num_seeds=num_seeds)
    sweeps = [null.draw(rng) for _ in range(SWEEPS)]
    others = ["v1", "v2", "v3"]
    coverage = [covers(sweeps, variant, 0.0) for variant in others]
    level = finds(sweeps, others)
    print(f"{num_seeds} seeds: coverage {np.round(coverage, 3)}, level {level:.3f}")
    assert np.mean(coverage) >= 0.93
    assert level <= 0.06


@pytest.mark.slow
@pytest.mark.parametrize("num_seeds", [3, 5])
def test_printed_power_on_simulated_detections(num_seeds: int) -> None:
    rng = np.random.default_rng(10 + num_seeds)
    quality = np.linspace(0, 10, 41)
    ap = mean_ap(tuple(quality), num_images=50, noise=Noise(), draws=200)
    gain = ap - ap[0]
    shift = 1.0
    for _ in range(2):  # noise depends on AP: the pilot has about the difference that it prints
        pilot = [World((0.0, 0.0, shift), num_seeds=num_seeds).draw(rng) for _ in range(SWEEPS // 2)]
        printed = np.array([sweep.row("v2").detectable for sweep in pilot])
        shift = float(np.interp(np.median(printed), gain, quality))
    # Other sweeps, in each of which the true difference is the one that a sweep of the pilot has printed.
    shifts = np.interp(np.resize(printed, SWEEPS), gain, quality)
    sweeps = [World((0.0, 0.0, float(each)), num_seeds=num_seeds).draw(rng) for each in shifts]
    power = finds(sweeps, ["v2"])
    print(f"{num_seeds} seeds: printed {np.percentile(printed, [10, 50, 90]).round(2)}, power {power:.3f}")
    assert 0.75 <= power <= 0.85
