"""Greedy non-maximum suppression, per class or over all classes."""

from dataclasses import replace

import torch
from torch import Tensor

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.modeling.contracts import Candidates
from mrcnn_zoo.modeling.suppression.base import Suppression, best_overlapping
from mrcnn_zoo.ops.nms import batched_nms, nms_of_images
from mrcnn_zoo.registries import SUPPRESSIONS


class GreedySuppression(Suppression):
    """Greedy NMS per class.

    Args:
        iou_threshold: boxes with a larger IoU with a kept box of their class are removed, in [0, 1].
    """

    def __init__(self, iou_threshold: float) -> None:
        super().__init__()
        self.iou_threshold = iou_threshold

    def forward(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """The kept rows, best first, and their unchanged scores.

        Args:
            boxes: (R, 4) pixels.
            scores: (R,).
            classes: (R,) int64.
        """
        rows = batched_nms(boxes, scores, classes, iou_threshold=self.iou_threshold)
        return rows, scores[rows]

    def suppress(self, candidates: Candidates) -> tuple[Tensor, Tensor]:
        """The kept rows, image by image and best first in each, and their scores."""
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
        """For each box, the best kept box of its class with an IoU above the threshold: (R,) rows, or -1."""
        return best_overlapping(boxes, classes, kept, min_iou=self.iou_threshold)


class ClassAgnosticSuppression(Suppression):
    """Another suppression applied to the boxes of all classes together.

    Args:
        suppression: compares boxes of one class.
    """

    def __init__(self, suppression: Suppression) -> None:
        super().__init__()
        self.suppression = suppression

    def forward(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """(R, 4), (R,), (R,) unused classes -> kept rows, best first, and their scores."""
        return self.suppression(boxes, scores, torch.zeros_like(classes))

    def suppress(self, candidates: Candidates) -> tuple[Tensor, Tensor]:
        """The kept rows, image by image and best first in each, and their scores."""
        of_one_class = replace(candidates, classes=torch.zeros_like(candidates.classes), num_classes=1)
        return self.suppression.suppress(of_one_class)

    def suppressors(self, boxes: Tensor, classes: Tensor, kept: Tensor) -> Tensor:
        """As those of the other suppression, over all classes."""
        return self.suppression.suppressors(boxes, torch.zeros_like(classes), kept)


@SUPPRESSIONS.register("greedy")
def build_greedy_suppression(_cfg: CfgNode, iou_threshold: float) -> GreedySuppression:
    """Class-wise greedy suppression."""
    return GreedySuppression(iou_threshold)


@SUPPRESSIONS.register("greedy_class_agnostic")
def build_class_agnostic_suppression(_cfg: CfgNode, iou_threshold: float) -> ClassAgnosticSuppression:
    """Greedy suppression over all classes."""
    return ClassAgnosticSuppression(GreedySuppression(iou_threshold))
