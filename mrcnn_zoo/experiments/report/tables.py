"""Tables of a report: cells of text with footnotes, which Markdown, LaTeX and HTML print."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from mrcnn_zoo.errors import counted
from mrcnn_zoo.evaluation.tables import ABSENT
from mrcnn_zoo.experiments.comparison import ComparisonRow, MetricComparison
from mrcnn_zoo.experiments.cross_validation import CrossValidation
from mrcnn_zoo.experiments.records import FINISHED
from mrcnn_zoo.experiments.report.model import Report, Section
from mrcnn_zoo.experiments.statistics import BETTER, WORSE, Estimate
from mrcnn_zoo.inspection.html_page import Cell, Table

NO_REFERENCE = "the sweep has no REFERENCE"
IS_REFERENCE = ""  # its cells are empty, without a footnote
NO_RESULT_OF_REFERENCE = "the reference has no value of this metric"
NOT_TESTED = "a test needs two seeds on each side"
NOT_PUBLISHED = "not in PAPER"
NO_PUBLISHED_REFERENCE = "PAPER has no number of the reference"
EQUAL = "the published numbers are equal"
REFERENCE = "reference"


def result_tables(section: Section) -> list[Table]:
    """Tables of the results of a sweep, empty ones omitted.

    Args:
        section: the sweep.
    """
    overview = [overview_table([section])] if len(section.metrics) > 1 else []
    tables = [
        *overview,
        *_first_open(metric_table(section, comparison) for comparison in section.comparisons),
        *(table for item in section.cross_validations for table in fold_tables(section, item)),
        *_first_open(paper_table(section, comparison) for comparison in section.comparisons),
    ]
    return [table for table in tables if table.rows]


def _first_open(tables: Iterable[Table]) -> list[Table]:
    """Tables of several metrics, of which HTML folds all but the first."""
    return [replace(table, is_folded=place > 0) for place, table in enumerate(item for item in tables if item.rows)]


def report_tables(report: Report) -> list[Table]:
    """Tables of all sweeps together; none for a single sweep.

    Args:
        report: of at least one sweep.
    """
    return [overview_table(report.sections)] if len(report.sections) > 1 else []


def overview_table(sections: Sequence[Section]) -> Table:
    """Mean of each metric, with its verdict: one row per variant.

    Args:
        sections: a column names the sweep where there are several.
    """
    several = len(sections) > 1
    metrics = tuple(dict.fromkeys(metric for section in sections for metric in section.metrics))
    rows = []
    for section in sections:
        found = {(row.variant, item.metric): row for item in section.comparisons for row in item.rows}
        for variant in section.variants:
            names = (Cell(section.name), Cell(variant)) if several else (Cell(variant),)
            means = (_overview_cell(found.get((variant, metric)), metric, section) for metric in metrics)
            rows.append((*names, _runs_cell(section, variant), *means))
    headers = (*(("sweep", "variant") if several else ("variant",)), "runs", *metrics)
    return Table("All sweeps" if several else "Overview", headers, tuple(rows), names=1 + several)


def _overview_cell(row: ComparisonRow | None, metric: str, section: Section) -> Cell:
    if row is None:
        return Cell(ABSENT, f"{metric} is not in COLUMNS of {section.name}")
    if row.mean is None:
        return Cell(ABSENT, _why_no_mean(row))
    mark = REFERENCE if row.variant == section.reference and is_comparison(section) else _kind(row)
    return Cell(f"{row.mean.value:.2f}" + (f" ({mark})" if mark else ""), kind=_kind(row))


def metric_table(section: Section, comparison: MetricComparison) -> Table:
    """Means, differences to the reference and verdicts of one metric.

    Args:
        section: the sweep.
        comparison: of its variants.
    """
    headers: tuple[str, ...] = (
        "variant",
        "seeds",
        "mean [95 %]",
        "difference [95 %]",
        "p (Holm)",
        "verdict",
        "smallest detectable",
    )
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            Cell(row.variant),
            _count_cell(len(row.values), row.num_seeds),
            _mean_cell(row),
            *_comparison_cells(row, section),
        )
        for row in comparison.rows
    )
    count = len(headers) if is_comparison(section) else 3
    caption = _metric_caption(section, comparison)
    return Table(comparison.metric, headers[:count], tuple(row[:count] for row in rows), caption=caption)


def is_comparison(section: Section) -> bool:
    """Whether there are variants to compare with the reference."""
    return len(section.variants) > 1


def _metric_caption(section: Section, comparison: MetricComparison) -> str:
    images = f" ({counted(comparison.num_images, 'test image')})" if comparison.num_images else ""
    sentences = [
        f"Difference: variant - {section.reference}." if section.reference and is_comparison(section) else "",
        f"The intervals cover {comparison.covers}{images}." if comparison.covers else "",
        *(f"{note[:1].upper()}{note[1:].rstrip('.')}." for note in comparison.notes),
    ]
    return " ".join(filter(None, sentences))


def _runs_cell(section: Section, variant: str) -> Cell:
    statuses = [run.status for run in section.runs if run.variant == variant]
    return _count_cell(statuses.count(FINISHED), len(statuses))


def _count_cell(finished: int, planned: int) -> Cell:
    return Cell(str(finished) if finished == planned else f"{finished} of {planned}")


def _mean_cell(row: ComparisonRow) -> Cell:
    if row.mean is None:
        return Cell(ABSENT, _why_no_mean(row))
    return Cell(estimate_text(row.mean), "; ".join(row.notes) or ("" if has_interval(row.mean) else "no interval"))


def _why_no_mean(row: ComparisonRow) -> str:
    return "; ".join(row.notes) or f"0 of {counted(row.num_seeds, 'run')} finished"


def _comparison_cells(row: ComparisonRow, section: Section) -> tuple[Cell, Cell, Cell, Cell]:
    reason = why_not_compared(row, section)
    is_reference = row.variant == section.reference
    verdict = REFERENCE if is_reference else row.verdict
    return (
        _absent(reason) if row.difference is None else Cell(estimate_text(row.difference, signed=True)),
        _absent(reason) if math.isnan(row.adjusted_p) else Cell(p_text(row.adjusted_p)),
        Cell(verdict, kind=_kind(row)) if verdict else _absent(reason),
        number_cell(row.detectable, reason),
    )


def why_not_compared(row: ComparisonRow, section: Section) -> str:
    """Why a row has no difference or no test.

    Args:
        row: of a variant.
        section: the sweep.
    """
    if not section.reference:
        return NO_REFERENCE
    if row.variant == section.reference:
        return IS_REFERENCE
    if row.mean is None:
        return _why_no_mean(row)
    return NO_RESULT_OF_REFERENCE if row.difference is None else "; ".join(row.notes) or NOT_TESTED


def number_cell(value: float | None, reason: str, *, digits: int = 2) -> Cell:
    return _absent(reason) if value is None or math.isnan(value) else Cell(f"{value:,.{digits}f}")


def _absent(reason: str) -> Cell:
    return Cell(ABSENT, reason) if reason else Cell("")


def _kind(row: ComparisonRow) -> str:
    return row.verdict if row.verdict in (BETTER, WORSE) else ""


def estimate_text(estimate: Estimate, *, signed: bool = False) -> str:
    """A number with its interval, e.g. "36.94 [36.10, 37.78]".

    Args:
        estimate: the number.
        signed: whether positive numbers have a plus sign.
    """
    sign = "+" if signed else ""
    interval = f" [{estimate.low:{sign}.2f}, {estimate.high:{sign}.2f}]" if has_interval(estimate) else ""
    return f"{estimate.value:{sign}.2f}{interval}"


def has_interval(estimate: Estimate) -> bool:
    """Whether both ends of the interval are known.

    Args:
        estimate: the number.
    """
    return not (math.isnan(estimate.low) or math.isnan(estimate.high))


def p_text(value: float) -> str:
    """A p-value with three digits after the point.

    Args:
        value: 0 to 1.
    """
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def fold_tables(section: Section, cross: CrossValidation) -> list[Table]:
    """Values of each fold, and the comparison of the pooled evaluations.

    Args:
        section: the sweep.
        cross: one metric.
    """
    num_folds = max(map(len, cross.folds.values()), default=0)
    reason = "no seed is finished in all folds"
    rows = tuple(
        (Cell(variant), *(number_cell(value, reason) for value in values)) for variant, values in cross.folds.items()
    )
    headers = ("variant", *(f"fold {fold}" for fold in range(num_folds)))
    groups = f" in {counted(cross.num_groups, 'group')}" if 0 < cross.num_groups < cross.num_images else ""
    images = [f"{counted(cross.num_images, 'held-out image')}{groups}."] if cross.num_images else []
    tables = [Table(f"{cross.metric} by fold", headers, rows, caption=" ".join([*images, *cross.notes]))]
    if cross.pooled is not None:
        tables.append(metric_table(section, replace(cross.pooled, metric=f"{cross.metric}, pooled")))
    return tables


def paper_table(section: Section, comparison: MetricComparison) -> Table:
    """Published numbers beside ours; without rows where nothing is published.

    Args:
        section: the sweep.
        comparison: of its variants.
    """
    metric = comparison.metric
    is_published = any(name == metric for _, name in section.published)
    headers = ("variant", "ours", "published", "our difference", "published difference", "ordering")
    caption = f"Published: {section.paper_source}. Difference: variant - {section.reference}."
    rows = tuple(_paper_row(row, metric, section) for row in comparison.rows if is_published)
    return Table(f"{metric} beside the published numbers", headers, rows, caption=caption)


def _paper_row(row: ComparisonRow, metric: str, section: Section) -> tuple[Cell, ...]:
    published, difference = section.published.get((row.variant, metric)), row.difference
    published_difference = section.published_difference(row.variant, metric)
    reason = why_not_compared(row, section)
    why = NOT_PUBLISHED if published is None else NO_PUBLISHED_REFERENCE
    if row.variant == section.reference:
        why = IS_REFERENCE
    agreement, no_agreement = section.agreement(row, metric), reason if difference is None else why
    return (
        Cell(row.variant),
        Cell(ABSENT, _why_no_mean(row)) if row.mean is None else Cell(f"{row.mean.value:.2f}"),
        number_cell(published, NOT_PUBLISHED),
        _absent(reason) if difference is None else Cell(f"{difference.value:+.2f}"),
        _absent(why) if published_difference is None else Cell(f"{published_difference:+.2f}"),
        Cell(agreement) if agreement else _absent(EQUAL if published_difference == 0 else no_agreement),
    )
