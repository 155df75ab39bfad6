"""From precision and recall to the numbers of the COCO table, and the table as text."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from mrcnn_zoo.evaluation.backends import Curves

Metrics = dict[str, float]  # by name, in percent; nan where there is nothing to find
Results = dict[str, Metrics]  # by task

IOU_50, IOU_75 = 0, 5  # places in backends.IOU_THRESHOLDS
PER_CLASS = "AP-"
CATEGORY_COLUMNS = 3  # how often category and values stand beside each other in the table of categories


def coco_metrics(curves: Curves, class_names: Sequence[str], category_ids: Sequence[int]) -> Metrics:
    """AP, AP50, AP75, AP by size, AR by limit and size, and AP-<class>.

    All AP are taken at the largest limit of detections an image. (pycocotools' own summary takes 100, whatever the
    limits are, and reports -1 when that is not among them.)
    """
    precision, recall = curves.precision, curves.recall
    metrics = {
        "AP": _percent(precision[:, :, :, 0, -1]),
        "AP50": _percent(precision[IOU_50, :, :, 0, -1]),
        "AP75": _percent(precision[IOU_75, :, :, 0, -1]),
    }
    sizes = list(enumerate(curves.areas))[1:]
    metrics |= {f"AP{area[0]}": _percent(precision[..., place, -1]) for place, area in sizes}
    metrics |= {f"AR{limit}": _percent(recall[:, :, 0, place]) for place, limit in enumerate(curves.limits)}
    metrics |= {f"AR{area[0]}": _percent(recall[..., place, -1]) for place, area in sizes}
    row_of_id = {category_id: row for row, category_id in enumerate(sorted(category_ids))}  # the libraries sort by id
    for name, category_id in zip(class_names, category_ids, strict=True):
        metrics[PER_CLASS + name] = _percent(precision[:, :, row_of_id[category_id], 0, -1])
    return metrics


def _percent(values: NDArray[np.float64]) -> float:
    defined = values[values > -1]
    return float(defined.mean()) * 100 if defined.size else float("nan")


def summary_table(results: Mapping[str, Metrics], *, tablefmt: str = "pipe") -> str:
    """One row a task, one column a metric, without the classes."""
    names = list(dict.fromkeys(name for metrics in results.values() for name in metrics if not _is_of_class(name)))
    rows = [[task, *(metrics.get(name, float("nan")) for name in names)] for task, metrics in results.items()]
    return tabulate(rows, headers=["task", *names], tablefmt=tablefmt, floatfmt=".2f", stralign="left")


def category_table(results: Mapping[str, Metrics], *, tablefmt: str = "pipe") -> str:
    """AP of every class for every task, several classes in one row where there are many."""
    names = list(dict.fromkeys(name for metrics in results.values() for name in metrics if _is_of_class(name)))
    cells = [[name[len(PER_CLASS) :], *(m.get(name, float("nan")) for m in results.values())] for name in names]
    columns = min(CATEGORY_COLUMNS, max(1, len(cells) // 4))
    height = -(-len(cells) // columns)
    rows = [[value for cell in cells[row::height] for value in cell] for row in range(height)]
    headers = ["category", *(f"{task} AP" for task in results)] * columns
    names_at = [column * (1 + len(results)) for column in range(columns)]  # "7" may be the name of a class
    return tabulate(rows, headers, tablefmt=tablefmt, floatfmt=".2f", stralign="left", disable_numparse=names_at)


def markdown_report(title: str, results: Mapping[str, Metrics]) -> str:
    """Both tables under a heading, as a Markdown page; the second only where there are categories."""
    report = f"# {title}\n\n{summary_table(results)}\n"
    if any(_is_of_class(name) for metrics in results.values() for name in metrics):
        report += f"\n## AP of each category\n\n{category_table(results)}\n"
    return report


def _is_of_class(name: str) -> bool:
    return name.startswith(PER_CLASS)
