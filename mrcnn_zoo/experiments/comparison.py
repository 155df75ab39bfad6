"""Comparison of a sweep's variants with its reference: a row per variant, for each metric.

`compare` reads the runs of a sweep, at any time; `compare_variants` compares values from anywhere.
"""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.experiments.records import FAILED, FINISHED, RunRecord, SweepRecord, result_of
from mrcnn_zoo.experiments.resampled_runs import (
    RESAMPLES,
    GroundTruths,
    ResampledMetric,
    find_evaluation,
    read_resampled,
)
from mrcnn_zoo.experiments.statistics import (
    IMAGES,
    NOTHING,
    SEEDS,
    SEEDS_AND_IMAGES,
    Estimate,
    Observations,
    detectable_difference,
    estimate_difference,
    estimate_mean,
    holm,
    verdict_of,
)

# Columns in which less is better: times, memory, losses and calibration errors.
LESS_IS_BETTER = re.compile(r"(^|/|_)(\w*loss\w*|seconds\w*|time\w*|memory\w*|ECE|MCE)$", re.IGNORECASE)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ComparisonRow:
    """One variant in one metric; metrics in percent.

    Args:
        variant: its name.
        values: of each finished seed.
        num_seeds: of the sweep, finished or not.
        mean: over seeds, with its 95 % interval; None while no run is finished.
        difference: to the reference, with its 95 % interval; None for the reference, and while a side is missing.
        adjusted_p: p-value of the difference after Holm over all rows of the metric; nan if it is not tested.
        verdict: "better", "worse" or "not distinguishable"; empty without a difference.
        detectable: smallest true difference that this many seeds and images find with 80 % power; nan if unknown.
        notes: such as "1 of 5 seeds failed", "one seed", "other test set".
    """

    variant: str
    values: dict[int, float]
    num_seeds: int
    mean: Estimate | None = None
    difference: Estimate | None = None
    adjusted_p: float = float("nan")
    verdict: str = ""
    detectable: float = float("nan")
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class MetricComparison:
    """All variants in one metric.

    Args:
        metric: as in COLUMNS, e.g. "segm/AP".
        reference: the variant that the others are compared with; empty for none.
        rows: in the order of the sweep.
        covers: what the intervals cover: "seeds and images", "seeds", "images" or empty.
        num_images: of the test set; 0 if the metric cannot be resampled.
        notes: about the whole table.
    """

    metric: str
    reference: str
    rows: tuple[ComparisonRow, ...]
    covers: str = ""
    num_images: int = 0
    notes: tuple[str, ...] = ()

    def row(self, variant: str) -> ComparisonRow:
        """The row of a variant.

        Args:
            variant: its name.

        Raises:
            KeyError: there is none.
        """
        for row in self.rows:
            if row.variant == variant:
                return row
        raise KeyError(variant)


@dataclass(frozen=True)
class VariantValues:
    """One metric of the seeds of a variant, as `compare_variants` takes it.

    Args:
        variant: its name.
        num_seeds: of the sweep, finished or not.
        values: of each seed with a result.
        resampled: of the same seeds; empty if the metric cannot be resampled.
        notes: e.g. "1 of 5 seeds failed".
        problem: why the test images of a seed could not be resampled.
    """

    variant: str
    num_seeds: int
    values: Mapping[int, float]
    resampled: Mapping[int, ResampledMetric] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    problem: str = ""

    @property
    def image_set(self) -> str:
        """Fingerprint of the test images of all seeds; empty without resamples of each seed on the same images."""
        sets = {self.resampled[seed].image_set if seed in self.resampled else "" for seed in self.values}
        return sets.pop() if len(sets) == 1 else ""

    def observations(self) -> Observations:
        """The values as the statistics take them, in the order of the seeds."""
        values = np.array(list(self.values.values()), dtype=np.float64)
        if not self.image_set:
            return Observations(values)
        parts = [self.resampled[seed] for seed in self.values]
        return Observations(values, np.stack([part.values for part in parts], axis=1), parts[0].num_units)


def compare(
    record: SweepRecord, metrics: Sequence[str] | None = None, *, resamples: int = RESAMPLES
) -> list[MetricComparison]:
    """Compare the variants of a sweep, with the runs that are finished.

    Of a variant with several fractions of the training data the largest counts. A cross-validation is
    compared by `cross_validation.py`.

    Args:
        record: of the sweep's folder.
        metrics: e.g. "segm/AP"; None for the columns of the sweep.
        resamples: of the test images.
    """
    chosen, truths = record.sweep.columns if metrics is None else metrics, GroundTruths()
    values = {metric: _variant_values(record, metric, truths, resamples=resamples) for metric in chosen}
    _warn_of_problems(values)
    return [compare_variants(metric, variants, reference=record.sweep.reference) for metric, variants in values.items()]


def _warn_of_problems(values: Mapping[str, Sequence[VariantValues]]) -> None:
    found = [(metric, each) for metric, variants in values.items() for each in variants if each.problem]
    if found:
        metric, first = found[0]
        text = "the noise of the test images is unknown in %d of %d rows, whose intervals cover seeds alone; %s, %s: %s"
        total = sum(map(len, values.values()))
        logger.warning(text, len(found), total, first.variant, metric, first.problem)


