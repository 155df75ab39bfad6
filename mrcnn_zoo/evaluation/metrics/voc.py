"""Pascal VOC's AP of 2007 and 2012."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.evaluation.backends import IOU_THRESHOLDS
from mrcnn_zoo.evaluation.ground_truth import BBOX, SEGM
from mrcnn_zoo.evaluation.metrics.contract import Evaluated, MetricReport
from mrcnn_zoo.evaluation.metrics.overlaps import ImageOverlaps, image_overlaps, overlap_matrix
from mrcnn_zoo.evaluation.tables import (
    IOU_50,
    IOU_75,
    PER_CLASS,
    Metrics,
    category_table,
    footnote,
    summary_table,
)
from mrcnn_zoo.registries import METRICS

RECALLS_2007 = np.linspace(0.0, 1.0, 11)
YEARS = ("voc2007", "voc2012")
TASKS = (BBOX, SEGM)
OVERALL = ("AP50", "AP75", "AP")


@dataclass(frozen=True)
class RankedHits:
    """Detections of one class in all images, in descending order of score, without those of difficult objects."""

    is_true: NDArray[np.bool_]  # (D,)
    num_objects: int  # without difficult ones

    def average_precision(self, year: str) -> float:
        """AP in [0, 1]; nan without objects.

        Args:
            year: "voc2007" for the mean of the precision at 11 recalls, "voc2012" for the area under the curve; in both
                the precision at a recall is the highest one at this or a higher recall.

        Source: Everingham et al. 2010, section 4.2 (2007); the development kit of 2012, section 3.4.1.
        """
        if not self.num_objects:
            return float("nan")
        true = np.cumsum(self.is_true)
        recall = true / self.num_objects
        precision = true / np.arange(1, len(true) + 1)
        if year == YEARS[0]:
            return float(np.mean([precision[recall >= level].max(initial=0.0) for level in RECALLS_2007]))
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        return float((np.diff(recall, prepend=0.0) * envelope).sum())


def match_by_highest_overlap(overlaps: ImageOverlaps, threshold: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """VOC's matching of one image.

    Each detection, in descending order of score, belongs to the object of its class with the highest IoU, whether that
    is detected already or not; COCO would take the next best one. A second detection of an object is false, one of a
    difficult object is not counted.

    Args:
        overlaps: with plain IoU also where `is_crowd`, which marks difficult objects.
        threshold: minimum IoU.

    Returns:
        (D,) detections that are true, and those that are counted.
    """
    ious = np.where(overlaps.same_class, overlaps.ious, -1.0)
    is_true = np.zeros(len(ious), dtype=bool)
    is_counted = np.ones(len(ious), dtype=bool)
    if ious.size:
        is_free = ~overlaps.is_crowd
        for row, best in enumerate(ious.argmax(axis=1)):
            if ious[row, best] >= threshold:
                is_true[row], is_counted[row] = is_free[best], not overlaps.is_crowd[best]
                is_free[best] = False
    return is_true, is_counted


def rank_hits(images: Sequence[ImageOverlaps], class_ids: Sequence[int], threshold: float) -> list[RankedHits]:
    """Detections of each class over all images.

    Args:
        images: overlaps of each image, with plain IoU.
        class_ids: K category ids.
        threshold: minimum IoU.

    Returns:
        K.
    """
    matches = [match_by_highest_overlap(overlaps, threshold) for overlaps in images]
    is_true, is_counted = (np.concatenate([match[side] for match in matches]) for side in (0, 1))
    scores = np.concatenate([overlaps.scores for overlaps in images])
    row_classes = np.concatenate([overlaps.row_classes for overlaps in images])
    object_classes = np.concatenate([overlaps.object_classes[~overlaps.is_crowd] for overlaps in images])
    order = np.argsort(-scores, kind="stable")
    order = order[is_counted[order]]
    return [
        RankedHits(is_true[order][row_classes[order] == class_id], int((object_classes == class_id).sum()))
        for class_id in class_ids
    ]


class VocMetric:
    """The metric "voc": AP of boxes, and of masks where they are evaluated.

    Boxes are continuous: the IoU is that of the development kit, which adds 1 to each side, for boxes whose integer
    corners name the first and the last pixel. An IoU equal to the threshold is a match, as there. Difficult objects are
    those with `iscrowd`.
    """

    def names(self, tasks: Sequence[str]) -> list[str]:
        """Names of the results, without those of classes.

        Args:
            tasks: that will be evaluated.
        """
        return [f"{_group(year, task)}/{name}" for task in TASKS if task in tasks for year in YEARS for name in OVERALL]

    def __call__(self, evaluated: Evaluated) -> MetricReport:
        """Measure.

        Args:
            evaluated: ground truth and detections.
        """
        results: dict[str, Metrics] = {}
        for task in TASKS:
            if task in evaluated.tasks:
                results |= self._of_task(evaluated, task)
        heading = "## Pascal VOC AP\n\nAP50, also of each class, is VOC's; AP is the mean over IoU 0.50 to 0.95."
        text = f"{heading}\n\n{summary_table(results)}"
        return MetricReport(results=results, text=text, details=category_table(results) + footnote(results))

    def _of_task(self, evaluated: Evaluated, task: str) -> dict[str, Metrics]:
        images = [_with_plain_iou(overlaps, task) for overlaps in image_overlaps(evaluated, task)]
        hits = [rank_hits(images, evaluated.category_ids, threshold) for threshold in IOU_THRESHOLDS]
        results = {}
        for year in YEARS:
            values = 100 * np.array([[ranked.average_precision(year) for ranked in row] for row in hits])  # (T, K)
            is_defined = ~np.isnan(values[0])
            means = values[:, is_defined].mean(axis=1) if is_defined.any() else np.full(len(values), np.nan)
            metrics = {"AP50": means[IOU_50], "AP75": means[IOU_75], "AP": means.mean()}
            metrics |= {PER_CLASS + name: v for name, v in zip(evaluated.class_names, values[IOU_50], strict=True)}
            results[_group(year, task)] = {name: float(value) for name, value in metrics.items()}
        return results


def _with_plain_iou(overlaps: ImageOverlaps, task: str) -> ImageOverlaps:
    if not overlaps.is_crowd.any():
        return overlaps
    ious = overlap_matrix(overlaps.rows, overlaps.objects, task, np.zeros_like(overlaps.is_crowd))
    return replace(overlaps, ious=ious)


def _group(year: str, task: str) -> str:
    return year if task == BBOX else f"{year}_{task}"


@METRICS.register("voc")
def build_voc_metric(_: CfgNode) -> VocMetric:
    """The metric "voc"."""
    return VocMetric()
