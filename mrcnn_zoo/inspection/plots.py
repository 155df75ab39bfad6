"""Plots as PNG files: loss and AP curves of a training, precision over recall, proposals."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.backends import IOU_THRESHOLDS, RECALL_THRESHOLDS
from mrcnn_zoo.evaluation.proposal_comparison import CURVE_NUMBERS, NUMBERS, THRESHOLDS, SourceRecall
from mrcnn_zoo.inspection.figures import MAX_CLASS_CURVES, finish, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Series = tuple[list[float], list[float]]  # iterations, values

VALIDATION = "val/"
CURVES_OF_TASK = {  # metrics of each task that are plotted over the iterations
    "bbox": ("AP", "AP50"),
    "segm": ("AP", "AP50"),
    "box_proposals": ("AR@100", "AR@1000"),
    "classification": ("top1", "mean_accuracy"),
}
LINE_STYLES = ("-", "--", "-.", ":")  # distinguish lines without colours
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LEGEND_ROOM = 0.22  # inches per row of a legend below the plots
SMOOTHING_RADIUS = 10  # maximum number of values before and after each that its smoothed value is the median of


def save_loss_curves(metrics_json: str | Path, path: str | Path) -> Path:
    """Plot the losses of training and validation, the results and the learning rate of a run.

    Args:
        metrics_json: JSON lines with "iteration" and scalars; incomplete lines are skipped.
        path: of the PNG.

    Raises:
        UserError: the file is missing or has no metrics.
    """
    series = read_metrics(metrics_json)
    if not series:
        raise UserError(f"{metrics_json} has no metrics yet, so there is nothing to plot.")
    figure = new_figure(columns=3)
    losses, results, rate = figure.subplots(1, 3)
    _plot_losses(losses, series)
    for name, values in series.items():
        if name.split("/")[-1] in CURVES_OF_TASK.get(name.split("/")[0], ()):
            results.plot(*values, marker="o", markersize=3, label=name)
    finish(results, title="results", y_label="percent")
    if "lr" in series:
        rate.plot(*series["lr"])
    finish(rate, title="learning rate", y_label="")
    return save_figure(figure, path)


def read_metrics(metrics_json: str | Path) -> dict[str, Series]:
    """Iterations and values of each scalar, by its name.

    Args:
        metrics_json: JSON lines with "iteration" and scalars; incomplete lines are skipped.

    Raises:
        UserError: the file is missing.
    """
    path = Path(metrics_json)
    if not path.is_file():
        raise UserError(f"{path} is missing: it is written while a run trains, by the writer `json` of WRITERS.")
    series: dict[str, Series] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        record = _parsed(line)
        for name, value in record.items():
            if name != "iteration" and "iteration" in record and isinstance(value, (int, float)):
                iterations, values = series.setdefault(name, ([], []))
                iterations.append(record["iteration"])
                values.append(value)
    return series


def save_precision_recall(precision_recall: str | Path, path: str | Path) -> Path:
    """Plot precision over recall per task: the mean over classes, and each class if they are at most MAX_CLASS_CURVES.

    Args:
        precision_recall: `precision_recall.npz` of an evaluation.
        path: of the PNG.
    """
    with np.load(precision_recall, allow_pickle=False) as arrays:
        names = arrays["class_names"].tolist()
        tasks = {task: arrays[task] for task in arrays.files if task != "class_names"}
    figure = new_figure(columns=len(tasks))
    for axes, (task, precision) in zip(np.ravel(figure.subplots(1, len(tasks))), tasks.items(), strict=True):
        draw_precision(axes, precision, names)
        finish(axes, title=f"{task}: precision over recall", y_label="precision", x_label="recall")
        axes.set(xlim=(0, 1), ylim=(0, 1.03))
    return save_figure(figure, path)


def save_proposal_recall(results: Sequence[SourceRecall], path: str | Path, *, title: str) -> Path:
    """Plot recall over IoU at fixed numbers of proposals, and average recall over the number of proposals.

    Args:
        results: of each source, in the order of the legend.
        path: of the PNG.
        title: above the plots.
    """
    figure = new_figure(columns=3)
    figure.set_figheight(figure.get_figheight() + LEGEND_ROOM * (1 + len(results) // 3))
    figure.suptitle(title)
    *over_iou, over_number = figure.subplots(1, 3)
    handles: list[Any] = []
    for place, result in enumerate(results):
        style: dict[str, Any] = {
            "color": f"C{place % 10}",
            "linestyle": LINE_STYLES[place % len(LINE_STYLES)],
            "marker": MARKERS[place % len(MARKERS)],
            "markersize": 4,
        }
        for axes, number in zip(over_iou, CURVE_NUMBERS, strict=True):
            axes.plot(THRESHOLDS, result.recall_over_iou(number) * 100, markevery=2, **style)
        values = [result.average_recall(number) * 100 for number in NUMBERS]
        handles += over_number.plot(NUMBERS, values, **style)
    for axes, number in zip(over_iou, CURVE_NUMBERS, strict=True):
        finish(axes, title=f"{number} proposals per image", y_label="recall in %", x_label="IoU")
    over_number.set_xscale("log")
    finish(over_number, title="average recall", y_label="AR in %", x_label="proposals per image")
    for axes in (*over_iou, over_number):
        axes.set_ylim(-2, 102)
    names = [result.name for result in results]
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(results), 3), fontsize=9)
    return save_figure(figure, path)


def _parsed(line: str) -> Mapping[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:  # an incomplete last line
        return {}
    return record if isinstance(record, dict) else {}


def _plot_losses(axes: "Axes", series: Mapping[str, Series]) -> None:
    names = [name for name in series if name.startswith("loss_")]
    if "total_loss" in series:
        iterations, values = series["total_loss"]
        axes.plot(iterations, values, color="black", alpha=0.25, linewidth=1)
        axes.plot(iterations, smooth(values), color="black", linewidth=2, label="total_loss")
    for name in names:
        iterations, values = series[name]
        axes.plot(iterations, smooth(values), linewidth=1.2, label=name)
    validation = VALIDATION + "total_loss"
    if validation in series:
        axes.plot(*series[validation], color="black", linestyle="--", marker="o", markersize=4, label=validation)
    finish(axes, title="losses", y_label="")
    # Losses of the first steps may exceed all others by a factor of 100.
    shown = [value for name, (_, values) in series.items() if name.endswith("total_loss") for value in values]
    if shown:
        axes.set_ylim(0, 1.1 * float(np.percentile(shown, 97)) or None)


def smooth(values: Sequence[float]) -> list[float]:
    """Median filter, which removes the peaks of single steps.

    Args:
        values: of a curve.
    """
    radius = min(SMOOTHING_RADIUS, len(values) // 20)
    return [float(np.median(values[max(0, place - radius) : place + radius + 1])) for place in range(len(values))]


def draw_precision(
    axes: "Axes", precision: NDArray[np.float32], names: Sequence[str], *, with_classes: bool = True
) -> None:
    """Plot precision over recall: the mean over classes, and each class if they are at most MAX_CLASS_CURVES.

    Args:
        axes: of the plot.
        precision: (T, Q, K), -1 for classes without objects.
        names: K class names.
        with_classes: whether single classes are drawn.
    """
    with_objects = np.flatnonzero((precision > -1).all(axis=(0, 1)))
    if not len(with_objects):
        return
    precision, names = precision[:, :, with_objects], [names[index] for index in with_objects.tolist()]
    curves = {"mean, IoU 0.5": precision[_threshold(0.5)], "mean, IoU 0.75": precision[_threshold(0.75)]}
    for label, curve in (curves | {"mean, IoU 0.5 to 0.95": precision.mean(axis=0)}).items():
        mean = curve.mean(axis=1)
        axes.plot(RECALL_THRESHOLDS, mean, linewidth=2, label=f"{label}: {mean.mean():.1%}")
    if with_classes and 1 < len(names) <= MAX_CLASS_CURVES:
        for index, name in enumerate(names):
            curve = precision[_threshold(0.5), :, index]
            axes.plot(RECALL_THRESHOLDS, curve, linewidth=0.8, alpha=0.7, label=f"{name}, IoU 0.5: {curve.mean():.1%}")


def _threshold(iou: float) -> int:
    return int(np.argmin(np.abs(np.array(IOU_THRESHOLDS) - iou)))
