"""TIDE: the AP that each type of error costs.

Source: Bolya et al. 2020 (TIDE: A General Toolbox for Identifying Object Detection Errors), sec. 2.
Computed by hotcoco.
"""

from collections.abc import Sequence

from tabulate import tabulate

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.evaluation.ground_truth import BBOX, SEGM
from mrcnn_zoo.evaluation.metrics.contract import Evaluated, MetricReport, evaluated_by_hotcoco, import_library
from mrcnn_zoo.registries import METRICS

FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.1  # the paper's
ERRORS = {
    "Cls": "on an object, but of another class",
    "Loc": "right class, but the IoU is too low",
    "Both": "another class and too low an IoU",
    "Dupe": "of an object that a higher score has found",
    "Bkg": "on no object",
    "Miss": "(object) not found, and without a Cls or Loc error",
    "FP": "false, of any type",
    "FN": "(object) not found at all",
}


class Tide:
    """Delta AP50 of each error type: how much the AP at IoU 0.5 grows if only these errors are corrected.

    Masks are compared where they are evaluated, else boxes. Results: {"tide_segm": {"AP50": ..., "Cls": ..., ...}} in
    percent, averaged over the classes that have objects; the gains of single types do not sum to that of all.
    """

    def __call__(self, evaluated: Evaluated) -> MetricReport:
        """The table of errors.

        Args:
            evaluated: ground truth and detections.
        """
        task = evaluated.mask_task
        if not any(not annotation["iscrowd"] for annotation in evaluated.ground_truth["annotations"]):
            return MetricReport(text="## TIDE errors\n\nNo objects are annotated.")
        errors = evaluated_by_hotcoco(evaluated, task, metric="tide").tide_errors(
            pos_thr=FOREGROUND_IOU, bg_thr=BACKGROUND_IOU
        )
        gains = {name: 100 * errors["delta_ap"][name] for name in ERRORS}
        base = 100 * errors["ap_base"]
        rows = [
            [name, ERRORS[name], str(errors["counts"].get(name, "")), f"{gain:.2f}"] for name, gain in gains.items()
        ]
        headers = ["error", "a detection that is", "count", "delta AP50"]
        table = tabulate(
            rows, headers, tablefmt="pipe", disable_numparse=True, colalign=("left", "left", *["right"] * 2)
        )
        text = f"## TIDE errors ({task}, AP50 {base:.2f})\n\n{table}"
        return MetricReport({f"tide_{task}": {"AP50": base, **gains}}, text)

    def names(self, tasks: Sequence[str]) -> list[str]:
        """Names of the results.

        Args:
            tasks: that will be evaluated.
        """
        return [f"tide_{SEGM if SEGM in tasks else BBOX}/{name}" for name in ("AP50", *ERRORS)]


@METRICS.register("tide")
def build_tide(_: CfgNode) -> Tide:
    """TIDE's delta AP per error type: class, localization, both, duplicate, background, missed."""
    import_library("hotcoco", metric="tide")
    return Tide()
