"""COCO's metrics, tables of results, and comparison with expected results."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from mrcnn_zoo.config.rules import problem_of_expectation
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.backends import Curves

Metrics = dict[str, float]  # by name, in percent; nan without ground truth
Results = dict[str, Metrics]  # by task
Intervals = Mapping[str, Mapping[str, tuple[float, float]]]  # (low, high) by task and metric

IOU_50, IOU_75 = 0, 5  # indices in backends.IOU_THRESHOLDS
PER_CLASS = "AP-"
ACCURACY_OF_CLASS = "accuracy-"
OF_CLASS = re.compile(r"[\w@+]+-")
SCORES = ("threshold",)  # metrics in [0, 1], not in percent
ABSENT = "-"  # nan in tables
AUTO_ORDER = ("segm/AP", "keypoints/AP", "bbox/AP", "box_proposals/AR@1000", "classification/top1")  # main result
INTERVAL = "95 %"  # row of a table
INTERVAL_TEXT = f"{INTERVAL}, and in brackets: interval over the images, from resamples (EVAL.BOOTSTRAP)"
CATEGORY_COLUMNS = 3  # maximum number of categories per row of a table


def coco_metric_names(*, areas: Sequence[str], limits: Sequence[int], class_names: Sequence[str]) -> list[str]:
    """AP, AP50, AP75, AP by size, AR by limit and size, and AP-<class>.

    Args:
        areas: names of object sizes, "all" first.
        limits: detections per image that count, ascending.
        class_names: of the dataset.
    """
    sizes = [area[0] for area in areas[1:]]
    by_size = [f"AP{size}" for size in sizes]
    recalls = [*(f"AR{limit}" for limit in limits), *(f"AR{size}" for size in sizes)]
    return ["AP", "AP50", "AP75", *by_size, *recalls, *(PER_CLASS + name for name in class_names)]


def coco_metrics(curves: Curves, class_names: Sequence[str], category_ids: Sequence[int]) -> Metrics:
    """The metrics of `coco_metric_names`, in percent.

    AP is measured at the largest limit of detections per image. (The summary of pycocotools uses 100, and gives -1 if
    the limits do not include it.)

    Args:
        curves: of one task.
        class_names: of the dataset.
        category_ids: of the classes.
    """
    precision, recall = curves.precision, curves.recall
    sizes = range(1, len(curves.areas))
    row_of_id = {category_id: row for row, category_id in enumerate(sorted(category_ids))}  # the libraries sort by id
    parts = [
        *(precision[:, :, :, 0, -1], precision[IOU_50, :, :, 0, -1], precision[IOU_75, :, :, 0, -1]),
        *(precision[..., size, -1] for size in sizes),
        *(recall[:, :, 0, place] for place in range(len(curves.limits))),
        *(recall[..., size, -1] for size in sizes),
        *(precision[:, :, row_of_id[category_id], 0, -1] for category_id in category_ids),
    ]
    names = coco_metric_names(areas=curves.areas, limits=curves.limits, class_names=class_names)
    return dict(zip(names, map(_percent, parts), strict=True))


def _percent(values: NDArray[np.float64]) -> float:
    defined = values[values > -1]
    return float(defined.mean()) * 100 if defined.size else float("nan")


def summary_table(
    results: Mapping[str, Metrics],
    *,
    previous: Mapping[str, Metrics] | None = None,
    intervals: Intervals | None = None,
    tablefmt: str = "pipe",
) -> str:
    """Table with one row per task and one column per metric, without AP per class.

    Args:
        results: by task.
        previous: results of an earlier evaluation; the first column shows the change, e.g. 71.20 (+1.40).
        intervals: in a row below that of the task.
        tablefmt: of tabulate.
    """
    names = list(dict.fromkeys(name for metrics in results.values() for name in metrics if not is_of_class(name)))
    rows = []
    for task, metrics in results.items():
        before = (previous or {}).get(task, {})
        cells = [_cell(metrics.get(name, math.nan)) for name in names]
        if names:
            cells[0] += _change(metrics.get(names[0], math.nan), before.get(names[0], math.nan))
        rows.append([task, *cells])
        of_task = (intervals or {}).get(task, {})
        if of_task:
            rows.append([INTERVAL, *(_interval(of_task[name]) if name in of_task else "" for name in names)])
    return _table(rows, ["task", *names], tablefmt=tablefmt, names_at=[0])


def stages_table(stages: Mapping[str, Mapping[str, Any]], *, tablefmt: str = "pipe") -> str:
    """Tables with one row per stage and task, without AP per class; tasks with other metrics have a separate table.

    Args:
        stages: results by stage name; by task, or by dataset name and task.
        tablefmt: of tabulate.
    """
    tables: dict[tuple[str, ...], list[list[str]]] = {}
    for stage, results in stages.items():
        rows = list(_rows_of(results))
        for task, metrics in rows or [("-", {})]:
            names = tuple(name for name in metrics if not is_of_class(name))
            tables.setdefault(names, []).append([stage, task, *(_cell(metrics[name]) for name in names)])
    texts = (
        _table(rows, ["stage", "task", *map(heading_of, names)], tablefmt=tablefmt, names_at=[0, 1])
        for names, rows in tables.items()
    )
    return "\n\n".join(texts)


def _rows_of(results: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Metrics]]:
    """Tasks, preceded by the name of the dataset if there is one, with their metrics."""
    for name, value in results.items():
        if any(isinstance(inner, Mapping) for inner in value.values()):
            yield from _rows_of(value, f"{prefix}{name}/")
        elif value:
            yield f"{prefix}{name}", value


def category_table(
    results: Mapping[str, Metrics], *, intervals: Intervals | None = None, tablefmt: str = "pipe"
) -> str:
    """Table of AP or accuracy per class and task, with several classes per row if there are many.

    Args:
        results: by task.
        intervals: behind the values, e.g. 71.20 [68.9, 73.1].
        tablefmt: of tabulate.
    """
    names = list(dict.fromkeys(name for metrics in results.values() for name in metrics if is_of_class(name)))
    cells = [
        [
            table_name(name.partition("-")[2]),
            *(
                f"{_cell(m.get(name, math.nan))} {_interval((intervals or {}).get(task, {}).get(name))}".rstrip()
                for task, m in results.items()
            ),
        ]
        for name in names
    ]
    columns = min(CATEGORY_COLUMNS, max(1, len(cells) // 4))
    height = -(-len(cells) // columns)
    rows = [[value for cell in cells[row::height] for value in cell] for row in range(height)]
    kinds = [next((name.partition("-")[0] for name in m if is_of_class(name)), "AP") for m in results.values()]
    headers = ["category", *(f"{task} {kind}" for task, kind in zip(results, kinds, strict=True))] * columns
    names_at = [column * (1 + len(results)) for column in range(columns)]
    return _table(rows, headers, tablefmt=tablefmt, names_at=names_at)


def table_name(name: str) -> str:
    """A name as a cell of a Markdown table, where "|" separates the columns.

    Args:
        name: of a class or of a row.
    """
    return name.replace("|", "\\|")


def footnote(results: Mapping[str, Metrics]) -> str:
    """Explanation of the dash in tables, after a blank line; empty if there is none.

    Args:
        results: by task.
    """
    is_any_absent = any(math.isnan(value) for metrics in results.values() for value in metrics.values())
    return f"\n\n{ABSENT}: the dataset has no such objects" if is_any_absent else ""


def markdown_report(title: str, results: Mapping[str, Metrics], *, intervals: Intervals | None = None) -> str:
    """Markdown page with the summary and, if there are categories, their AP.

    Args:
        title: heading of the page.
        results: by task.
        intervals: of metrics, see `summary_table` and `category_table`.
    """
    report = f"# {title}\n\n{summary_table(results, intervals=intervals)}\n"
    if any(is_of_class(name) for metrics in results.values() for name in metrics):
        is_accuracy = any(name.startswith(ACCURACY_OF_CLASS) for metrics in results.values() for name in metrics)
        report += f"\n## {'Accuracy' if is_accuracy else 'AP'} of each category\n\n"
        report += f"{category_table(results, intervals=intervals)}\n"
    explanation = f"\n\n{INTERVAL_TEXT}" if intervals else ""
    return report.rstrip() + explanation + footnote(results) + "\n"


def _table(rows: Sequence[Sequence[str]], headers: Sequence[str], *, tablefmt: str, names_at: Sequence[int]) -> str:
    """Align names left and numbers right; a name may be a number, such as the class "7"."""
    width = max(map(len, rows), default=len(headers))
    sides = ["left" if column in names_at else "right" for column in range(width)]
    return tabulate(rows, headers[:width], tablefmt=tablefmt, disable_numparse=True, colalign=sides if rows else None)


def _cell(value: float) -> str:
    return ABSENT if math.isnan(value) else f"{value:.2f}"


def _interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None or math.isnan(ends[0]) else f"[{ends[0]:.1f}, {ends[1]:.1f}]"


def _change(value: float, before: float) -> str:
    return "" if math.isnan(value) or math.isnan(before) else f" ({value - before:+.2f})"


def is_of_class(name: str) -> bool:
    """Whether a metric is that of a single class or group of images.

    Args:
        name: of the metric, e.g. "AP-dog" or "F1-dog".
    """
    return OF_CLASS.match(name) is not None


def heading_of(metric: str) -> str:
    """The name of a metric in tables of metrics in percent, with its unit where it is another.

    Args:
        metric: without its group, e.g. "AP".
    """
    return f"{metric} (score)" if metric in SCORES else metric


class UnexpectedResultsError(UserError):
    """Results outside the tolerance of TEST.EXPECTED_RESULTS."""


def verify_expected_results(
    results: Mapping[str, Any], expected: Sequence[Sequence[Any]], *, key: str = "TEST.EXPECTED_RESULTS"
) -> None:
    """Compare results with expected ones.

    Args:
        results: metrics by task, or by dataset name and task.
        expected: rows of task, metric, value and tolerance, preceded by the dataset name for several datasets.
        key: config key of the expected results, for messages.

    Raises:
        UnexpectedResultsError: with each number that differs or is missing.
        UserError: a row is malformed.
    """
    problems = []
    for row in expected:
        *path, value, tolerance = _checked(row, key)
        found, where = _find(results, path), "/".join(path)
        if found is None:
            problems.append(f"{where} was not measured")
        elif not math.isfinite(found) or abs(found - value) > tolerance:
            problems.append(f"{where} is {found:.3f}, expected {value:g} +- {tolerance:g}")
    if problems:
        raise UnexpectedResultsError(f"The results differ from {key}: {'; '.join(problems)}.")


def _checked(row: Sequence[Any], key: str) -> Sequence[Any]:
    problem = problem_of_expectation(row)
    if problem:
        raise UserError(f"{key} has the row {row!r}; {problem}.")
    return row


def _find(results: Mapping[str, Any], path: Sequence[str]) -> float | None:
    value: Any = results
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, (int, float)) else None
