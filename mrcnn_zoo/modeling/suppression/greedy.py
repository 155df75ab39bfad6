"""Greedy suppression, class by class or over all classes."""

from dataclasses import replace

import torch
from torch import Tensor

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.modeling.contracts import Candidates
from mrcnn_zoo.modeling.suppression.base import Suppression, best_overlapping
from mrcnn_zoo.ops.nms import batched_nms, nms_of_images
from mrcnn_zoo.registries import SUPPRESSIONS


class GreedySuppression(Suppression):
    """The best box stays and removes those of its class that overlap it; then the best of the rest, and so on.

    Args:
        iou_threshold: a box is removed when its IoU with a better one is above this.
    """

    def __init__(self, iou_threshold: float) -> None:
        super().__init__()
        self.iou_threshold = iou_threshold

    def forward(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Rows that stay, best first, and their scores, which do not change.

        Args:
            boxes: (R, 4) pixels.
            scores: (R,).
            classes: (R,) int64.
        """
        rows = batched_nms(boxes, scores, classes, iou_threshold=self.iou_threshold)
        return rows, scores[rows]

    def suppress(self, candidates: Candidates) -> tuple[Tensor, Tensor]:
        """The rows that stay, image after image and best first in each, and their scores."""
        rows = nms_of_images(
            candidates.boxes,
            candidates.scores,
            candidates.classes,
            counts=candidates.counts,
            iou_threshold=self.iou_threshold,
            num_groups=candidates.num_classes,
            bounds=(0, max(map(max, candidates.image_sizes))) if candidates.are_clipped else None,
        )
        return rows, candidates.scores[rows]

    def suppressors(self, boxes: Tensor, classes: Tensor, kept: Tensor) -> Tensor:
        """The best kept box of each box's class that overlaps it by more than the threshold: (R,) rows, or -1."""
        return best_overlapping(boxes, classes, kept, min_iou=self.iou_threshold)


class ClassAgnosticSuppression(Suppression):
    """Another suppression over the boxes of all classes together: one detection a place.

    Args:
        suppression: of one class.
    """

    def __init__(self, suppression: Suppression) -> None:
        super().__init__()
        self.suppression = suppression

    def forward(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """(R, 4), (R,), (R,), of which the classes do not matter -> rows that stay, best first, and their scores."""
        return self.suppression(boxes, scores, torch.zeros_like(classes))

    def suppress(self, candidates: Candidates) -> tuple[Tensor, Tensor]:
        """What stays of the boxes of all classes together."""
        of_one_class = replace(candidates, classes=torch.zeros_like(candidates.classes), num_classes=1)
        return self.suppression.suppress(of_one_class)

    def suppressors(self, boxes: Tensor, classes: Tensor, kept: Tensor) -> Tensor:
        """Those of the other suppression, over all classes."""
        return self.suppression.suppressors(boxes, torch.zeros_like(classes), kept)


@SUPPRESSIONS.register("greedy")
def build_greedy_suppression(_cfg: CfgNode, iou_threshold: float) -> GreedySuppression:
    """Class-wise greedy suppression."""
    return GreedySuppression(iou_threshold)


@SUPPRESSIONS.register("greedy_class_agnostic")
def build_class_agnostic_suppression(_cfg: CfgNode, iou_threshold: float) -> ClassAgnosticSuppression:
    """Greedy suppression over all classes."""
    return ClassAgnosticSuppression(GreedySuppression(iou_threshold))
