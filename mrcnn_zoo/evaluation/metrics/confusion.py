"""Confusion matrix of detections and objects, matched by mask or box whatever their classes."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.evaluation.ground_truth import BBOX, SEGM
from mrcnn_zoo.evaluation.metrics.contract import Evaluated, MetricReport
from mrcnn_zoo.evaluation.metrics.overlaps import ImageOverlaps, image_overlaps
from mrcnn_zoo.evaluation.operating_points import MATCH_IOU
from mrcnn_zoo.evaluation.tables import table_name
from mrcnn_zoo.inspection.figures import confusion_figure, png_of
from mrcnn_zoo.output_files import csv_text
from mrcnn_zoo.registries import METRICS

BACKGROUND = "background"
MAX_COLUMNS = 12  # a larger matrix is written to the files alone, and the table lists the most frequent confusions
CONFUSIONS_SHOWN = 15
COMPARED = {BBOX: "boxes", SEGM: "masks"}


def confusion_title(task: str, score_threshold: float) -> str:
    """What a matrix compares: "boxes, IoU 0.5, scores from 0.5".

    Args:
        task: "bbox" or "segm".
        score_threshold: minimum score of a detection.
    """
    return f"confusion matrix of {COMPARED[task]} (IoU {MATCH_IOU:g}, scores from {score_threshold:g})"


def confusion_matrix(evaluated: Evaluated, task: str, *, score_threshold: float = 0.5) -> NDArray[np.int64]:
    """Count objects by true and detected class.

    Detections are matched to objects whatever their classes: in descending order of score, each takes the unmatched
    object of highest IoU, which is at least 0.5. Unmatched detections that overlap a crowd are not counted.

    Args:
        evaluated: ground truth and detections.
        task: "bbox" or "segm", whose IoU it is.
        score_threshold: minimum score of a detection.

    Returns:
        (K + 1, K + 1): true classes by row, detected classes by column. The last column counts missed objects, the last
        row false detections.
    """
    row_of_id = {category_id: row for row, category_id in enumerate((*evaluated.category_ids, None))}
    matrix = np.zeros((len(row_of_id),) * 2, dtype=np.int64)
    for overlaps in image_overlaps(evaluated, task, min_score=score_threshold):
        for true, detected in _pairs(overlaps):
            matrix[row_of_id[true], row_of_id[detected]] += 1
    return matrix


def _pairs(overlaps: ImageOverlaps) -> Iterator[tuple[int | None, int | None]]:
    """True and detected category of each object and detection; None for false detections and missed objects."""
    true, detected = overlaps.object_classes.tolist(), overlaps.row_classes.tolist()
    is_unmatched = ~overlaps.is_crowd
    for category, ious in zip(detected, overlaps.ious, strict=True):
        candidates = np.flatnonzero(is_unmatched & (ious >= MATCH_IOU))
        if len(candidates):
            best = candidates[ious[candidates].argmax()]
            is_unmatched[best] = False
            yield true[best], category
        elif not (ious[overlaps.is_crowd] >= MATCH_IOU).any():
            yield None, category
    yield from ((true[place], None) for place in np.flatnonzero(is_unmatched))


class ConfusionMatrix:
    """The metric "confusion": see `confusion_matrix`; masks are compared where they are evaluated, else boxes.

    Results: {"confusion_segm": {"found": ..., "right_class": ...}}: the share of objects that are found, and of these
    the share whose class is right, in percent.

    Args:
        score_threshold: minimum score of a detection.
    """

    def __init__(self, *, score_threshold: float = 0.5) -> None:
        self._score_threshold = score_threshold

    def __call__(self, evaluated: Evaluated) -> MetricReport:
        """The matrix as a table, a CSV file and a picture.

        Args:
            evaluated: ground truth and detections.
        """
        task, names = evaluated.mask_task, (*evaluated.class_names, BACKGROUND)
        matrix = confusion_matrix(evaluated, task, score_threshold=self._score_threshold)
        objects, found = matrix[:-1].sum(), matrix[:-1, :-1].sum()
        right = np.trace(matrix[:-1, :-1])
        results = {
            "found": 100 * float(found / objects) if objects else float("nan"),
            "right_class": 100 * float(right / found) if found else float("nan"),
        }
        title = confusion_title(task, self._score_threshold)
        table = _table(matrix, names) if len(names) <= MAX_COLUMNS else _list_of_confusions(matrix, names)
        files: dict[str, str | bytes] = {
            "confusion.csv": csv_text(
                [["true class", *names], *([name, *row] for name, row in zip(names, matrix.tolist(), strict=True))]
            ),
            "confusion.png": png_of(confusion_figure(matrix, names, title=title)),
        }
        return MetricReport({f"confusion_{task}": results}, f"## {title.capitalize()}\n\n{table}", files)


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
    return ConfusionMatrix(score_threshold=cfg.EVAL.SCORE_THRESHOLD)
