"""From the scores and deltas of all anchors and classes to the few detections of an image."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mrcnn_zoo.modeling.contracts import Candidates
from mrcnn_zoo.modeling.suppression import Suppression
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.structures import Detections, ImageSize


class DenseSelection(nn.Module):
    """Drops weak scores, keeps and decodes the best of each level, suppresses repetitions.

    Source: Lin et al. 2017 (Focal Loss), sec. 4.1 (Inference).

    Args:
        suppression: removes boxes that show the same object.
        coder: decodes deltas.
        score_threshold: only higher scores are looked at.
        candidates_per_level: the best scores of each level that are decoded.
        max_detections: at most so many stay in an image; below 0 all do.
        clips_first: compare boxes as they are inside the image, as torchvision does; Detectron2 compares them whole.
    """

    def __init__(
        self,
        suppression: Suppression,
        *,
        coder: BoxCoder,
        score_threshold: float,
        candidates_per_level: int,
        max_detections: int,
        clips_first: bool = False,
    ) -> None:
        super().__init__()
        self.suppression = suppression
        self.coder = coder
        self.candidates_per_level = candidates_per_level
        self.max_detections = max_detections if max_detections >= 0 else None
        self.clips_first = clips_first
        self._least_logit = _logit(score_threshold)

    def select(
        self, logits: Sequence[Tensor], deltas: Sequence[Tensor], anchors: Sequence[Tensor], image_size: ImageSize
    ) -> Detections:
        """The detections of one image.

        Args:
            logits: for each level (A, K); one that is not finite gives no detection.
            deltas: for each level (A, 4).
            anchors: for each level (A, 4) pixels.
            image_size: without padding.

        Returns:
            At most `max_detections`, best first; they may reach outside the image.
        """
        best = [self._best_of_level(*level) for level in zip(logits, deltas, anchors, strict=True)]
        boxes, scores, classes = (torch.cat(columns) for columns in zip(*best, strict=True))
        if self.clips_first:
            boxes = box_ops.clip(boxes, image_size)
        images = torch.zeros_like(classes)
        rows, kept_scores = self.suppression.suppress(Candidates(boxes, scores, classes, images, [image_size]))
        rows, kept_scores = rows[: self.max_detections], kept_scores[: self.max_detections]
        return Detections(image_size=image_size, boxes=boxes[rows], scores=kept_scores, classes=classes[rows])

    def _best_of_level(self, logits: Tensor, deltas: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (T, 4), scores (T,) and classes (T,) of the best candidates."""
        # Compared as logits: of millions of scores only those that pass are computed.
        rows, classes = torch.nonzero((logits > self._least_logit) & (logits < math.inf), as_tuple=True)
        scores, order = logits[rows, classes].float().sigmoid().topk(min(self.candidates_per_level, len(rows)))
        rows, classes = rows[order], classes[order]
        boxes = self.coder.decode(deltas[rows], anchors[rows])
        is_finite = boxes.isfinite().all(dim=1)
        return boxes[is_finite], scores[is_finite], classes[is_finite]


def _logit(probability: float) -> float:
    if probability <= 0:
        return -math.inf
    return math.inf if probability >= 1 else math.log(probability / (1 - probability))