def _variant_values(record: SweepRecord, metric: str, truths: GroundTruths, *, resamples: int) -> list[VariantValues]:
    """A metric of all finished runs with the largest fraction of the training data, without folds."""
    found = []
    for variant in record.sweep.variants:
        runs = [run for run in record.runs if run.key.variant == variant.name and run.key.fold is None]
        largest = max((run.key.fraction for run in runs), default=1.0)
        of_seeds = [run for run in runs if run.key.fraction == largest]
        found.append(_values_of_seeds(variant.name, of_seeds, metric, truths, resamples=resamples))
    return found


def _values_of_seeds(
    variant: str, runs: Sequence[RunRecord], metric: str, truths: GroundTruths, *, resamples: int
) -> VariantValues:
    """A metric of runs that differ by their seed alone; without resamples of the test images where these are 0."""
    measured = {run.key.seed: result_of(run.results, metric) for run in runs if run.status == FINISHED}
    values = {seed: value for seed, value in measured.items() if not math.isnan(value)}
    resampled, notes, problem = {}, _notes_of_runs(runs, measured, values), ""
    for run in runs if resamples else ():
        evaluation = find_evaluation(run, metric) if run.key.seed in values else None
        if evaluation is None:
            continue
        try:
            found = read_resampled(evaluation, truths, resamples=resamples)
        except UserError as error:
            problem = problem or str(error)
            notes = (*notes, f"images of seed {run.key.seed} not resampled")
            continue
        if found is not None:
            resampled[run.key.seed] = found
    return VariantValues(variant, len(runs), values, resampled, notes, problem)


def _notes_of_runs(
    runs: Sequence[RunRecord], measured: Mapping[int, float], values: Mapping[int, float]
) -> tuple[str, ...]:
    failed = sum(run.status == FAILED for run in runs)
    missing = len(runs) - failed - len(measured)
    unmeasured = len(measured) - len(values)
    counts = ((failed, "failed"), (missing, "not finished"), (unmeasured, "without this metric"))
    return tuple(f"{count} of {counted(len(runs), 'seed')} {text}" for count, text in counts if count)


def compare_variants(
    metric: str, variants: Sequence[VariantValues], *, reference: str = "", notes: tuple[str, ...] = ()
) -> MetricComparison:
    """Compare variants in one metric; Holm's correction is over all variants that can be tested.

    Args:
        metric: its name.
        variants: with their values.
        reference: name of the variant that the others are compared with; empty for none.
        notes: about the whole table.
    """
    ours = next((variant for variant in variants if variant.variant == reference and variant.values), None)
    rows = [_row(variant, ours) for variant in variants]
    adjusted = holm([math.nan if row.difference is None else row.difference.p_value for row in rows])
    tested = sum(not math.isnan(p) for p in adjusted)
    less_is_better = LESS_IS_BETTER.search(metric) is not None
    for place, (row, p) in enumerate(zip(rows, adjusted, strict=True)):
        if row.difference is not None:
            rows[place] = replace(
                row,
                adjusted_p=p,
                verdict=verdict_of(row.difference, p, higher_is_better=not less_is_better),
                detectable=detectable_difference(row.difference, num_tests=tested),
            )
    covered = {row.mean.covers for row in rows if row.mean is not None} - {NOTHING}
    covers = next((kind for kind in (SEEDS_AND_IMAGES, SEEDS, IMAGES) if kind in covered), NOTHING)
    sizes = [part.num_images for variant in variants for part in variant.resampled.values()]
    return MetricComparison(metric, reference, tuple(rows), covers, max(sizes, default=0), notes)


def _row(variant: VariantValues, reference: VariantValues | None) -> ComparisonRow:
    """The row without what depends on the other rows."""
    row = ComparisonRow(variant.variant, dict(variant.values), variant.num_seeds, notes=variant.notes)
    if not variant.values:
        return row
    mean = estimate_mean(variant.observations())
    if variant.image_set:  # an AP in percent
        mean = replace(mean, low=float(np.clip(mean.low, 0, 100)), high=float(np.clip(mean.high, 0, 100)))
    notes = list(variant.notes)
    if len(variant.values) == 1:
        notes.append("one seed: interval over images alone" if mean.covers == IMAGES else "one seed: no interval")
    elif mean.seed_variance == 0:
        notes.append("equal in all seeds")
    difference = None
    if reference is not None and reference is not variant:
        shares_images = variant.image_set == reference.image_set
        difference = estimate_difference(variant.observations(), reference.observations(), shares_images=shares_images)
        if variant.image_set and reference.image_set and not shares_images:
            notes.append("other test set")
        if len(reference.values) == 1:
            notes.append("one seed of the reference")
        if difference.covers == NOTHING:
            notes.append("not tested")
    return replace(row, mean=mean, difference=difference, notes=tuple(notes))
