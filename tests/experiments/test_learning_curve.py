"""Learning curves: exponents of known data, the doubling, and what is refused."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.experiments.learning_curve import CurvePoint, LearningCurve, fit_curve, learning_curves
from mrcnn_zoo.experiments.records import FAILED, FINISHED, RunRecord, SweepRecord
from mrcnn_zoo.experiments.runs import RunKey
from mrcnn_zoo.experiments.sweep_file import Sweep
from mrcnn_zoo.experiments.variants import Variant

FRACTIONS = (0.1, 0.2, 0.4, 0.7, 1.0)
TOTAL = 600


def law(images: float, scale: float = 250.0, exponent: float = 0.3) -> float:
    return 100 - scale * images**-exponent


def curve_of(value_of: Callable[[int, float], float], *, seeds: int = 4, fractions=FRACTIONS) -> LearningCurve:
    """The fit to values by seed and number of images."""
    images = {share: round(TOTAL * share) for share in fractions}
    points = [CurvePoint(f, seed, n, value_of(seed, n)) for seed in range(seeds) for f, n in images.items()]
    return fit_curve("base", "segm/AP", points)


def test_exact_law_is_recovered_and_doubled() -> None:
    curve = curve_of(lambda _, n: law(n))
    assert curve.exponent is not None
    assert curve.doubled is not None
    assert curve.exponent.value == pytest.approx(0.3)
    assert curve.scale == pytest.approx(250)
    assert curve.doubled.value == pytest.approx(law(1200))
    assert curve.gain.value == pytest.approx(law(1200) - law(600))
    images, values = curve.line()
    assert (images[0], images[-1]) == pytest.approx((60, 1200))
    assert values[-1] == pytest.approx(law(1200))


def test_means_and_interval_are_those_of_the_fits_per_seed() -> None:
    # Seeds with their own exact law: exponents 0.2 and 0.4, errors at 1200 images by hand.
    curve = curve_of(lambda seed, n: law(n, 100, (0.2, 0.4)[seed]), seeds=2)
    ends = [100 - 100 * 1200**-0.2, 100 - 100 * 1200**-0.4]
    assert curve.exponent.value == pytest.approx(0.3)
    assert curve.doubled.value == pytest.approx(np.mean(ends))
    half = 12.706205 * abs(ends[1] - ends[0]) / 2  # t of one degree of freedom times |difference| / 2
    assert (curve.doubled.low, curve.doubled.high) == pytest.approx((np.mean(ends) - half, np.mean(ends) + half))
    assert curve.gain.low < 0
    assert "cannot be distinguished from no gain" in curve.text()


def test_interval_of_the_doubling_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(200):
        curve = curve_of(lambda _, n: law(n) + rng.normal(0, 0.5))
        inside.append(curve.doubled.low <= law(1200) <= curve.doubled.high)
    assert 0.91 <= np.mean(inside) <= 0.99  # 95 %, standard deviation 1.5 %


def test_points_that_bend_away_from_the_law_are_noted() -> None:
    rng = np.random.default_rng(1)
    flattens = curve_of(lambda _, n: 36 - 700 / n + rng.normal(0, 1))
    assert "are expected to give less than segm/AP" in flattens.text()
    assert flattens.doubled.value > 36  # the limit of the truth
    steepens = curve_of(lambda _, n: 30 + (n / 100) ** 2 + rng.normal(0, 0.5))
    assert "are expected to give more than segm/AP" in steepens.text()
    assert "bend" not in curve_of(lambda _, n: law(n)).text()
    false_alarms = ["bend" in curve_of(lambda _, n: law(n) + rng.normal(0, 0.5)).text() for _ in range(200)]
    assert np.mean(false_alarms) <= 0.1  # the level is 5 %, its standard deviation 1.5 %


def test_fractions_without_learning_are_left_out() -> None:
    curve = curve_of(lambda _, n: 0.0 if n < 100 else law(n))
    assert curve.exponent.value == pytest.approx(0.3)
    assert curve.notes == ("Without the fractions 0.1, where segm/AP is below 1.",)
    refused = curve_of(lambda _, n: 0.0 if n < 200 else law(n))
    assert refused.text().startswith("No prediction: 3 fractions with segm/AP of at least 1, and a fit needs 4.")
    assert refused.line() == ([], [])
    nothing = curve_of(lambda *_: 0.0)
    assert "0 fractions" in nothing.refusal


def test_single_seeds_at_zero_stay_in_the_fit() -> None:
    curve = curve_of(lambda seed, n: 0.0 if (seed, n) == (1, 60) else law(n))
    assert curve.exponent.value > 0.3  # the seed that has not begun to learn at 60 images has a steeper line
    assert not curve.refusal


def test_fewer_than_four_fractions_are_refused() -> None:
    curve = curve_of(lambda _, n: law(n), fractions=(0.1, 0.5, 1.0))
    assert (curve.exponent, curve.doubled) == (None, None)
    assert "3 fractions" in curve.refusal


def test_fall_beyond_the_noise_is_refused_and_noise_is_not() -> None:
    noise = {0: 0.1, 1: -0.1, 2: 0.05, 3: 0.0}
    fallen = curve_of(lambda seed, n: law(n) - (20 if n == 600 else 0) + noise[seed] * (n / 600))
    assert fallen.refusal.startswith("segm/AP falls by 15.9 from the fraction 0.7 to 1, by more than the noise")
    wide = {0: 9, 1: -9, 2: 4, 3: -5}
    noisy = curve_of(lambda seed, n: law(n) - (6 if n == 600 else 0) + (wide[seed] if n == 420 else 0))
    assert not noisy.refusal
    assert "one seed, whose noise is unknown" in curve_of(lambda _, n: 50 - (n == 600), seeds=1).refusal


def test_exponent_of_zero_or_less_is_refused() -> None:
    rng = np.random.default_rng(3)
    curve = curve_of(lambda seed, n: 50 - n / 300 + (-1) ** (seed + n // 60) * 3 + rng.normal())
    assert "does not rise with the number of images (exponent -0.0" in curve.refusal


def test_perfect_values_are_refused() -> None:
    assert "has reached 100" in curve_of(lambda _, n: 100.0 if n == 600 else law(n)).refusal


def test_one_seed_has_no_interval() -> None:
    curve = curve_of(lambda _, n: law(n), seeds=1)
    assert math.isnan(curve.doubled.low)
    assert "One seed, so there is no interval." in curve.text()
    assert "1,200 instead of 600" in curve.text()


@pytest.fixture
def record(tmp_path: Path) -> SweepRecord:
    """Two seeds of a variant with five fractions, another with one fraction."""
    runs = []
    for variant, fractions in (("base", FRACTIONS), ("whole", (1.0,))):
        for seed in (0, 1):
            for share in fractions:
                key = RunKey(variant, seed, share)
                (tmp_path / key.path).mkdir(parents=True)
                counts = {"train": {"one": {"images": round(400 * share)}, "other": {"images": round(200 * share)}}}
                (tmp_path / key.path / "datasets.json").write_text(json.dumps(counts))
                results = {"segm": {"AP": law(TOTAL * share)}, "timing": {"seconds": 1.0}}
                runs.append(RunRecord(key, tmp_path / key.path, FINISHED, results, tmp_path / key.path / "inference"))
    variants = (Variant("base"), Variant("whole"))
    columns = ("segm/AP", "timing/seconds")
    sweep = Sweep("s", tmp_path / "s.yaml", "", tmp_path, variants, (0, 1), columns=columns, data_fractions=FRACTIONS)
    return SweepRecord("s", tmp_path, sweep, tuple(runs))


def test_curves_of_a_sweep_count_the_images_of_all_training_sets(record: SweepRecord) -> None:
    (curve,) = learning_curves(record)
    assert (curve.variant, curve.metric, curve.num_images) == ("base", "segm/AP", 600)
    assert curve.exponent.value == pytest.approx(0.3)


def test_unfinished_seed_is_left_out(record: SweepRecord) -> None:
    runs = tuple(
        RunRecord(run.key, run.folder, FAILED) if (run.key.seed, run.key.fraction) == (1, 0.4) else run
        for run in record.runs
    )
    (curve,) = learning_curves(SweepRecord(record.name, record.folder, record.sweep, runs))
    assert curve.notes == ("9 of 10 runs are finished.", "Without the seeds 1, which lack a fraction.")
    assert math.isnan(curve.doubled.low)
    assert "One seed, so there is no interval." in curve.text()


def test_run_without_its_number_of_images_is_named(record: SweepRecord) -> None:
    path = record.runs[0].folder / "datasets.json"
    path.unlink()
    with pytest.raises(UserError, match=r"datasets\.json, with the number of training images of a run, cannot be read"):
        learning_curves(record)
