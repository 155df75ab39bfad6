"""Precision over recall per class and IoU threshold, as COCO's AP averages it."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.evaluation.backends import IOU_THRESHOLDS, RECALL_THRESHOLDS, Curves
from mrcnn_zoo.evaluation.metrics.contract import Evaluated, MetricReport
from mrcnn_zoo.inspection.figures import MAX_CLASS_CURVES, finish, new_figure, png_of
from mrcnn_zoo.output_files import csv_text
from mrcnn_zoo.registries import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOTS_PER_ROW = 4
PLOT_SIDE, LEGEND_WIDTH = 3.6, 1.2  # inches
COLUMNS = ("task", "class", "IoU", "recall", "precision")


class PrecisionRecall:
    """Curves of precision over recall: a plot per class with a curve per IoU threshold, and a CSV file of all.

    Precision is COCO's: at each of 101 recalls the highest precision at that recall or a higher one, so that the mean
    of a curve is the AP of its class and IoU. Up to 12 classes have a plot of their own; the mean over
    classes always has.
    """

    def __call__(self, evaluated: Evaluated) -> MetricReport:
        """The files; there are no numbers beside COCO's AP.

        Args:
            evaluated: with curves.
        """
        precision = {task: _by_class(curves, evaluated) for task, curves in evaluated.curves.items()}
        rows = [row for task, values in precision.items() for row in _rows(task, values, evaluated.class_names)]
        files: dict[str, str | bytes] = {"precision_recall.csv": csv_text([COLUMNS, *rows])}
        for task, values in precision.items():
            if (values > 0).any():
                files[f"precision_recall_{task}.png"] = _plot(values, evaluated.class_names, task=task)
        details = f"## Precision over recall\n\nPer class and IoU: {', '.join(sorted(files))}"
        return MetricReport(details=details, files=files)


def _by_class(curves: Curves, evaluated: Evaluated) -> NDArray[np.float64]:
    """(T, Q, K) precision in the order of the classes, for objects of any size; -1 without objects."""
    order = np.argsort(np.argsort(evaluated.category_ids))
    return curves.precision[:, :, order, 0, -1]


def _rows(task: str, precision: NDArray[np.float64], names: Sequence[str]) -> Iterator[tuple[object, ...]]:
    for index, name in enumerate(names):
        for iou, curve in zip(IOU_THRESHOLDS, precision[:, :, index], strict=True):
            for recall, value in zip(RECALL_THRESHOLDS, curve, strict=True):
                if value > -1:
                    yield task, name, f"{iou:.2f}", f"{recall:.2f}", f"{value:.6g}"


def _plot(precision: NDArray[np.float64], names: Sequence[str], *, task: str) -> bytes:
    with_objects = np.flatnonzero((precision > -1).all(axis=(0, 1))).tolist()
    whose = f"mean of {len(with_objects)} classes" if len(with_objects) > 1 else names[with_objects[0]]
    plots = {f"{task}: {whose}": precision[:, :, with_objects].mean(axis=2)}
    if 1 < len(with_objects) <= MAX_CLASS_CURVES:
        plots |= {names[index]: precision[:, :, index] for index in with_objects}
    columns = min(PLOTS_PER_ROW, len(plots))
    height = math.ceil(len(plots) / columns)
    figure = new_figure(columns=columns)
    figure.set_size_inches(PLOT_SIDE * columns + LEGEND_WIDTH, PLOT_SIDE * height)
    grid = np.ravel(figure.subplots(height, columns, sharex=True, sharey=True))
    for axes, (name, curves) in zip(grid, plots.items(), strict=False):
        _plot_class(axes, curves, name)
    for axes in grid[len(plots) :]:
        axes.set_axis_off()
    labels = [f"IoU {iou:.2f}" for iou in IOU_THRESHOLDS]
    figure.legend(grid[0].get_lines(), labels, loc="outside right center", fontsize=8)
    return png_of(figure)


def _plot_class(axes: "Axes", curves: NDArray[np.float64], name: str) -> None:
    from matplotlib import colormaps

    for place, curve in enumerate(curves):
        color = colormaps["viridis"](place / (len(IOU_THRESHOLDS) - 0.5))
        axes.plot(RECALL_THRESHOLDS, curve, color=color, linewidth=1.2)
    finish(axes, title=f"{name}, AP {100 * curves.mean():.1f}", y_label="precision", x_label="recall")
    axes.set(xlim=(0, 1), ylim=(0, 1.03))


@METRICS.register("precision_recall")
def build_precision_recall(_: CfgNode) -> PrecisionRecall:
    """Plots and a CSV file of precision over recall, per class and IoU threshold."""
    return PrecisionRecall()
