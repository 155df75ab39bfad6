"""From scores and deltas of every region and class to the few detections of an image."""

import torch
from torch import Tensor

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.modeling.contracts import Suppression
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.registries import SUPPRESSIONS
from mrcnn_zoo.structures import Detections, Proposals


class DetectionSelection:
    """Drops weak scores, decodes and clips what is left, suppresses repetitions, and keeps the best.

    Args:
        suppression: removes boxes that show the same object.
        score_threshold: only higher scores are looked at.
        max_detections: at most so many stay in an image; below 0 all do.
        min_size: boxes with a side of at most so many pixels are dropped before the suppression; 0 drops none.
    """

    def __init__(
        self, suppression: Suppression, *, score_threshold: float, max_detections: int, min_size: float = 0.0
    ) -> None:
        self.suppression = suppression
        self.score_threshold = score_threshold
        self.max_detections = max_detections if max_detections >= 0 else None
        self.min_size = min_size

    def select(self, scores: Tensor, deltas: Tensor, proposals: Proposals, coder: BoxCoder) -> Detections:
        """The detections of one image.

        Args:
            scores: (R, K) in [0, 1].
            deltas: (R, 4 K), or (R, 4) for all classes alike.
            proposals: R boxes that the deltas move.
            coder: decodes them.

        Returns:
            At most `max_detections`, best first, clipped to the image. A region with a number that is not finite gives
            none.
        """
        is_finite = scores.isfinite().all(dim=1) & deltas.isfinite().all(dim=1)
        is_candidate = (scores > self.score_threshold) & is_finite[:, None]
        regions, classes = torch.nonzero(is_candidate, as_tuple=True)
        boxes = coder.decode(deltas_of_class(deltas[regions], classes), proposals.boxes[regions])
        # Clip before the suppression: a box that reaches far outside would look unlike its visible twin.
        boxes = box_ops.clip(boxes, proposals.image_size)
        if self.min_size > 0:
            is_large = box_ops.is_nonempty(boxes, min_size=self.min_size)
            boxes, regions, classes = boxes[is_large], regions[is_large], classes[is_large]
        rows, kept_scores = self.suppression(boxes, scores[regions, classes], classes)
        rows, kept_scores = rows[: self.max_detections], kept_scores[: self.max_detections]
        return Detections(image_size=proposals.image_size, boxes=boxes[rows], scores=kept_scores, classes=classes[rows])


def deltas_of_class(deltas: Tensor, classes: Tensor) -> Tensor:
    """Each region's deltas for its class, or its only ones: (R, 4 K) or (R, 4), (R,) int64 -> (R, 4)."""
    by_class = deltas.unflatten(1, (-1, 4))
    columns = classes.clamp(max=by_class.shape[1] - 1)
    return by_class[torch.arange(len(by_class), device=deltas.device), columns]


def build_detection_selection(cfg: CfgNode) -> DetectionSelection:
    """The selection that `MODEL.ROI_HEADS` and `TEST` describe."""
    heads = cfg.MODEL.ROI_HEADS
    return DetectionSelection(
        SUPPRESSIONS.get(heads.SUPPRESSION)(cfg, heads.NMS_THRESH_TEST),
        score_threshold=heads.SCORE_THRESH_TEST,
        max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
        min_size=heads.MIN_SIZE_TEST,
    )
