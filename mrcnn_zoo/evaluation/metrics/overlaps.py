"""Overlaps of the detections and objects of each image, for metrics that match them by themselves."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from mrcnn_zoo.evaluation.ground_truth import SEGM
from mrcnn_zoo.evaluation.metrics.contract import Evaluated
from mrcnn_zoo.evaluation.result_rows import Row

CROWD_SHARE = 0.5  # share of an unmatched detection inside a crowd from which it is not counted


@dataclass(frozen=True)
class ImageOverlaps:
    """Detections and objects of an image. Shape letters: D detections, in descending order of score, G objects."""

    image: dict[str, Any]  # of the COCO dataset
    rows: list[Row]  # D
    objects: list[dict[str, Any]]  # G annotations
    scores: NDArray[np.float64]  # (D,)
    row_classes: NDArray[np.int64]  # (D,) category ids
    object_classes: NDArray[np.int64]  # (G,) category ids
    is_crowd: NDArray[np.bool_]  # (G,)
    ious: NDArray[np.float64]  # (D, G); with a crowd the share of the detection that is inside

    @property
    def same_class(self) -> NDArray[np.bool_]:
        """(D, G) whether detection and object have the same class."""
        return np.equal(self.row_classes[:, None], self.object_classes[None])

    @property
    def in_crowd(self) -> NDArray[np.bool_]:
        """(D,) whether a detection lies in a crowd of any class, so that it does not count without an object."""
        is_inside: NDArray[np.bool_] = np.any(self.ious[:, self.is_crowd] >= CROWD_SHARE, axis=1)
        return is_inside


def score_of(row: Row, task: str) -> float:
    """The score that ranks a detection in a task.

    Args:
        row: a detection, see `mrcnn_zoo.evaluation.result_rows.Row`.
        task: "bbox" or "segm".
    """
    name = "mask_score" if task == SEGM and "mask_score" in row else "score"
    return float(row[name])


def image_overlaps(evaluated: Evaluated, task: str, *, min_score: float = -np.inf) -> Iterator[ImageOverlaps]:
    """Overlaps per image, in the order of the dataset; images without detections and objects included.

    Args:
        evaluated: ground truth and detections. Of each image the first `max_detections` in descending order of score
            are used; equal scores keep their order, as in pycocotools.
        task: "bbox" or "segm", whose IoU it is.
        min_score: minimum score of a detection.
    """
    ground_truth = evaluated.ground_truth_of(task)
    objects, rows = defaultdict(list), defaultdict(list)
    for annotation in ground_truth["annotations"]:
        objects[annotation["image_id"]].append(annotation)
    for row in evaluated.rows:
        if score_of(row, task) >= min_score:
            rows[row["image_id"]].append(row)
    for image in ground_truth["images"]:
        found = sorted(rows[image["id"]], key=lambda row: -score_of(row, task))[: evaluated.max_detections]
        yield _overlaps(image, found, objects[image["id"]], task)


def _overlaps(image: dict[str, Any], rows: list[Row], objects: list[dict[str, Any]], task: str) -> ImageOverlaps:
    is_crowd = np.array([bool(annotation.get("iscrowd", 0)) for annotation in objects], dtype=bool)
    return ImageOverlaps(
        image=image,
        rows=rows,
        objects=objects,
        scores=np.array([score_of(row, task) for row in rows], dtype=np.float64),
        row_classes=np.array([row["category_id"] for row in rows], dtype=np.int64),
        object_classes=np.array([annotation["category_id"] for annotation in objects], dtype=np.int64),
        is_crowd=is_crowd,
        ious=overlap_matrix(rows, objects, task, is_crowd),
    )


def overlap_matrix(
    rows: Sequence[Row], objects: Sequence[Row], task: str, is_crowd: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """IoU of each detection with each object, by pycocotools.

    Args:
        rows: D detections of one image.
        objects: G annotations of it.
        task: "bbox" or "segm".
        is_crowd: (G,) objects of which the share of the detection that is inside is computed instead.

    Returns:
        (D, G).
    """
    if not rows or not objects:
        return np.zeros((len(rows), len(objects)))
    found, true = (
        [dict(item["segmentation"]) for item in items]
        if task == SEGM
        else np.array([item["bbox"] for item in items], dtype=np.float64)
        for items in (rows, objects)
    )
    overlaps: NDArray[np.float64] = coco_mask.iou(found, true, is_crowd.astype(np.uint8).tolist())
    return overlaps


def pairs_of_largest_sum(values: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of rows and columns, each in at most one pair, with the largest sum of values.

    Args:
        values: (D, G), at least 0.

    Returns:
        Rows and columns of min(D, G) pairs.
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(values, maximize=True)
    return rows, columns
