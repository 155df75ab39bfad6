"""The AP of cell biology, TP / (TP + FP + FN), with precision, recall, F1, AJI and PQ."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.evaluation.backends import IOU_THRESHOLDS
from mrcnn_zoo.evaluation.ground_truth import SEGM
from mrcnn_zoo.evaluation.metrics.contract import Evaluated, MetricReport
from mrcnn_zoo.evaluation.metrics.overlaps import CROWD_SHARE, ImageOverlaps, image_overlaps, pairs_of_largest_sum
from mrcnn_zoo.evaluation.tables import ABSENT, IOU_50, IOU_75
from mrcnn_zoo.ops.rle import decode_window
from mrcnn_zoo.registries import METRICS

GROUP = "cells"
PANOPTIC_IOU = 0.5  # Kirillov et al. 2019, section 4.1
NAMES = ("AP", "AP50", "AP75", "pooled_AP", "pooled_AP50", "precision50", "recall50", "F1_50", "F1")
AREA_NAMES = ("AJI", "AJI+", "PQ", "SQ", "RQ")

Counts = NDArray[np.int64]  # (T, 3): true positives, false positives, false negatives


def match_one_to_one(ious: NDArray[np.float64], threshold: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The largest set of pairs with at least the threshold; of equally large ones that with the largest sum of IoU.

    Args:
        ious: (D, G) of detections and objects.
        threshold: minimum IoU of a pair, above 0.

    Returns:
        Rows and columns of the pairs.
    """
    # The sum of IoU is divided so that it stays below the value of one more pair.
    weights = (ious >= threshold) * (1.0 + ious / (2 * max(1, min(ious.shape))))
    rows, columns = pairs_of_largest_sum(weights)
    is_pair = ious[rows, columns] >= threshold
    return rows[is_pair], columns[is_pair]


def count_matches(overlaps: ImageOverlaps, thresholds: Sequence[float] = IOU_THRESHOLDS) -> Counts:
    """True positives, false positives and false negatives of an image, matched one to one within each class.

    Crowds are no objects; unmatched detections with at least half of their area in a crowd are not counted.

    Args:
        overlaps: of the image.
        thresholds: T minimum IoUs.

    Returns:
        (T, 3).
    """
    ious = np.where(overlaps.same_class, overlaps.ious, 0.0)
    is_ignored = np.any(ious[:, overlaps.is_crowd] >= CROWD_SHARE, axis=1)
    ious = ious[:, ~overlaps.is_crowd]
    counts = np.zeros((len(thresholds), 3), dtype=np.int64)
    for count, threshold in zip(counts, thresholds, strict=True):
        rows, _ = match_one_to_one(ious, threshold)
        is_false = ~is_ignored
        is_false[rows] = False
        count[:] = len(rows), is_false.sum(), ious.shape[1] - len(rows)
    return counts


def cell_ap(counts: NDArray[np.number]) -> NDArray[np.float64]:
    """TP / (TP + FP + FN); nan where there is nothing.

    Args:
        counts: (..., 3) true positives, false positives, false negatives.

    Returns:
        (...,).
    """
    return _ratio(counts[..., 0], counts.sum(axis=-1))


@dataclass(frozen=True)
class DisjointMasks:
    """Pixels of the masks of an image, each pixel of the detections given to the one with the highest score.

    Shape letters: D detections with pixels, G objects without crowds.
    """

    intersections: NDArray[np.int64]  # (D, G)
    row_areas: NDArray[np.int64]  # (D,)
    object_areas: NDArray[np.int64]  # (G,)
    row_classes: NDArray[np.int64]  # (D,)
    object_classes: NDArray[np.int64]  # (G,)

    @property
    def unions(self) -> NDArray[np.int64]:
        """(D, G) pixels."""
        unions: NDArray[np.int64] = self.row_areas[:, None] + self.object_areas[None] - self.intersections
        return unions

    @property
    def ious(self) -> NDArray[np.float64]:
        """(D, G)."""
        return self.intersections / np.maximum(self.unions, 1)


