"""Plots of a run report: losses, results and learning rate over the iterations, precision over recall, confusions."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mrcnn_zoo.inspection.evaluation_files import Confusion
from mrcnn_zoo.inspection.figures import (
    COLORS,
    Plot,
    confusion_figure,
    finish_narrow,
    legend_rows,
    narrow_figure,
)
from mrcnn_zoo.inspection.plots import CURVES_OF_TASK, VALIDATION, Series, draw_precision, smooth
from mrcnn_zoo.inspection.run_report.files import StageMetrics
from mrcnn_zoo.inspection.run_report.report import BestEvaluation, RunReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_POINTS = 400  # of a curve; longer ones are means of neighbours
HEIGHT = 3.1  # inches
CLIPPED_SHARE = 97  # percentile of the losses at which the axis ends: those of the first steps are far larger
TOTAL = "total_loss"


def curve_plots(report: RunReport) -> list[Plot]:
    """Plots over the iterations of all stages, those without values left out.

    Args:
        report: of the run.
    """
    stages = report.files.stages
    names = list(dict.fromkeys(name for stage in stages for name in stage.series))
    totals = [name for name in names if name.rpartition("/")[2] == TOTAL]
    parts = [name for name in names if name.startswith("loss_")]
    results = [name for name in names if is_plotted_result(name)]
    plots = []
    if totals:
        text = "total loss" + (", and that of the validation images" if len(totals) > 1 else "")
        plots.append(Plot("loss", text, partial(_draw_losses, stages, totals)))
    if parts:
        plots.append(Plot("losses", "parts of the loss", partial(_draw_losses, stages, parts)))
    if results:
        text = "results of the evaluations while training"
        plots.append(Plot("results", text, partial(_draw_results, stages, results, report.best)))
    if "lr" in names:
        plots.append(Plot("lr", "learning rate", partial(_draw_rate, stages)))
    return plots


def is_plotted_result(name: str) -> bool:
    """Whether a metric is among those that are plotted over the iterations.

    Args:
        name: e.g. "segm/AP" or "<dataset>/segm/AP".
    """
    *_, task, metric = ("", *name.split("/"))
    return metric in CURVES_OF_TASK.get(task, ())


def precision_plots(path: Path) -> list[Plot]:
    """A plot of precision over recall per task.

    Args:
        path: of precision_recall.npz.
    """
    with np.load(path, allow_pickle=False) as arrays:
        names = arrays["class_names"].tolist()
        tasks = {task: arrays[task] for task in arrays.files if task != "class_names"}
    return [
        Plot(f"precision-{task}", f"precision over recall ({task})", partial(_draw_precision, values, names))
        for task, values in tasks.items()
    ]


def confusion_plot(confusion: Confusion) -> Plot:
    """The confusion matrix.

    Args:
        confusion: counts by true and detected class.
    """
    draw = partial(confusion_figure, confusion.matrix, confusion.class_names, title="", side=2.0)
    return Plot("confusion", f"{confusion.title}; each row is divided by its sum", draw)


def _draw_losses(stages: Sequence[StageMetrics], names: Sequence[str]) -> "Figure":
    figure, axes = narrow_figure(height=HEIGHT, legend_rows=legend_rows(names))
    shown: list[float] = []
    for place, name in enumerate(names):
        color = COLORS[place % len(COLORS)]
        for part, (iterations, values) in enumerate(_curves(stages, name)):
            is_measured_rarely = VALIDATION in name
            label = name if part == 0 else None
            style = "o--" if is_measured_rarely else "-"
            axes.plot(iterations, values if is_measured_rarely else smooth(values), style, color=color, ms=3, lw=1.4)
            if not is_measured_rarely and len(names) <= 2:
                axes.plot(iterations, values, color=color, alpha=0.25, lw=0.8)
            axes.plot([], [], style, color=color, ms=3, label=label)
            shown += values
    axes.set_ylim(0, 1.1 * float(np.percentile(shown, CLIPPED_SHARE)) if shown else None)
    _mark_stages(axes, stages)
    finish_narrow(figure, axes, x_label="iteration", y_label="loss")
    return figure


def _draw_results(stages: Sequence[StageMetrics], names: Sequence[str], best: BestEvaluation | None) -> "Figure":
    figure, axes = narrow_figure(height=HEIGHT, legend_rows=legend_rows([*names, "best"]))
    for place, name in enumerate(names):
        for part, (iterations, values) in enumerate(_curves(stages, name)):
            label = name if part == 0 else None
            axes.plot(iterations, values, "o-", color=COLORS[place % len(COLORS)], ms=3, lw=1.4, label=label)
    if best is not None and best.metric in names:
        offset = next(stage.first_iteration for stage in stages if stage.name == best.stage)
        axes.plot(best.iteration + offset, best.value, "*", color="black", ms=10, label="best", linestyle="")
    _mark_stages(axes, stages)
    finish_narrow(figure, axes, x_label="iteration", y_label="%")
    return figure


def _draw_rate(stages: Sequence[StageMetrics]) -> "Figure":
    figure, axes = narrow_figure(height=HEIGHT)
    for iterations, values in _curves(stages, "lr"):
        axes.plot(iterations, values, color=COLORS[0], lw=1.4)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    _mark_stages(axes, stages)
    finish_narrow(figure, axes, x_label="iteration", y_label="learning rate")
    return figure


def _draw_precision(precision: np.ndarray, names: Sequence[str]) -> "Figure":
    figure, axes = narrow_figure(height=3.4, legend_rows=3)
    draw_precision(axes, precision, names, with_classes=False)
    axes.set(xlim=(0, 1), ylim=(0, 1.03))
    finish_narrow(figure, axes, x_label="recall", y_label="precision")
    return figure


def _curves(stages: Sequence[StageMetrics], name: str) -> list[Series]:
    """The values of each stage that has them, with the iterations of the whole run, counted from 1."""
    found = []
    for stage in stages:
        iterations, values = _reduced(stage.series.get(name, ([], [])))
        if values:
            found.append(([stage.first_iteration + place + 1 for place in iterations], values))
    return found


def _reduced(series: Series) -> Series:
    iterations, values = series
    if len(values) <= MAX_POINTS:
        return list(iterations), list(values)
    bounds = np.linspace(0, len(values), MAX_POINTS + 1).round().astype(int)
    means = [float(np.mean(values[low:high])) for low, high in pairwise(bounds.tolist())]
    return [float(iterations[high - 1]) for high in bounds[1:].tolist()], means


def _mark_stages(axes: "Axes", stages: Sequence[StageMetrics]) -> None:
    if len(stages) < 2:
        return
    for stage in stages:
        axes.axvline(stage.first_iteration, color="gray", ls=":", lw=0.8)
        place = (stage.first_iteration, 1.0)
        axes.annotate(
            f" {stage.name}", place, xycoords=("data", "axes fraction"), fontsize=7, color="gray", va="top", rotation=90
        )
