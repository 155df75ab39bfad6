"""Plots of a report: values per variant, curves over iterations and number of images, accuracy against AP."""

import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mrcnn_zoo.experiments.comparison import ComparisonRow, MetricComparison
from mrcnn_zoo.experiments.learning_curve import LearningCurve
from mrcnn_zoo.experiments.report.model import Curve, Section
from mrcnn_zoo.experiments.report.tables import has_interval
from mrcnn_zoo.experiments.statistics import Estimate
from mrcnn_zoo.inspection.figures import COLORS, Plot, finish_narrow, legend_rows, narrow_figure
from mrcnn_zoo.inspection.plots import LINE_STYLES, MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABEL_WIDTH = 26  # letters per line of a variant's name
REFERENCE_COLOR = "#444444"
CLIPPED_SHARE = 97  # percentile of the losses at which the axis ends: those of the first steps are far larger
ACCURACY = "classification/top1"


def section_plots(section: Section) -> list[Plot]:
    """All plots for which a sweep has numbers.

    Args:
        section: the sweep.
    """
    plots = []
    for item in section.comparisons:
        if any(row.values for row in item.rows):
            text = f"{item.metric}: runs (dots), their mean and its 95 % interval"
            plots.append(_plot(section, "values", item.metric, text, partial(draw_values, item)))
    if section.losses:
        text = f"total loss while training: {_shown(section.losses)}"
        plots.append(_plot(section, "loss", "", text, partial(draw_curves, section.losses, "total loss", is_loss=True)))
    for metric, curves in section.progress.items():
        text = f"{metric} while training: {_shown(curves)}"
        plots.append(_plot(section, "curve", metric, text, partial(draw_curves, curves, metric)))
    drawn = [curve for curve in section.learning_curves if curve.points]
    for metric in dict.fromkeys(curve.metric for curve in drawn):
        found = [curve for curve in drawn if curve.metric == metric]
        text = f"{metric} against the number of training images: runs, the fitted law, twice the images (white)"
        plots.append(_plot(section, "images", metric, text, partial(draw_learning_curves, found)))
    return plots + _accuracy_plots(section)


def _shown(curves: Sequence[Curve]) -> str:
    return "mean over the runs of a variant" + (", and their range" if len(curves) <= len(COLORS) else "")


def _plot(section: Section, kind: str, metric: str, text: str, draw: Callable[[], "Figure"]) -> Plot:
    parts = [section.name, kind, *([metric] if metric else [])]
    name = "-".join("".join(c if c.isalnum() else "_" for c in part) for part in parts)
    return Plot(name, text, draw)


def _accuracy_plots(section: Section) -> list[Plot]:
    plots = []
    for accuracy in (metric for metric in section.metrics if metric.endswith(ACCURACY)):
        for metric in section.metrics:
            pairs = accuracy_pairs(section, accuracy, metric)
            if pairs and not metric.endswith(ACCURACY):
                text = f"{metric} against {accuracy}: runs (small) and means (large) of each variant"
                draw = partial(draw_accuracy, pairs, accuracy, metric)
                plots.append(_plot(section, "accuracy", f"{accuracy}-{metric}", text, draw))
    return plots


def accuracy_pairs(section: Section, accuracy: str, metric: str) -> dict[str, list[tuple[float, float]]]:
    """(accuracy, metric) of each run that has both, by variant.

    Args:
        section: the sweep.
        accuracy: a name of its `metrics`.
        metric: another one.
    """
    pairs: dict[str, list[tuple[float, float]]] = {}
    for run in section.runs:
        if accuracy in run.metrics and metric in run.metrics:
            pairs.setdefault(run.variant, []).append((run.metrics[accuracy], run.metrics[metric]))
    return pairs


# --- figures ----------------------------------------------------------------------------------------------------------
def draw_values(comparison: MetricComparison) -> "Figure":
    """A line per variant: runs as dots, their mean with its interval; a dashed line marks the mean of the reference.

    Args:
        comparison: of one metric.
    """
    labels = [_wrapped(row.variant) for row in comparison.rows]
    heights = np.array([0.42 + 0.15 * label.count("\n") for label in labels])  # inches
    places = np.cumsum(heights) - heights / 2
    figure, axes = narrow_figure(height=0.7 + float(heights.sum()))
    for place, row in zip(places, comparison.rows, strict=True):
        is_reference = row.variant == comparison.reference
        _draw_row(axes, row, place, color=REFERENCE_COLOR if is_reference else COLORS[0])
        if is_reference and row.mean is not None:
            axes.axvline(row.mean.value, color=REFERENCE_COLOR, linestyle="--", linewidth=0.8, zorder=0)
    axes.set_yticks(places, labels, fontsize=8.5)
    axes.set_ylim(float(heights.sum()), 0)
    axes.set_xlabel(comparison.metric)
    axes.grid(axis="x", alpha=0.3)
    return figure


