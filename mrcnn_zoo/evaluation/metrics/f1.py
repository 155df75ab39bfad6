"""F1 over the score threshold at IoU 0.5, and the score threshold of highest F1 of each class."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from tabulate import tabulate

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.evaluation.backends import Matches
from mrcnn_zoo.evaluation.ground_truth import BBOX, SEGM
from mrcnn_zoo.evaluation.metrics.contract import Evaluated, MetricReport
from mrcnn_zoo.evaluation.operating_points import (
    MATCH_IOU,
    Curve,
    OperatingPoint,
    best_point,
    curve_of,
)
from mrcnn_zoo.evaluation.tables import ABSENT, table_name
from mrcnn_zoo.inspection.figures import MAX_CLASS_CURVES, finish, new_figure, png_of
from mrcnn_zoo.output_files import csv_text
from mrcnn_zoo.registries import METRICS

ALL = "all classes"
SCORE_STEP = 0.001  # of the rows of f1.csv
PLOTTED_THRESHOLDS = np.linspace(0, 1, 501)


class F1:
    """Precision, recall and F1 of the detections above a score, and the score of highest F1.

    Masks are compared where they are evaluated, else boxes, by COCO's matching at IoU 0.5; detections are ranked by
    their score, also where masks have scores of their own, because `predict --threshold` compares that one. Results, at
    the best threshold: {"f1_segm": {"F1": ..., "precision": ..., "recall": ..., "threshold": ..., "F1-<class>": ...}}.
    Those without a class have one threshold for all classes and pool the objects of all classes; values in percent, the
    threshold in [0, 1].
    """

    def __call__(self, evaluated: Evaluated) -> MetricReport:
        """Table and curves of all classes.

        Args:
            evaluated: ground truth and detections.
        """
        task = evaluated.mask_task
        of_classes = evaluated.matches
        matches = {ALL: Matches.joined(list(of_classes.values())), **of_classes}
        points = {name: best_point(found) for name, found in matches.items()}
        overall = points[ALL]
        if len(of_classes) == 1:
            del matches[ALL], points[ALL]  # equal to the class
        results = {"F1": 100 * overall.f1, "precision": 100 * overall.precision, "recall": 100 * overall.recall}
        results |= {
            "threshold": overall.threshold,
            **{f"F1-{name}": 100 * points[name].f1 for name in evaluated.class_names},
        }
        text = f"## Best F1 ({task}, IoU {MATCH_IOU:g})\n\n{_table(points, matches)}"
        curves = {name: curve_of(found) for name, found in matches.items() if found.num_objects and len(found.scores)}
        files: dict[str, str | bytes] = {"f1.csv": _csv(curves)}
        if curves:
            files["f1.png"] = _plot(curves, points, title=f"F1 of {task} at IoU {MATCH_IOU:g}")
        return MetricReport({f"f1_{task}": results}, text, files)

    def names(self, tasks: Sequence[str]) -> list[str]:
        """Names of the results.

        Args:
            tasks: that will be evaluated.
        """
        return [f"f1_{SEGM if SEGM in tasks else BBOX}/{name}" for name in ("F1", "precision", "recall")]


def _table(points: Mapping[str, OperatingPoint], matches: Mapping[str, Matches]) -> str:
    rows = [
        [
            table_name(name),
            str(matches[name].num_objects),
            *(f"{100 * value:.2f}" for value in (point.f1, point.precision, point.recall)),
            f"{point.threshold:.3f}",
        ]
        for name, point in points.items()
    ]
    rows = [[cell if cell != "nan" else ABSENT for cell in row] for row in rows]
    headers = ["class", "objects", "best F1 in %", "precision in %", "recall in %", "from score"]
    sides = ["left", *["right"] * 5]
    note = f"\n\n{ABSENT}: no right detection" if any(ABSENT in row[2:] for row in rows) else ""
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=sides) + note


def _csv(curves: Mapping[str, Curve]) -> str:
    """The last detection of each 0.001 of the score, which has all detections with at least this score."""
    rows: list[Sequence[object]] = [("class", "score", "precision", "recall", "F1")]
    for name, curve in curves.items():
        steps = np.floor(curve.scores / SCORE_STEP)
        chosen = np.append(steps[1:] != steps[:-1], True)
        columns = (curve.scores, curve.precision, curve.recall, curve.f1)
        values = zip(*(column[chosen] for column in columns), strict=True)
        rows += [(name, *map("{:.6g}".format, row)) for row in values]
    return csv_text(rows)


def _plot(curves: Mapping[str, Curve], points: Mapping[str, OperatingPoint], *, title: str) -> bytes:
    """F1 over the score per class, and precision, recall and F1 of all classes, or of the only one."""
    whole = next(iter(curves))
    figure = new_figure(columns=2, side=5.0)
    of_classes, overall = figure.subplots(1, 2)
    values = {"precision": curves[whole].precision, "recall": curves[whole].recall, "F1": curves[whole].f1}
    for name, heights in values.items():
        overall.plot(PLOTTED_THRESHOLDS, _at_thresholds(curves[whole], heights), label=name)
    if not math.isnan(points[whole].threshold):
        overall.axvline(points[whole].threshold, color="black", linestyle=":", linewidth=1)
    names = [name for name in curves if name != whole]
    for name in names if len(names) <= MAX_CLASS_CURVES else ():
        heights = _at_thresholds(curves[name], curves[name].f1)
        (line,) = of_classes.plot(PLOTTED_THRESHOLDS, heights, linewidth=1, label=_label(name, points[name]))
        of_classes.plot(points[name].threshold, points[name].f1, marker="o", markersize=4, color=line.get_color())
    heights = _at_thresholds(curves[whole], curves[whole].f1)
    of_classes.plot(PLOTTED_THRESHOLDS, heights, color="black", linewidth=2, label=_label(whole, points[whole]))
    finish(of_classes, title=title, y_label="F1", x_label="minimum score")
    finish(overall, title=whole, y_label="", x_label="minimum score")
    for axes in (of_classes, overall):
        axes.set(xlim=(0, 1), ylim=(0, 1.03))
    return png_of(figure)


def _label(name: str, point: OperatingPoint) -> str:
    return f"{name}: {point.f1:.2f} at {point.threshold:.2f}"


def _at_thresholds(curve: Curve, values: np.ndarray) -> np.ndarray:
    """The value at each plotted threshold: that of the lowest score that is not below it; nan above all scores."""
    places = np.searchsorted(-curve.scores, -PLOTTED_THRESHOLDS, side="right") - 1
    return np.where(places >= 0, values[places], np.nan)


@METRICS.register("f1")
def build_f1(_: CfgNode) -> F1:
    """F1 over the score threshold at IoU 0.5, with the best threshold of each class."""
    return F1()
