"""Comparison of a sweep's variants with its reference: a row per variant, for each metric."""

from dataclasses import dataclass, field

from mrcnn_zoo.experiments.statistics import Estimate


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
    notes: tuple[str, ...] = field(default=())

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
