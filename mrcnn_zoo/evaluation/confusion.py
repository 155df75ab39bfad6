"""Confusion matrix of detections and objects, matched by box."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from mrcnn_zoo.data.records import Dataset, ImageRecord

Row = Mapping[str, Any]  # of coco_instances_results.json


def confusion_matrix(
    dataset: Dataset, rows: Sequence[Row], *, iou_threshold: float = 0.5, score_threshold: float = 0.5
) -> NDArray[np.int64]:
    """Count objects by true and detected class.

    Detections are matched to objects by box, independent of the class: in descending order of score, each takes the
    unmatched object of highest IoU. Unmatched detections that overlap a crowd are not counted.

    Args:
        dataset: the ground truth.
        rows: detections, see `CocoEvaluator`.
        iou_threshold: minimum IoU of a match.
        score_threshold: minimum score of a detection.

    Returns:
        (K + 1, K + 1): true classes by row, detected classes by column. The last column counts missed objects, the last
        row false detections.
    """
    num_classes = len(dataset.class_names)
    class_of_id = {category_id: index for index, category_id in enumerate(dataset.category_ids)}
    by_image: dict[Any, list[Row]] = {}
    for row in rows:
        if row["score"] >= score_threshold:
            by_image.setdefault(row["image_id"], []).append(row)
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for record in dataset.records:
        found = sorted(by_image.get(record.image_id, []), key=lambda row: -row["score"])
        true, detected = _pairs(record, found, class_of_id, num_classes, iou_threshold)
        np.add.at(matrix, (true, detected), 1)
    return matrix


def _pairs(
    record: ImageRecord, found: Sequence[Row], class_of_id: Mapping[int, int], background: int, iou_threshold: float
) -> tuple[list[int], list[int]]:
    """True and detected classes of one image; `background` for missed objects and false detections."""
    objects = record.instances
    overlaps = np.zeros((len(found), len(objects)))
    if found and objects:
        boxes = np.array([(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in (instance.box for instance in objects)])
        crowds = [int(instance.is_crowd) for instance in objects]
        overlaps = coco_mask.iou(np.array([row["bbox"] for row in found], dtype=np.float64), boxes, crowds)
    is_unmatched = np.array([not instance.is_crowd for instance in objects], dtype=bool)
    is_crowd = ~is_unmatched
    true, detected = [], []
    for row, overlap in zip(found, overlaps, strict=True):
        candidates = np.flatnonzero(is_unmatched & (overlap >= iou_threshold))
        if len(candidates):
            best = candidates[overlap[candidates].argmax()]
            is_unmatched[best] = False
            true.append(objects[best].class_index)
        elif (overlap[is_crowd] >= iou_threshold).any():
            continue
        else:
            true.append(background)
        detected.append(class_of_id[row["category_id"]])
    missed = [objects[row].class_index for row in np.flatnonzero(is_unmatched)]
    return true + missed, detected + [background] * len(missed)
