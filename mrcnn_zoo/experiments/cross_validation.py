"""Cross-validation of a sweep with FOLDS: values by fold, and variants compared on the same held-out images.

Two numbers summarise the folds: the mean of their values, and the value of all detections pooled on the union of the
held-out images. Neither has an interval over folds: these share training images, so their values are no sample of
independent ones (Source: Bengio and Grandvalet 2004, No Unbiased Estimator of the Variance of K-Fold Cross-Validation).
The intervals are those of the held-out images, drawn by groups where there are some, and of the seeds.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.evaluation.bootstrap import ImageMatches, pool_matches
from mrcnn_zoo.evaluation.resampled_ap import draw_images, resampled_ap
from mrcnn_zoo.experiments.comparison import MetricComparison, VariantValues, compare_variants
from mrcnn_zoo.experiments.records import FINISHED, RunRecord, SweepRecord, result_of
from mrcnn_zoo.experiments.resampled_runs import (
    RESAMPLES,
    RESAMPLING_SEED,
    EvaluatedRun,
    GroundTruths,
    ResampledMetric,
    find_evaluation,
    fingerprint_of,
    read_matches,
)
from mrcnn_zoo.training.run_context import DATASETS_FILE

FOLDS_NOTE = (
    "Mean of the folds. There is no interval over folds, as they share training images; intervals are those of the "
    "held-out images and of the seeds. Another division into folds would give other values, which is not included."
)
POOLED_NOTE = (
    "Detections of all folds, ranked together on the union of the held-out images. Each fold has its own model, and "
    "the scales of their scores differ, which lowers this value; the mean of the folds does not depend on them."
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CrossValidation:
    """One metric of a sweep with folds.

    Args:
        metric: e.g. "segm/AP".
        folds: value of each fold, the mean over the seeds that are finished in all folds, by variant; nan where there
            is none.
        means: comparison of the means of the folds.
        pooled: comparison of the pooled evaluations; None of a metric that cannot be pooled.
        num_images: held out in all folds; 0 if unknown.
        num_groups: that they belong to; `num_images` without groups.
        notes: such as why nothing is pooled.
    """

    metric: str
    folds: Mapping[str, tuple[float, ...]]
    means: MetricComparison
    pooled: MetricComparison | None = None
    num_images: int = 0
    num_groups: int = 0
    notes: tuple[str, ...] = ()


def cross_validate(
    record: SweepRecord, metrics: Sequence[str] | None = None, *, resamples: int = RESAMPLES
) -> list[CrossValidation]:
    """Compare the variants of a sweep with folds, with the seeds that are finished in all folds.

    Args:
        record: of the sweep's folder; of several fractions of the data the largest counts.
        metrics: e.g. "segm/AP"; None for the columns of the sweep.
        resamples: of the held-out images; 0 for none.
    """
    chosen = record.sweep.columns if metrics is None else metrics
    held_out = HeldOut(resamples)
    found = [_cross_validation(record, metric, held_out) for metric in chosen]
    if held_out.problems:
        (first, error), count = next(iter(held_out.problems.items())), len(held_out.problems)
        logger.warning("held-out images are not resampled in %s; %s: %s", counted(count, "case"), first, error)
    return found


@dataclass(frozen=True)
class _VariantFolds:
    """One variant: values by fold, of the means of the folds and of the pooled detections."""

    folds: tuple[float, ...]
    means: VariantValues
    pooled: VariantValues
    matches: tuple[ImageMatches, ...]
    notes: tuple[str, ...]


def _cross_validation(record: SweepRecord, metric: str, held_out: "HeldOut") -> CrossValidation:
    found = {variant.name: _of_variant(record, variant.name, metric, held_out) for variant in record.sweep.variants}
    reference, of_variants = record.sweep.reference, list(found.values())
    largest = max((matches for item in of_variants for matches in item.matches), key=len, default=None)
    pooled = [item.pooled for item in of_variants]
    return CrossValidation(
        metric,
        {name: item.folds for name, item in found.items()},
        compare_variants(metric, [item.means for item in of_variants], reference=reference, notes=(FOLDS_NOTE,)),
        compare_variants(metric, pooled, reference=reference, notes=(POOLED_NOTE,)) if largest is not None else None,
        num_images=0 if largest is None else len(largest),
        num_groups=0 if largest is None else largest.num_groups,
        notes=tuple(dict.fromkeys(note for item in of_variants for note in item.notes)),
    )


def _of_variant(record: SweepRecord, variant: str, metric: str, held_out: "HeldOut") -> _VariantFolds:
    seeds = _complete_seeds(record, variant, metric)
    values = {seed: [result_of(run.results, metric) for run in runs] for seed, runs in seeds.items()}
    found: dict[int, SeedEvaluation] = {}
    notes = []
    for seed, runs in seeds.items():
        try:
            parts = held_out.matches(runs, metric)
        except UserError as error:
            held_out.problems[f"{variant}, {metric}, seed {seed}"] = str(error)
            notes.append(f"{variant}, seed {seed}: held-out images neither resampled nor pooled.")
            continue
        if parts:
            found[seed] = held_out.evaluate(parts, metric)
    if any(item.pooled is not None and item.mean is None for item in found.values()):
        notes.append(f"A fold has one group alone, so {metric} of its images has no interval.")
    means = {seed: item.mean for seed, item in found.items() if item.mean is not None}
    pooled = {seed: item.pooled for seed, item in found.items() if item.pooled is not None}
    own, num_seeds = _notes_of_seeds(record, len(seeds)), len(record.sweep.seeds)
    of_folds = {seed: float(np.nanmean(row)) for seed, row in values.items()}
    of_union = {seed: item.value for seed, item in found.items()}
    return _VariantFolds(
        _mean_over_seeds(list(values.values()), record.sweep.folds),
        VariantValues(variant, num_seeds, of_folds, means, own),
        VariantValues(variant, num_seeds, of_union, pooled, own),
        tuple(item.matches for item in found.values()),
        tuple(notes),
    )


def _complete_seeds(record: SweepRecord, variant: str, metric: str) -> dict[int, list[RunRecord]]:
    """The runs of each seed that has the metric in all folds, in the order of the folds."""
    own = [run for run in record.runs if run.key.variant == variant and run.key.fold is not None]
    largest = max((run.key.fraction for run in own), default=1.0)
    complete = {}
    for seed in record.sweep.seeds:
        runs = [run for run in own if (run.key.seed, run.key.fraction, run.status) == (seed, largest, FINISHED)]
        runs.sort(key=lambda run: run.key.fold or 0)
        if len(runs) == record.sweep.folds and any(not math.isnan(result_of(run.results, metric)) for run in runs):
            complete[seed] = runs
    return complete


def _mean_over_seeds(values: Sequence[Sequence[float]], num_folds: int) -> tuple[float, ...]:
    """Mean per fold; nan without seeds."""
    return tuple(np.mean(values, axis=0).tolist()) if values else (math.nan,) * num_folds


def _notes_of_seeds(record: SweepRecord, num_complete: int) -> tuple[str, ...]:
    missing = len(record.sweep.seeds) - num_complete
    return (f"{missing} of {len(record.sweep.seeds)} seeds not finished in all folds",) if missing else ()


# --- held-out images --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class SeedEvaluation:
    """All folds of one seed in one metric.

    Args:
        matches: of the union of the held-out images.
        value: on them, of the pooled detections.
        pooled: the same on resamples of the images; None without resamples.
        mean: of the folds, on resamples within each fold; None without resamples, or where a fold has one group alone.
    """

    matches: ImageMatches
    value: float
    pooled: ResampledMetric | None = None
    mean: ResampledMetric | None = None


class HeldOut:
    """Reads and resamples held-out images; results of a task are kept for its other metrics.

    Args:
        resamples: of the images; 0 for none.

    Attributes:
        problems: why images could not be resampled, by variant, metric and seed.
    """

    def __init__(self, resamples: int = RESAMPLES) -> None:
        self.problems: dict[str, str] = {}
        self._resamples = resamples
        self._truths = GroundTruths()
        self._found: dict[tuple[int, int], dict[str, NDArray[np.float64]]] = {}
        self._matches: dict[tuple[str, ...], ImageMatches] = {}

    def matches(self, runs: Sequence[RunRecord], metric: str) -> list[ImageMatches]:
        """The matches of each fold, with the groups of its images; empty of a metric that cannot be resampled.

        Args:
            runs: one per fold.
            metric: e.g. "segm/AP".

        Raises:
            UserError: the detections or the test set of a fold cannot be read, or an image is in two folds.
        """
        evaluations = [find_evaluation(run, metric) for run in runs]
        parts = [self._of_run(evaluation) for evaluation in evaluations if evaluation is not None]
        if len(parts) < len(runs):
            return []
        if len(np.unique(np.concatenate([part.image_ids for part in parts]))) < sum(map(len, parts)):
            raise UserError(
                f"{runs[0].folder.parent} and the other folds are tested on the same images, not on their held-out "
                "ones. Leave out DATASETS.TEST in the sweep's VARIANTS."
            )
        return parts

    def _of_run(self, run: EvaluatedRun) -> ImageMatches:
        key = (str(run.folder), run.task)
        if key not in self._matches:
            matches = read_matches(run, self._truths)
            groups = _groups_of(run)
            if groups:
                named = np.array([groups[str(image_id)] for image_id in matches.image_ids.tolist()])
                matches = replace(matches, groups=named)
            self._matches[key] = matches
        return self._matches[key]

    def evaluate(self, parts: Sequence[ImageMatches], metric: str) -> SeedEvaluation:
        """The pooled value of the folds, and resamples of it and of their mean.

        Args:
            parts: of `matches`.
            metric: e.g. "segm/AP".
        """
        name = metric.rpartition("/")[2]
        union = pool_matches(parts)
        (value,) = resampled_ap(union, np.ones((1, len(union)), dtype=np.uint16))[name]
        if not self._resamples:
            return SeedEvaluation(union, float(value))
        image_set, count = fingerprint_of(union), len(union)
        pooled = self._resampled(union, name, seed=RESAMPLING_SEED, key=(id(parts[0]), -1))
        mean = None
        units = [part.num_groups for part in parts]
        if min(units) > 1:
            rows = [
                self._resampled(part, name, seed=RESAMPLING_SEED + 1 + fold, key=(id(part), fold))
                for fold, part in enumerate(parts)
            ]
            mean = ResampledMetric(mean_of_folds(rows, units), sum(units) - len(units) + 1, image_set, count)
        return SeedEvaluation(union, float(value), ResampledMetric(pooled, union.num_groups, image_set, count), mean)

    def _resampled(self, matches: ImageMatches, name: str, *, seed: int, key: tuple[int, int]) -> NDArray[np.float64]:
        if key not in self._found:
            self._found[key] = resampled_ap(matches, draw_images(matches, self._resamples, seed=seed))
        return self._found[key][name]


def mean_of_folds(rows: Sequence[NDArray[np.float64]], num_units: Sequence[int]) -> NDArray[np.float64]:
    """(B,) means over folds that are resampled independently, with the variance of samples.

    The variance of a bootstrap of n units is that of a sample with the divisor n. `Observations` correct it for all
    units together, whose degrees of freedom are those of all folds; the rest of each fold's correction is made here.

    Args:
        rows: (B,) of each fold; folds without objects (nan everywhere) are left out.
        num_units: of each fold, at least 2.
    """
    degrees = sum(num_units) - len(num_units)
    corrected = []
    for row, units in zip(rows, num_units, strict=True):
        if np.isnan(row).all():
            continue
        center = np.nanmean(row)
        factor = math.sqrt(units / (units - 1) * degrees / (degrees + 1))
        corrected.append(center + factor * (row - center))
    return np.mean(corrected, axis=0) if corrected else np.full(len(rows[0]), np.nan)


def _groups_of(run: EvaluatedRun) -> dict[str, str]:
    """Group of each held-out image by its id, as the training has written it; empty without DATASETS.GROUP.

    Raises:
        UserError: the file cannot be read, or has several datasets.
    """
    path = run.config.parent / DATASETS_FILE
    try:
        groups = json.loads(path.read_text(encoding="utf-8")).get("groups", {})
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}, with the groups of the held-out images, cannot be read ({error}).") from error
    return groups.get(run.dataset, {}) if run.dataset or len(groups) != 1 else next(iter(groups.values()))
