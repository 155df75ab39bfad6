"""Calibration: whether detections with score s are right in a share s of the cases.

Source: Guo et al. 2017 (On Calibration of Modern Neural Networks), sec. 2; for detections Kuppers et al. 2020
(Multivariate Confidence Calibration for Object Detection). Computed by hotcoco.
"""

import math
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.evaluation.ground_truth import BBOX, SEGM
from mrcnn_zoo.evaluation.metrics.contract import Evaluated, MetricReport, evaluated_by_hotcoco, import_library
from mrcnn_zoo.inspection.figures import finish, new_figure, png_of
from mrcnn_zoo.output_files import csv_text
from mrcnn_zoo.registries import METRICS


class Calibration:
    """Expected and maximum calibration error (ECE, MCE) of the scores, and a reliability diagram.

    A detection is right if COCO's matching gives it an object of its class. Masks are compared where they are
    evaluated, else boxes. The ECE is the mean over bins of equal width of |mean score - share of right detections|,
    weighted with the number of detections; the MCE is the largest of these differences.

    Args:
        num_bins: of the scores in [0, 1].
        iou_threshold: minimum IoU of a right detection; one of COCO's.
    """

    def __init__(self, *, num_bins: int = 10, iou_threshold: float = 0.5) -> None:
        self._num_bins = num_bins
        self._iou_threshold = iou_threshold

    def __call__(self, evaluated: Evaluated) -> MetricReport:
        """Errors in percent, table and diagram.

        Args:
            evaluated: ground truth and detections.
        """
        task = evaluated.mask_task
        if not evaluated.rows:
            no_results = {f"calibration_{task}": {"ECE": math.nan, "MCE": math.nan}}
            return MetricReport(no_results, f"## Calibration of the scores ({task})\n\nThere are no detections.")
        found = evaluated_by_hotcoco(evaluated, task, metric="calibration").calibration(
            n_bins=self._num_bins, iou_threshold=self._iou_threshold
        )
        ece, mce = 100 * found["ece"], 100 * found["mce"]
        of_classes = {name: 100 * found["per_category"].get(name, math.nan) for name in evaluated.class_names}
        bins = [row for row in found["bins"] if row["count"]]
        rows = [
            [f"{row['bin_lower']:.1f}", f"{row['bin_upper']:.1f}", str(row["count"])]
            + [f"{100 * row[name]:.1f}" for name in ("avg_confidence", "avg_accuracy")]
            for row in bins
        ]
        headers = ["score from", "to", "detections", "mean score in %", "right in %"]
        table = tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=["right"] * 5)
        heading = f"## Calibration of the scores ({task}, IoU {self._iou_threshold:g}): ECE {ece:.2f}, MCE {mce:.2f}"
        columns = ("bin_lower", "bin_upper", "count", "avg_confidence", "avg_accuracy")
        content = csv_text([columns, *([row[name] for name in columns] for row in found["bins"])])
        results = {"ECE": ece, "MCE": mce, **{f"ECE-{name}": value for name, value in of_classes.items()}}
        diagram = _diagram(found, title=f"reliability of {task} scores")
        files: dict[str, str | bytes] = {"calibration.png": diagram, "calibration.csv": content}
        return MetricReport({f"calibration_{task}": results}, heading, files, details=table)

    def names(self, tasks: Sequence[str]) -> list[str]:
        """Names of the results.

        Args:
            tasks: that will be evaluated.
        """
        return [f"calibration_{SEGM if SEGM in tasks else BBOX}/{name}" for name in ("ECE", "MCE")]


def _diagram(found: dict[str, Any], *, title: str) -> bytes:
    """Share of right detections over mean score, above the number of detections per bin."""
    figure = new_figure(columns=1, side=5.5)
    shares, counts = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    bins = [row for row in found["bins"] if row["count"]]
    width = 1 / found["n_bins"]
    middles = [(row["bin_lower"] + row["bin_upper"]) / 2 for row in bins]
    scores, right = ([row[name] for row in bins] for name in ("avg_confidence", "avg_accuracy"))
    shares.bar(middles, right, width=width, color="#4c72b0", edgecolor="white", label="right detections")
    shares.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label="perfect calibration")
    shares.plot(scores, right, color="#c44e52", marker="o", markersize=4, linewidth=1, label="over the mean score")
    shares.text(0.03, 0.62, f"ECE {100 * found['ece']:.2f} %\nMCE {100 * found['mce']:.2f} %", fontsize=10)
    shares.set(xlim=(0, 1), ylim=(0, 1))
    finish(shares, title=title, y_label="share of right detections", x_label="")
    counts.bar(middles, [row["count"] for row in bins], width=width, color="#999999", edgecolor="white")
    counts.set_yscale("log")
    counts.minorticks_off()
    finish(counts, title="", y_label="detections", x_label="score")
    return png_of(figure)


@METRICS.register("calibration")
def build_calibration(_: CfgNode) -> Calibration:
    """Calibration error of the scores (ECE, MCE) with a reliability diagram."""
    import_library("hotcoco", metric="calibration")
    return Calibration()
