"""The folders of sweeps -> the content of a report."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mrcnn_zoo.data.classes import listed
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.experiments.comparison import LESS_IS_BETTER, MetricComparison, compare
from mrcnn_zoo.experiments.cross_validation import cross_validate
from mrcnn_zoo.experiments.learning_curve import LearningCurve, learning_curves
from mrcnn_zoo.experiments.records import (
    FINISHED,
    METRICS_FILE,
    RunRecord,
    SweepRecord,
    columns_of,
    result_of,
    unknown_columns,
)
from mrcnn_zoo.experiments.report.model import Curve, Report, Run, Section
from mrcnn_zoo.experiments.report.tables import estimate_text
from mrcnn_zoo.experiments.speed import read_speeds
from mrcnn_zoo.experiments.statistics import BETTER, NOT_DISTINGUISHABLE, WORSE
from mrcnn_zoo.experiments.sweep_file import Sweep
from mrcnn_zoo.experiments.variants import Variant
from mrcnn_zoo.inspection.plots import Series, read_metrics

TOTAL_LOSS = "total_loss"
MAX_POINTS = 100  # of a curve; means over as many spans of iterations
METHOD = (
    "Intervals of 95 %: Welch over the seeds, bootstrap over the test images. p-values are adjusted by Holm over all "
    "rows of a metric. The smallest detectable difference is found with 80 % power. docs/statistics.md has the "
    "formulas and what they do not cover."
)


def build_report(sections: Sequence[Section], *, date: str) -> Report:
    """A report on several sweeps; those of the same name get the names of their folders in addition.

    Args:
        sections: of the sweeps.
        date: at which their folders were read.
    """
    counts = Counter(section.name for section in sections)
    titles = Counter(section.title for section in sections)
    named = []
    for place, section in enumerate(sections, start=1):
        is_same = counts[section.name] > 1
        same_folders = sum(other.folder == section.folder for other in sections) > 1
        suffix = f"{section.folder}{f', {place}' if same_folders else ''}"
        title = f"{section.title} ({suffix})" if titles[section.title] > 1 else section.title
        named.append(replace(section, name=f"{section.name} ({suffix})" if is_same else section.name, title=title))
    return Report(tuple(named), date)


def read_section(record: SweepRecord) -> Section:
    """Compare the finished runs of a sweep, and collect what its report shows.

    Args:
        record: of its folder.

    Raises:
        UserError: a file of the sweep cannot be read.
    """
    columns = columns_of(record)
    if record.sweep.folds:
        folds = cross_validate(record, columns)
        return replace(build_section(record, [item.means for item in folds]), cross_validations=tuple(folds))
    comparisons = compare(record, columns)
    try:
        curves = learning_curves(record, [name for name in columns if not LESS_IS_BETTER.search(name)])
    except UserError as error:  # runs of an earlier version; the rest of the report does not need them
        section = build_section(record, comparisons)
        return replace(section, remarks=(*section.remarks, f"No learning curves: {error}"))
    return build_section(record, comparisons, learning=curves)


def build_section(
    record: SweepRecord, comparisons: Sequence[MetricComparison], *, learning: Sequence[LearningCurve] = ()
) -> Section:
    """The content of one sweep.

    Args:
        record: of its folder.
        comparisons: of its variants, one per metric.
        learning: learning curves, with DATA_FRACTIONS.

    Raises:
        UserError: a file of the sweep cannot be read.
    """
    sweep, metrics = record.sweep, tuple(comparison.metric for comparison in comparisons)
    speeds, speed_text = read_speeds(record.folder)
    series = _series_by_variant(record)
    section = Section(
        name=record.name,
        folder=record.folder,
        title=sweep.title or record.name,
        metrics=metrics,
        variants=tuple(variant.name for variant in sweep.variants),
        note=sweep.note,
        reference=sweep.reference,
        changes={variant.name: tuple(_changes_of(variant)) for variant in sweep.variants},
        comparisons=tuple(comparisons),
        runs=tuple(_run_of(run, metrics) for run in record.runs),
        published={(number.variant, number.column): number.value for number in sweep.paper},
        paper_source=sweep.paper_source,
        speeds=speeds,
        speed_text=speed_text,
        losses=tuple(_curves(series, TOTAL_LOSS)),
        progress={metric: curves for metric in metrics if (curves := tuple(_curves(series, metric)))},
        learning_curves=tuple(learning),
    )
    return replace(section, remarks=tuple(filter(None, [*_remarks(section, sweep), unknown_columns(record)])))


def _changes_of(variant: Variant) -> Iterable[str]:
    if variant.base:
        yield f"BASE: {Path(variant.base).name}"
    if variant.starts_from:
        yield f"FROM: {variant.starts_from}"
    for part in variant.inherited:
        yield f"FROM: {part.part} of {part.stage}" + (f" ({part.source})" if part.source != part.part else "")
    if variant.fraction is not None:
        yield f"FRACTION: {variant.fraction:g}"
    for assignment in variant.overrides:
        yield f"{assignment.name}: {_value_text(assignment.value)}"
    if variant.note:
        yield variant.note


def _value_text(value: object) -> str:
    return '""' if value == "" else str(value)


def _run_of(run: RunRecord, metrics: Sequence[str]) -> Run:
    values = {metric: result_of(run.results, metric) for metric in metrics}
    key = run.key
    return Run(
        variant=key.variant,
        seed=key.seed,
        fraction=key.fraction,
        fold=key.fold,
        status=run.status,
        folder=run.folder,
        error=run.error,
        metrics={metric: value for metric, value in values.items() if not np.isnan(value)},
    )


# --- curves over the iterations ---------------------------------------------------------------------------------------
def _series_by_variant(record: SweepRecord) -> dict[str, list[Mapping[str, Series]]]:
    """The scalars of the runs of each variant, with its largest share of the training images."""
    largest: dict[str, float] = {}
    for run in record.runs:
        largest[run.key.variant] = max(run.key.fraction, largest.get(run.key.variant, 0.0))
    found: dict[str, list[Mapping[str, Series]]] = {}
    for run in record.runs:
        path = _metrics_file(run)
        if run.key.fraction == largest[run.key.variant] and path.is_file():
            found.setdefault(run.key.variant, []).append(read_metrics(path))
    return found


def _metrics_file(run: RunRecord) -> Path:
    """Of the last stage; a run of several stages has it once it is finished."""
    of_stage = run.results_dir.parent / METRICS_FILE
    return of_stage if run.status == FINISHED and of_stage.is_file() else run.folder / METRICS_FILE


def _curves(series: Mapping[str, Sequence[Mapping[str, Series]]], name: str) -> Iterable[Curve]:
    for variant, runs in series.items():
        curve = mean_curve(variant, [found[name] for found in runs if name in found])
        if len(curve.iterations) > 1:
            yield curve


def mean_curve(variant: str, runs: Sequence[Series]) -> Curve:
    """Mean and range over runs; of many iterations, over at most MAX_POINTS spans of them.

    Args:
        variant: its name.
        runs: iterations and values of each.
    """
    iterations = sorted({iteration for found, _ in runs for iteration in found})
    width = (iterations[-1] + 1) / MAX_POINTS if len(iterations) > MAX_POINTS else 1.0
    by_span: dict[int, list[tuple[float, float]]] = {}  # (iteration, value) of each run
    for found, values in runs:
        spans = np.floor_divide(found, width).astype(int)
        for span in np.unique(spans):
            inside = spans == span
            point = (float(np.mean(np.asarray(found)[inside])), float(np.mean(np.asarray(values)[inside])))
            by_span.setdefault(int(span), []).append(point)
    in_order = [np.array(by_span[span]) for span in sorted(by_span)]  # (runs, 2) each
    return Curve(
        variant,
        iterations=tuple(float(points[:, 0].mean()) for points in in_order),
        mean=tuple(float(points[:, 1].mean()) for points in in_order),
        low=tuple(float(points[:, 1].min()) for points in in_order),
        high=tuple(float(points[:, 1].max()) for points in in_order),
    )


# --- remarks ----------------------------------------------------------------------------------------------------------
def _remarks(section: Section, sweep: Sweep) -> Iterable[str]:
    yield from _findings(section)
    seeds = f"{'seed' if len(sweep.seeds) == 1 else 'seeds'} {', '.join(map(str, sweep.seeds))}"
    yield f"Base config: {Path(sweep.base).name}; {counted(len(section.variants), 'variant')}; {seeds}."
    yield _status_text(section)
    yield from filter(None, (_orderings(section),))
    yield METHOD
    if not section.speeds:
        yield f"Time and memory: {section.speed_text}"


def _status_text(section: Section) -> str:
    counts = Counter(run.status for run in section.runs)
    text = ", ".join(f"{number} {status}" for status, number in counts.items())
    unfinished = len(section.runs) - counts[FINISHED]
    note = " The numbers change when the others are finished." if unfinished else ""
    return f"{counted(len(section.runs), 'run')}: {text}.{note}"


def _orderings(section: Section) -> str:
    """How many published differences have the same sign here; "" where none can be compared."""
    found = [section.agreement(row, item.metric) for item in section.comparisons for row in item.rows]
    counts = ", ".join(f"{found.count(kind)} {kind}" for kind in dict.fromkeys(filter(None, found)))
    return f"Published differences to {section.reference}: {counts}." if counts else ""


def _findings(section: Section) -> Iterable[str]:
    """What is better or worse than the reference and by how much, one sentence per metric; none without verdicts."""
    for item in section.comparisons:
        parts = [
            f"{row.variant} {estimate_text(row.difference, signed=True)} ({row.verdict})"
            for row in item.rows
            if row.verdict in (BETTER, WORSE) and row.difference is not None
        ]
        undecided = [row.variant for row in item.rows if row.verdict == NOT_DISTINGUISHABLE]
        parts += [f"{NOT_DISTINGUISHABLE}: {listed(undecided)}"] if undecided else []
        reference = next((row.mean for row in item.rows if row.variant == section.reference), None)
        value = "" if reference is None else f" ({reference.value:.2f})"
        if parts:
            yield f"{item.metric}, compared with {section.reference}{value}: {'; '.join(parts)}."
