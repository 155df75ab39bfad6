"""The content of a report on sweeps: numbers and texts that all formats print.

`build.py` makes it from the folders of sweeps, `tables.py` and `plots.py` arrange it, and a file per format prints it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mrcnn_zoo.experiments.comparison import ComparisonRow, MetricComparison
from mrcnn_zoo.experiments.cross_validation import CrossValidation
from mrcnn_zoo.experiments.learning_curve import LearningCurve
from mrcnn_zoo.experiments.speed import Speed
from mrcnn_zoo.experiments.statistics import BETTER, WORSE

SAME, OPPOSITE, UNDECIDED = "same direction", "opposite direction", "not distinguishable here"


@dataclass(frozen=True)
class Run:
    """One run: where it is, its status, its error if it failed, and its metrics by name of COLUMNS."""

    variant: str
    seed: int
    fraction: float
    fold: int | None
    status: str
    folder: Path
    error: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What distinguishes it from other runs of its variant, e.g. "seed 0, fold 2"."""
        fraction = f", {self.fraction:.0%} of the images" if self.fraction != 1 else ""
        return f"seed {self.seed}{fraction}" + ("" if self.fold is None else f", fold {self.fold}")


@dataclass(frozen=True)
class Curve:
    """A scalar over the iterations: mean and range over the runs of a variant."""

    variant: str
    iterations: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Section:
    """One sweep.

    Args:
        name: unique in the report.
        folder: of the sweep.
        title: heading.
        note: text under it.
        reference: variant that the others are compared with; "" without one.
        metrics: names of COLUMNS.
        variants: names in the order of the sweep.
        changes: what each variant changes, as lines "KEY: value".
        comparisons: of the variants, in the order of `metrics`; with FOLDS, of the means of the folds.
        cross_validations: of each metric, with FOLDS.
        runs: all of them.
        published: values of PAPER by (variant, metric).
        paper_source: where they were published; "" without any.
        speeds: by variant; empty where nothing was measured.
        speed_text: when, where and how they were measured, or the command that measures them.
        losses: total loss over the iterations, per variant.
        progress: by metric, its validation results over the iterations, per variant.
        learning_curves: metrics against the number of training images, with DATA_FRACTIONS.
        remarks: what the reader must know, such as unfinished runs or the method.
    """

    name: str
    folder: Path
    title: str
    metrics: tuple[str, ...]
    variants: tuple[str, ...]
    note: str = ""
    reference: str = ""
    changes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    comparisons: tuple[MetricComparison, ...] = ()
    cross_validations: tuple[CrossValidation, ...] = ()
    runs: tuple[Run, ...] = ()
    published: Mapping[tuple[str, str], float] = field(default_factory=dict)
    paper_source: str = ""
    speeds: Mapping[str, Speed] = field(default_factory=dict)
    speed_text: str = ""
    losses: tuple[Curve, ...] = ()
    progress: Mapping[str, tuple[Curve, ...]] = field(default_factory=dict)
    learning_curves: tuple[LearningCurve, ...] = ()
    remarks: tuple[str, ...] = ()

    def published_difference(self, variant: str, metric: str) -> float | None:
        """Published value - that of the reference; None for the reference, or where one of them is missing.

        Args:
            variant: its name.
            metric: a name of `metrics`.
        """
        value, reference = (self.published.get((name, metric)) for name in (variant, self.reference))
        return None if value is None or reference is None or variant == self.reference else value - reference

    def agreement(self, row: ComparisonRow, metric: str) -> str:
        """Whether our difference has the published sign; "" where one is unknown or the published one is 0.

        Args:
            row: of a variant.
            metric: of the row.
        """
        published = self.published_difference(row.variant, metric)
        if not published or row.difference is None:
            return ""
        if row.verdict not in (BETTER, WORSE):
            return UNDECIDED
        return SAME if row.difference.value * published > 0 else OPPOSITE


@dataclass(frozen=True)
class Report:
    """Sections of all sweeps, and the time at which their folders were read."""

    sections: tuple[Section, ...]
    date: str