def _draw_row(axes: "Axes", row: ComparisonRow, place: float, *, color: str) -> None:
    if row.mean is None:
        axes.text(0.02, place, "no finished run", transform=axes.get_yaxis_transform(), va="center", fontsize=8)
        return
    axes.plot(list(row.values.values()), [place + 0.09] * len(row.values), "o", color=color, alpha=0.45, ms=4, mew=0)
    mean = row.mean
    axes.errorbar(mean.value, place - 0.07, xerr=_ends(mean), fmt="D", color=color, ms=5, capsize=3, lw=1.5)


def _ends(mean: Estimate) -> list[list[float]] | None:
    """The interval as matplotlib's errorbar takes it."""
    return [[mean.value - mean.low], [mean.high - mean.value]] if has_interval(mean) else None


def draw_curves(curves: Sequence[Curve], name: str, *, is_loss: bool = False) -> "Figure":
    """Mean per variant over the iterations, with the range where the variants are few.

    Args:
        curves: one per variant.
        name: of the vertical axis.
        is_loss: whether high values at the beginning are cut off.
    """
    figure, axes = narrow_figure(height=3.2, legend_rows=legend_rows(curve.variant for curve in curves))
    for place, curve in enumerate(curves):
        color, style = _style(place, len(curves))
        marker = "" if len(curve.iterations) > 30 else "o"
        axes.plot(curve.iterations, curve.mean, style, color=color, lw=1.4, marker=marker, ms=3, label=curve.variant)
        if len(curves) <= len(COLORS):
            axes.fill_between(curve.iterations, curve.low, curve.high, color=color, alpha=0.14, linewidth=0)
    if is_loss:
        shown = np.concatenate([curve.high for curve in curves])
        axes.set_ylim(0, 1.1 * float(np.percentile(shown, CLIPPED_SHARE)) or None)
    finish_narrow(figure, axes, x_label="iteration", y_label=name)
    return figure


def draw_learning_curves(curves: Sequence[LearningCurve]) -> "Figure":
    """A metric against the number of training images on a log scale, with the law, and its prediction for one doubling.

    Args:
        curves: of one metric, one per variant, with points.
    """
    figure, axes = narrow_figure(height=3.2, legend_rows=legend_rows(curve.variant for curve in curves))
    images: dict[float, list[int]] = {}  # by fraction
    for place, curve in enumerate(curves):
        color, style = _style(place, len(curves))
        marker = MARKERS[place % len(MARKERS)]
        for point in curve.points:
            images.setdefault(point.fraction, []).append(point.num_images)
        points = [(point.num_images, point.value) for point in curve.points]
        axes.plot(*zip(*points, strict=True), marker, color=color, ms=4, label=curve.variant, linestyle="")
        axes.plot(*curve.line(), style, color=color, lw=1.2)
        if curve.doubled is not None:
            ends = None if curve.bend else _ends(curve.doubled)
            doubled = (2 * curve.num_images, curve.doubled.value)
            axes.errorbar(*doubled, yerr=ends, fmt=marker, mfc="white", color=color, capsize=3)
    axes.set_xscale("log")
    ticks = [round(float(np.mean(numbers))) for numbers in images.values()]
    ticks += sorted({round(2 * curve.num_images) for curve in curves if curve.doubled is not None})
    axes.set_xticks(ticks, [f"{number:,}" for number in ticks], fontsize=8, rotation=30)
    axes.minorticks_off()
    finish_narrow(figure, axes, x_label="training images", y_label=curves[0].metric)
    return figure


def draw_accuracy(pairs: dict[str, list[tuple[float, float]]], accuracy: str, metric: str) -> "Figure":
    """A point per run and a larger one per variant.

    Args:
        pairs: (accuracy, metric) of each run, by variant.
        accuracy: name of the horizontal axis.
        metric: name of the vertical axis.
    """
    figure, axes = narrow_figure(height=3.6, legend_rows=legend_rows(pairs))
    for place, (variant, points) in enumerate(pairs.items()):
        color, marker = _style(place, len(pairs))[0], MARKERS[place % len(MARKERS)]
        axes.plot(*zip(*points, strict=True), marker, color=color, alpha=0.4, ms=4, mew=0, linestyle="")
        axes.plot(*np.mean(points, axis=0), marker, color=color, ms=8, label=variant, linestyle="")
    finish_narrow(figure, axes, x_label=accuracy, y_label=metric)
    return figure


def _style(place: int, count: int) -> tuple[Any, str]:
    """Colour and line of a variant; many variants have shades in their order."""
    if count <= len(COLORS):
        return COLORS[place], "-"
    import matplotlib as mpl

    return mpl.colormaps["viridis"](0.92 * place / (count - 1)), LINE_STYLES[place % len(LINE_STYLES)]


def _wrapped(name: str) -> str:
    return "\n".join(textwrap.wrap(name, LABEL_WIDTH) or [name])