def make_disjoint(overlaps: ImageOverlaps) -> DisjointMasks:
    """Remove the overlaps of detected masks, so that they are a label image as AJI and PQ are defined on.

    Of two detections that share pixels, the one with the higher score keeps them; a detection without pixels left, or
    of which half is inside a crowd, is removed. Objects are not changed.

    Args:
        overlaps: of the masks of the image.
    """
    labels = np.zeros((overlaps.image["height"], overlaps.image["width"]), dtype=np.int32)
    for number in range(len(overlaps.rows), 0, -1):  # detections are in descending order of score
        window = decode_window(overlaps.rows[number - 1]["segmentation"])
        if window is not None:
            x1, y1, x2, y2 = window.box
            labels[y1:y2, x1:x2][window.bitmap.astype(bool)] = number
    length = len(overlaps.rows) + 1
    shared = np.zeros((len(overlaps.objects), length), dtype=np.int64)
    areas = np.zeros(len(overlaps.objects), dtype=np.int64)
    for row, annotation in enumerate(overlaps.objects):
        window = decode_window(annotation["segmentation"])
        if window is not None:
            x1, y1, x2, y2 = window.box
            inside = labels[y1:y2, x1:x2][window.bitmap.astype(bool)]
            shared[row], areas[row] = np.bincount(inside, minlength=length), len(inside)
    row_areas = np.bincount(labels.reshape(-1), minlength=length)[1:]
    intersections, is_object = shared[:, 1:].T, ~overlaps.is_crowd
    in_crowd = intersections[:, overlaps.is_crowd].max(axis=1, initial=0)
    is_kept = (row_areas > 0) & (in_crowd < CROWD_SHARE * row_areas)
    return DisjointMasks(
        intersections=intersections[is_kept][:, is_object],
        row_areas=row_areas[is_kept],
        object_areas=areas[is_object],
        row_classes=overlaps.row_classes[is_kept],
        object_classes=overlaps.object_classes[is_object],
    )


def aggregated_jaccard_index(masks: DisjointMasks, *, one_to_one: bool = False) -> float:
    """AJI: shared pixels of objects and their detections over the pixels of both; the class does not matter.

    Each object is paired with the detection of highest IoU, which other objects may be paired with, too. Objects and
    detections without a pair count in the denominator.

    Args:
        masks: of an image.
        one_to_one: AJI+, in which each detection has one object, with the largest sum of IoU.

    Returns:
        nan without objects and detections.

    Source: Kumar et al. 2017, algorithm 1; AJI+: Graham et al. 2019 (HoVer-Net), section III-B.
    """
    ious = masks.ious
    if one_to_one:
        rows, columns = pairs_of_largest_sum(ious)
    else:
        columns = np.arange(ious.shape[1] if len(ious) else 0)
        rows = ious[:, columns].argmax(axis=0) if len(columns) else columns
    is_pair = ious[rows, columns] > 0
    rows, columns = rows[is_pair], columns[is_pair]
    union = masks.unions[rows, columns].sum()
    union += np.delete(masks.row_areas, rows).sum() + np.delete(masks.object_areas, columns).sum()
    return float(masks.intersections[rows, columns].sum() / union) if union else float("nan")


def panoptic_sums(masks: DisjointMasks, class_ids: Sequence[int]) -> NDArray[np.float64]:
    """What PQ sums over images: per class, the sum of IoU of the matches and the number of matches, FP and FN.

    Args:
        masks: of an image.
        class_ids: K category ids.

    Returns:
        (K, 4).
    """
    sums = np.zeros((len(class_ids), 4))
    for row, class_id in zip(sums, class_ids, strict=True):
        ious = masks.ious[masks.row_classes == class_id][:, masks.object_classes == class_id]
        # An IoU above one half is unique among disjoint masks; objects of a file may overlap.
        rows, columns = match_one_to_one(ious, np.nextafter(PANOPTIC_IOU, 1))
        row[:] = ious[rows, columns].sum(), len(rows), ious.shape[0] - len(rows), ious.shape[1] - len(rows)
    return sums


def panoptic_quality(sums: NDArray[np.float64]) -> dict[str, float]:
    """PQ = SQ x RQ per class, each averaged over the classes that occur.

    Args:
        sums: (K, 4) of all images, see `panoptic_sums`.

    Source: Kirillov et al. 2019 (Panoptic Segmentation), eq. 1 and 2.
    """
    iou_sum, true, false, missed = sums.T
    found = true + (false + missed) / 2
    # SQ of a class without a match is not defined; its PQ is 0.
    values = {"PQ": _ratio(iou_sum, found), "SQ": _ratio(iou_sum, true), "RQ": _ratio(true, found)}
    return {name: _mean(value) for name, value in values.items()}


