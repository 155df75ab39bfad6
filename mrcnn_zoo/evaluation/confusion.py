"""Which class is taken for which: a matrix of matched detections and objects."""

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
    """Counts of objects by their class and the class they were detected as, matched by boxes whatever the class.

    Each detection, best first, takes the free object it overlaps most. A detection over a crowd is not counted.

    Args:
        dataset: the objects.
        rows: the detections, as `CocoEvaluator` writes them.
        iou_threshold: least overlap of a match.
        score_threshold: detections below it are left out.

    Returns:
        (K + 1, K + 1): rows are true classes, columns detected ones. The last column counts objects that were missed,
        the last row detections where no object is.
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
    record: ImageRecord, found: Sequence[Row], class_of_id: Mapping[int, int], nothing: int, iou_threshold: float
) -> tuple[list[int], list[int]]:
    """True and detected class of everything in one image; `nothing` stands where there is no partner."""
    objects = record.instances
    overlaps = np.zeros((len(found), len(objects)))
    if found and objects:
        boxes = np.array([(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in (instance.box for instance in objects)])
        crowds = [int(instance.is_crowd) for instance in objects]
        overlaps = coco_mask.iou(np.array([row["bbox"] for row in found], dtype=np.float64), boxes, crowds)
    is_free = np.array([not instance.is_crowd for instance in objects], dtype=bool)
    is_crowd = ~is_free
    true, detected = [], []
    for row, overlap in zip(found, overlaps, strict=True):
        candidates = np.flatnonzero(is_free & (overlap >= iou_threshold))
        if len(candidates):
            best = candidates[overlap[candidates].argmax()]
            is_free[best] = False
            true.append(objects[best].class_index)
        elif (overlap[is_crowd] >= iou_threshold).any():
            continue
        else:
            true.append(nothing)
        detected.append(class_of_id[row["category_id"]])
    missed = [objects[row].class_index for row in np.flatnonzero(is_free)]
    return true + missed, detected + [nothing] * len(missed)
