"""Tables of a run report: results, classes, sizes, confusions, times, changes of the config, environment."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import yaml

from mrcnn_zoo.config.keys import COMMAND_LINE
from mrcnn_zoo.errors import counted
from mrcnn_zoo.evaluation.ap_intervals import GROUP_SUFFIX, HIGH, LOW
from mrcnn_zoo.evaluation.backends import LARGE_SIDE, MEDIUM_SIDE
from mrcnn_zoo.evaluation.tables import ABSENT, SCORES, heading_of, is_of_class
from mrcnn_zoo.inspection.html_page import Cell, Table
from mrcnn_zoo.inspection.run_report.config import ConfigChange
from mrcnn_zoo.inspection.run_report.report import EvaluationReport, RunReport
from mrcnn_zoo.progress import duration, size_in_words

SIZES = {"s": f"small, below {MEDIUM_SIDE:g}² pixels", "m": "medium", "l": f"large, from {LARGE_SIDE:g}² pixels"}
OWN_SECTIONS = ("tide_", "funnel_")  # groups of metrics
SUMS = ("FP", "FN")  # error types that contain others
MAX_CONFUSIONS = 12
OPEN_CLASSES = 15  # classes up to which their table is not folded
OPEN_CHANGES = 25
HIDDEN_KEYS = ("OUTPUT_DIR",)
MAX_VALUE = 90  # characters of a value


def result_tables(report: EvaluationReport) -> list[Table]:
    """Results by task, by size of the objects, of other metrics, and by class, empty ones omitted.

    Args:
        report: of an evaluation.
    """
    tables = [_task_table(report), _size_table(report), *_metric_tables(report), _class_table(report)]
    return [table for table in tables if table.rows]


def _tasks(report: EvaluationReport) -> dict[str, Mapping[str, float]]:
    return {
        name: metrics
        for name, metrics in report.files.results.items()
        if ("AP" in metrics and "_" not in name) or name in ("box_proposals", "classification")
    }


def _task_table(report: EvaluationReport) -> Table:
    tasks = _tasks(report)
    names = [
        name
        for name in dict.fromkeys(name for metrics in tasks.values() for name in metrics)
        if not is_of_class(name) and not _size_of(name)
    ]
    intervals = [report.files.results.get(task + GROUP_SUFFIX, {}) for task in tasks]
    rows = []
    for name in names:
        values = [metrics.get(name, math.nan) for metrics in tasks.values()]
        cells = (_percent(value, of_task, name) for value, of_task in zip(values, intervals, strict=True))
        rows.append((Cell(name), *cells))
    caption = "In percent." + (" In brackets: 95 % interval over the images." if any(intervals) else "")
    return Table("All objects", ("metric", *tasks), tuple(rows), caption=caption, is_compact=True)


def _percent(value: float, interval: Mapping[str, float] | None = None, name: str = "") -> Cell:
    if math.isnan(value):
        return Cell(ABSENT)
    low, high = ((interval or {}).get(name + end, math.nan) for end in (LOW, HIGH))
    return Cell(f"{value:.2f}" + ("" if math.isnan(low) else f" [{low:.1f}, {high:.1f}]"))


def _size_of(name: str) -> str:
    return name[2:] if name[:2] in ("AP", "AR") and name[2:] in SIZES else ""


def _size_table(report: EvaluationReport) -> Table:
    tasks = _tasks(report)
    rows = []
    for size, words in SIZES.items():
        values = [metrics.get(kind + size, math.nan) for metrics in tasks.values() for kind in ("AP", "AR")]
        if not all(map(math.isnan, values)):
            rows.append((Cell(words), *map(_percent, values)))
    headers = ("objects", *(f"{task} {kind}" for task in tasks for kind in ("AP", "AR")))
    return Table("By size of the objects", headers, tuple(rows), is_compact=len(tasks) <= 2)


def _class_table(report: EvaluationReport) -> Table:
    tasks = _tasks(report)
    names = list(dict.fromkeys(name for metrics in tasks.values() for name in metrics if is_of_class(name)))
    columns = [(task, kind) for task in tasks for kind in dict.fromkeys(name.partition("-")[0] for name in names)]
    columns = [(task, kind) for task, kind in columns if any(n.startswith(f"{kind}-") for n in tasks[task])]
    rows = []
    for name in dict.fromkeys(name.partition("-")[2] for name in names):
        values = [tasks[task].get(f"{kind}-{name}", math.nan) for task, kind in columns]
        count = [Cell(f"{report.objects.get(name, 0):,}")] if report.objects else []
        rows.append((values[-1], (Cell(name), *count, *map(_percent, values))))
    rows.sort(key=lambda row: (math.isnan(row[0]), row[0]))
    headers = ("class", *(["objects"] if report.objects else []), *(f"{task} {kind}" for task, kind in columns))
    cells = tuple(row for _, row in rows)
    return Table(
        f"By class, lowest first ({len(rows)})" if len(rows) > 1 else "By class",
        headers,
        cells if len(cells) > 1 else (),
        is_folded=len(cells) > OPEN_CLASSES,
        is_compact=True,
    )


def _metric_tables(report: EvaluationReport) -> list[Table]:
    """Metrics of EVAL.METRICS without those that have a section of their own."""
    tasks = _tasks(report)
    rows = []
    for group, metrics in report.files.results.items():
        if group in tasks or group.startswith(OWN_SECTIONS) or group.endswith(GROUP_SUFFIX):
            continue
        for name, value in metrics.items():
            if not is_of_class(name):
                text = ABSENT if math.isnan(value) else f"{value:.3f}" if name in SCORES else f"{value:.2f}"
                rows.append((Cell(group), Cell(heading_of(name)), Cell(text)))
    return [Table("Other metrics (EVAL.METRICS)", ("metric", "name", "value"), tuple(rows), names=2, is_folded=True)]


def confusion_table(report: EvaluationReport) -> Table:
    """The most frequent confusions of two classes.

    Args:
        report: of an evaluation.
    """
    rows = []
    if report.confusion is not None:
        matrix, names = report.confusion.matrix.copy(), report.confusion.class_names
        totals = matrix.sum(axis=1)
        np.fill_diagonal(matrix, 0)
        pairs = matrix[:-1, :-1]
        for place in np.argsort(-pairs, axis=None, kind="stable")[:MAX_CONFUSIONS].tolist():
            true, found = divmod(place, pairs.shape[1])
            if pairs[true, found]:
                count = int(pairs[true, found])
                share = f"{count / totals[true]:.0%}"
                rows.append((Cell(names[true]), Cell(names[found]), Cell(str(count)), Cell(share)))
    headers = ("true class", "detected as", "count", "of the class")
    return Table("Most frequent confusions", headers, tuple(rows), names=2, is_compact=True)


def error_table(report: EvaluationReport) -> Table:
    """TIDE's error types.

    Args:
        report: of an evaluation.
    """
    ordered = sorted(report.errors, key=lambda item: (item[0] in SUMS, -item[2]))
    rows = tuple((Cell(name), Cell(meaning), Cell(f"{gain:.2f}")) for name, meaning, gain in ordered)
    caption = "How much AP50 would grow, in points, if only the errors of one type were corrected (TIDE)."
    headers = ("type", "a detection or object that is", "points")
    return Table("Types of errors", headers, rows, names=2, caption=caption, is_compact=True)


def stage_table(report: RunReport) -> Table:
    """The results of each stage of a run with several.

    Args:
        report: of the run.
    """
    found: dict[str, dict[str, float]] = {}
    for stage, results in report.files.stage_results.items():
        found[stage] = {
            f"{task}/{name}": value
            for task, metrics in _flat(results).items()
            for name, value in metrics.items()
            if name in ("AP", "AP50", "top1", "AR@1000") and value is not None
        }
    names = list(dict.fromkeys(name for values in found.values() for name in values))
    rows = []
    for part in report.files.stages:
        values = found.get(part.name, {})
        count = part.last_iteration - part.first_iteration
        rows.append((Cell(part.name), Cell(f"{count:,}"), *(_percent(values.get(name, math.nan)) for name in names)))
    is_staged = len(report.files.stages) > 1 or bool(found)
    return Table("Stages", ("stage", "iterations", *names), tuple(rows) if is_staged else ())


def _flat(results: Mapping[str, Any], prefix: str = "") -> dict[str, Mapping[str, Any]]:
    flat: dict[str, Mapping[str, Any]] = {}
    for name, value in results.items():
        if isinstance(value, Mapping) and any(isinstance(inner, Mapping) for inner in value.values()):
            flat |= _flat(value, f"{prefix}{name}/")
        elif isinstance(value, Mapping):
            flat[prefix + name] = value
    return flat


def time_table(report: RunReport) -> Table:
    """The time of the run by what it was spent on.

    Args:
        report: of the run.
    """
    training, log = report.training, report.files.log
    predicting = sum(images * seconds for _, images, seconds in log.predictions)
    steps = training.seconds - training.data_seconds
    parts = [
        ("training: forward, backward, update", steps, _each(steps, training.iterations, "iteration")),
        (
            "training: waiting for data",
            training.data_seconds,
            _each(training.data_seconds, training.iterations, "iteration"),
        ),
        ("evaluation: predictions", predicting, _each(predicting, sum(item[1] for item in log.predictions), "image")),
    ]
    known = sum(seconds for _, seconds, _ in parts)
    total = max(log.seconds, known)
    parts.append(("start, metrics, checkpoints, pictures", total - known if log.seconds else 0.0, ""))
    rows = tuple(
        (Cell(name), Cell(_seconds(seconds)), Cell(f"{seconds / total:.0%}"), Cell(each))
        for name, seconds, each in parts
        if seconds > 0
    )
    caption = f"All together {_seconds(total)}"
    caption += f" in {counted(log.sessions, 'session')}." if log.sessions > 1 else "."
    return Table("Time by part", ("part", "time", "share", "each"), rows, caption=caption)


def prediction_table(report: EvaluationReport) -> Table:
    """The time of the model's parts in the last evaluation, per image.

    Args:
        report: of an evaluation.
    """
    seconds = report.stage_times.get("seconds_per_image", {})
    total = sum(seconds.values())
    rows = tuple(
        (Cell(name), Cell(f"{1000 * value:.1f} ms"), Cell(f"{value / total:.0%}")) for name, value in seconds.items()
    )
    title = f"Time of an evaluated image ({report.files.name}, {report.stage_times.get('device', '')})"
    return Table(title, ("part", "per image", "share"), rows if total else (), is_compact=True)


def _each(seconds: float, count: int, unit: str) -> str:
    return f"{seconds / count:.3f} s per {unit}" if count and seconds else ""


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def change_tables(report: RunReport) -> list[Table]:
    """Changed values of the config: those of the given file and the command line, and folded those of its bases.

    Args:
        report: of the run.
    """
    config = report.files.config
    own = [change for change in config.changes if change.is_own and change.name not in HIDDEN_KEYS]
    inherited = [change for change in config.changes if not change.is_own]
    caption = f"Before: {config.base}." if config.base else ""
    typed = [change for change in own if change.origin == COMMAND_LINE] if len(own) > OPEN_CHANGES else []
    in_files = [change for change in own if change not in typed]
    tables = [
        _change_table("Changed on the command line", typed, caption=caption),
        _change_table("Changed keys", in_files, caption=caption, is_folded=len(in_files) > OPEN_CHANGES),
        _change_table("Keys changed by its base files", inherited, is_folded=True),
    ]
    return [table for table in tables if table.rows]


def _change_table(title: str, changes: Sequence[ConfigChange], *, caption: str = "", is_folded: bool = False) -> Table:
    ordered = sorted(changes, key=lambda change: (change.origin != COMMAND_LINE, change.name))
    has_origins = any(change.origin for change in ordered)
    rows = tuple(
        (
            Cell(change.name),
            Cell(_value(change.value)),
            Cell(_value(change.former)),
            *([Cell(change.origin)] if has_origins else []),
        )
        for change in ordered
    )
    headers = ("key", "value", "before", *(["set by"] if has_origins else []))
    return Table(f"{title} ({len(rows)})", headers, rows, names=4, caption=caption, is_folded=is_folded)


def _value(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    text = text.removesuffix("...\n").strip()
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]} ..."


def file_table(report: RunReport) -> Table:
    """Checkpoints in the folder of the run and its stages.

    Args:
        report: of the run.
    """
    places = [report.files.folder, *(stage.folder for stage in report.files.stages if stage.name)]
    rows = tuple(
        (Cell(str(path.relative_to(report.files.folder))), Cell(size_in_words(path.stat().st_size)))
        for place in places
        for path in sorted(place.glob("*.pth"))
    )
    return Table("Checkpoints", ("file", "size"), rows, is_folded=True)