class CellMetric:
    """The metric "cells": matches of masks above a score, without a ranking.

    Args:
        score_threshold: minimum score of a detection, in [0, 1].
    """

    def __init__(self, *, score_threshold: float) -> None:
        self._score_threshold = score_threshold

    def names(self, tasks: Sequence[str]) -> list[str]:
        """Names of the results.

        Args:
            tasks: that will be evaluated.
        """
        return [f"{GROUP}/{name}" for name in (*NAMES, *AREA_NAMES)] if SEGM in tasks else []

    def __call__(self, evaluated: Evaluated) -> MetricReport:
        """Measure.

        Args:
            evaluated: ground truth and detections.
        """
        if SEGM not in evaluated.tasks:
            return MetricReport(details="## Cells\n\nNo masks are evaluated.")
        counts, jaccards = [], []
        sums = np.zeros((len(evaluated.category_ids), 4))
        for overlaps in image_overlaps(evaluated, SEGM, min_score=self._score_threshold):
            counts.append(count_matches(overlaps))
            masks = make_disjoint(overlaps)
            jaccards.append([aggregated_jaccard_index(masks, one_to_one=unique) for unique in (False, True)])
            sums += panoptic_sums(masks, evaluated.category_ids)
        metrics, by_iou = self._summary(np.array(counts))
        areas = dict(zip(AREA_NAMES[:2], map(_mean, np.array(jaccards).T), strict=True)) | panoptic_quality(sums)
        metrics |= {name: 100 * value for name, value in areas.items()}
        heading = f"## Cells: TP / (TP + FP + FN) of masks with a score of at least {self._score_threshold:g}"
        text = f"{heading}\n\n{_table([metrics], NAMES)}\n\n{_table([metrics], AREA_NAMES)}"
        return MetricReport(results={GROUP: metrics}, text=text, details=by_iou)

    def _summary(self, counts: NDArray[np.int64]) -> tuple[dict[str, float], str]:
        """Metrics of the counts (N, T, 3) of all images, and the table of all IoUs."""
        pooled = counts.sum(axis=0)
        true, false, missed = pooled.T
        columns = {
            "AP": np.array([_mean(values) for values in cell_ap(counts).T]),
            "pooled_AP": cell_ap(pooled),
            "precision": _ratio(true, true + false),
            "recall": _ratio(true, true + missed),
            "F1": _ratio(2 * true, 2 * true + false + missed),
        }
        percent = {name: 100 * values for name, values in columns.items()}
        values = (
            *(_mean(percent["AP"]), percent["AP"][IOU_50], percent["AP"][IOU_75]),
            *(_mean(percent["pooled_AP"]), percent["pooled_AP"][IOU_50]),
            *(percent[name][IOU_50] for name in ("precision", "recall", "F1")),
            _mean(percent["F1"]),
        )
        rows = [
            {"IoU": threshold} | {name: values[row] for name, values in percent.items()}
            for row, threshold in enumerate(IOU_THRESHOLDS)
        ]
        note = "AP is averaged over images; pooled_AP, precision, recall and F1 are those of the counts of all images."
        metrics = dict(zip(NAMES, map(float, values), strict=True))
        return metrics, f"{note}\n\n{_table(rows, ('IoU', *columns))}"


def _ratio(numerator: NDArray[np.number], denominator: NDArray[np.number]) -> NDArray[np.float64]:
    undefined = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=undefined, where=np.asarray(denominator) > 0)


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of the defined values; nan if there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _table(rows: Sequence[dict[str, float]], names: Sequence[str]) -> str:
    cells = [[ABSENT if np.isnan(row[name]) else f"{row[name]:.2f}" for name in names] for row in rows]
    return tabulate(cells, names, tablefmt="pipe", disable_numparse=True, colalign=["right"] * len(names))


@METRICS.register("cells")
def build_cell_metric(cfg: CfgNode) -> CellMetric:
    """The metric "cells".

    Args:
        cfg: of the evaluation.
    """
    return CellMetric(score_threshold=cfg.EVAL.SCORE_THRESHOLD)
