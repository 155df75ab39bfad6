"""Confusion matrix of detections and objects, matched by mask or box whatever their classes. Computed by hotcoco."""

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.evaluation.metrics.contract import Evaluated, MetricReport, evaluated_by_hotcoco, import_library
from mrcnn_zoo.evaluation.tables import table_name
from mrcnn_zoo.inspection.figures import confusion_figure, png_of
from mrcnn_zoo.output_files import csv_text
from mrcnn_zoo.registries import METRICS

BACKGROUND = "background"
MAX_COLUMNS = 12  # a larger matrix is written to the files alone, and the table lists the most frequent confusions
CONFUSIONS_SHOWN = 15


class ConfusionMatrix:
    """Objects by true class (row) and detected class (column), with missed objects and false detections.

    In descending order of score, each detection takes the free object of highest IoU; masks are compared where they are
    evaluated, else boxes. The last column counts missed objects, the last row false detections. Results:
    {"confusion_segm": {"found": ..., "right_class": ...}}: the share of objects that are found, and of these the share
    whose class is right, in percent.

    Args:
        score_threshold: minimum score of a detection.
        iou_threshold: minimum IoU of a match.
    """

    def __init__(self, *, score_threshold: float = 0.5, iou_threshold: float = 0.5) -> None:
        self._score_threshold = score_threshold
        self._iou_threshold = iou_threshold

    def __call__(self, evaluated: Evaluated) -> MetricReport:
        """The matrix as a table, a CSV file and a picture.

        Args:
            evaluated: ground truth and detections.
        """
        task, names = evaluated.mask_task, (*evaluated.class_names, BACKGROUND)
        matrix = self._matrix(evaluated, task)
        objects, found = matrix[:-1].sum(), matrix[:-1, :-1].sum()
        right = np.trace(matrix[:-1, :-1])
        results = {
            "found": 100 * float(found / objects) if objects else float("nan"),
            "right_class": 100 * float(right / found) if found else float("nan"),
        }
        heading = f"## Confusion matrix ({task}, IoU {self._iou_threshold:g}, scores from {self._score_threshold:g})"
        table = _table(matrix, names) if len(names) <= MAX_COLUMNS else _list_of_confusions(matrix, names)
        files: dict[str, str | bytes] = {
            "confusion.csv": csv_text(
                [["true class", *names], *([name, *row] for name, row in zip(names, matrix.tolist(), strict=True))]
            ),
            "confusion.png": png_of(confusion_figure(matrix, evaluated.class_names)),
        }
        return MetricReport({f"confusion_{task}": results}, f"{heading}\n\n{table}", files)

    def _matrix(self, evaluated: Evaluated, task: str) -> NDArray[np.int64]:
        found = evaluated_by_hotcoco(evaluated, task, metric="confusion").confusion_matrix(
            iou_thr=self._iou_threshold, max_det=evaluated.max_detections, min_score=self._score_threshold
        )
        # hotcoco's order is that of the category ids.
        order = [*np.argsort(np.argsort(evaluated.category_ids)), len(evaluated.category_ids)]
        return np.asarray(found["matrix"], dtype=np.int64)[np.ix_(order, order)]


def _table(matrix: NDArray[np.int64], names: tuple[str, ...]) -> str:
    rows = [[table_name(name), *map(str, row)] for name, row in zip(names, matrix.tolist(), strict=True)]
    sides = ["left", *["right"] * len(names)]
    headers = ["true \\ detected", *map(table_name, names)]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=sides)


def _list_of_confusions(matrix: NDArray[np.int64], names: tuple[str, ...]) -> str:
    errors = matrix.copy()
    np.fill_diagonal(errors, 0)
    places = np.argsort(-errors, axis=None, kind="stable")[:CONFUSIONS_SHOWN]
    rows = [
        [table_name(names[place // len(names)]), table_name(names[place % len(names)]), str(errors.flat[place])]
        for place in places.tolist()
        if errors.flat[place]
    ]
    headers = ["true class", "detected as", "count"]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True) + "\n\nAll counts: confusion.csv"


@METRICS.register("confusion")
def build_confusion_matrix(cfg: CfgNode) -> ConfusionMatrix:
    """Confusion matrix of true and detected classes, with background; scores from EVAL.SCORE_THRESHOLD."""
    import_library("hotcoco", metric="confusion")
    return ConfusionMatrix(score_threshold=cfg.EVAL.SCORE_THRESHOLD)
