"""The score threshold of highest F1 per class, from COCO's matching of detections and objects at one IoU."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.evaluation.backends import ALL_SIZES, Matches, matches_of_evaluation, pycocotools_evaluation

MATCH_IOU = 0.5
THRESHOLDS_FILE = "score_thresholds.json"  # in inference/: {class name: threshold}


@dataclass(frozen=True)
class OperatingPoint:
    """What a score threshold gives; precision, recall and F1 in [0, 1], nan where there is none."""

    threshold: float
    f1: float
    precision: float
    recall: float


NO_POINT = OperatingPoint(math.nan, math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Curve:
    """Precision, recall and F1 of the detections with at least each score that occurs, in descending order."""

    scores: NDArray[np.float64]  # (S,)
    precision: NDArray[np.float64]  # (S,)
    recall: NDArray[np.float64]  # (S,)

    @property
    def f1(self) -> NDArray[np.float64]:
        """(S,) harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return np.divide(2 * self.precision * self.recall, total, out=np.zeros_like(total), where=total > 0)


def match_detections(
    ground_truth: dict[str, Any],
    detections: dict[str, Any],
    task: str,
    *,
    max_detections: int,
    iou_threshold: float = MATCH_IOU,
) -> dict[int, Matches]:
    """Match detections and objects as COCO's evaluation does at one IoU; by category id.

    pycocotools matches: one IoU and one range of sizes take a fraction of the time of COCO's AP.

    Args:
        ground_truth: a COCO dataset, see `coco_ground_truth`.
        detections: a COCO dataset with scores, see `detection_set`.
        task: "bbox" or "segm".
        max_detections: maximum number per image and class, in descending order of score.
        iou_threshold: minimum IoU of a match.
    """
    with pycocotools_evaluation(ground_truth, detections, task) as evaluation:
        evaluation.params.iouThrs = np.array([iou_threshold])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [ALL_SIZES], ["all"]
        evaluation.params.maxDets = [max_detections]
        evaluation.evaluate()
    return matches_of_evaluation(evaluation)


def curve_of(matches: Matches) -> Curve:
    """Precision and recall over the score threshold.

    Args:
        matches: of one class or of several; with objects.
    """
    true = np.cumsum(matches.is_true)
    kept = np.arange(1, len(true) + 1)
    is_last = np.append(matches.scores[1:] < matches.scores[:-1], True)[: len(true)]  # of equal scores
    return Curve(matches.scores[is_last], (true / kept)[is_last], (true / max(matches.num_objects, 1))[is_last])


def best_point(matches: Matches) -> OperatingPoint:
    """The threshold of highest F1; of several the highest. NO_POINT where no detection matches an object.

    The threshold is halfway between the lowest score that it keeps and the next one below.

    Args:
        matches: of one class or of several.
    """
    if not matches.num_objects or not matches.is_true.any():
        return NO_POINT
    curve = curve_of(matches)
    best = int(np.argmax(curve.f1))
    below = curve.scores[best + 1] if best + 1 < len(curve.scores) else curve.scores[best]
    threshold = float((curve.scores[best] + below) / 2)
    return OperatingPoint(threshold, float(curve.f1[best]), float(curve.precision[best]), float(curve.recall[best]))


def find_thresholds(matches: Mapping[str, Matches]) -> dict[str, float]:
    """The best threshold per class; that of all classes together where a class has none. Empty if there is none at all.

    Args:
        matches: by class name.
    """
    overall = best_point(Matches.joined(list(matches.values()))).threshold
    if math.isnan(overall):
        return {}
    own = {name: best_point(found).threshold for name, found in matches.items()}
    return {name: overall if math.isnan(threshold) else threshold for name, threshold in own.items()}
