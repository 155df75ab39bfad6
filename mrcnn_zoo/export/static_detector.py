"""Detectors as modules from a padded image to a fixed number of detections, for export.

All layers and formulas are those of the detector, whose modules are called. Only selections are different: `predict`
makes tables of as many rows as there are boxes, and a program has tables of a fixed number of rows, of which the first
are filled.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrcnn_zoo.modeling.detectors.generalized_rcnn import GeneralizedRCNN
from mrcnn_zoo.modeling.detectors.input_output import Collation
from mrcnn_zoo.modeling.proposal_generators.rpn import RPN
from mrcnn_zoo.modeling.proposal_generators.selection import AnchorCandidates
from mrcnn_zoo.modeling.roi_heads import RegionHeads
from mrcnn_zoo.modeling.roi_heads.detection_selection import RegionPredictions, deltas_of_class
from mrcnn_zoo.modeling.suppression.greedy import ClassAgnosticSuppression, GreedySuppression
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.structures import ImageSize, Proposals

# Pairs of region and class that NMS compares at most, those of the highest scores. Greedy NMS decides on a box from
# better ones alone, so the detections are those of all pairs if these leave as many as TEST.DETECTIONS_PER_IMAGE.
MAX_CANDIDATES = 4096

KeptByNMS = Callable[..., Tensor]  # `ops.nms.kept_by_nms`, or an equal function that another format has


class StaticCandidates(NamedTuple):
    """Boxes that NMS compares; a fixed number, of which some are not usable."""

    boxes: Tensor  # (R, 4) pixels
    scores: Tensor  # (R,) scores, or their logits
    classes: Tensor  # (R,) int64
    is_usable: Tensor  # (R,) bool


class FixedDetections(NamedTuple):
    """The outputs of a program: D detections, best first; rows from `num_found` on are 0."""

    boxes: Tensor  # (D, 4) float32, pixels of the padded image
    scores: Tensor  # (D,) float32, scores or logits as those of the candidates
    classes: Tensor  # (D,) int64
    num_found: Tensor  # () int64


class StaticSelection(nn.Module):
    """Greedy NMS and the best detections.

    Args:
        suppression: a greedy one, whose threshold and groups are used.
        num_classes: K.
        max_detections: D.
        kept_by_nms: finds the boxes that stay.
    """

    def __init__(
        self,
        suppression: nn.Module,
        *,
        num_classes: int,
        max_detections: int,
        kept_by_nms: KeptByNMS,
    ) -> None:
        super().__init__()
        is_class_agnostic = isinstance(suppression, ClassAgnosticSuppression)
        greedy = suppression.suppression if isinstance(suppression, ClassAgnosticSuppression) else suppression
        assert isinstance(greedy, GreedySuppression)
        self.settings = {"iou_threshold": greedy.iou_threshold, "num_groups": 1 if is_class_agnostic else num_classes}
        self.max_detections = max_detections
        self.kept_by_nms = kept_by_nms

    def forward(self, candidates: StaticCandidates) -> FixedDetections:
        """The best that stay."""
        boxes, scores, classes, is_usable = candidates
        is_kept = self.kept_by_nms(boxes, scores, classes, is_usable, **self.settings)
        best, rows = torch.where(is_kept, scores, -torch.inf).topk(min(self.max_detections, len(scores)))
        exists = is_kept[rows]
        boxes = boxes[rows].masked_fill(~exists[:, None], 0)
        scores, classes = best.masked_fill(~exists, 0), classes[rows].masked_fill(~exists, 0)
        missing = self.max_detections - len(rows)
        if missing:
            boxes = F.pad(boxes, (0, 0, 0, missing))
            scores, classes = F.pad(scores, (0, missing)), F.pad(classes, (0, missing))
        return FixedDetections(boxes, scores, classes, exists.sum())


class PaddedInput(nn.Module):
    """Normalises a padded image as `Collation` does: the padding is 0 after it, whatever it contains.

    Args:
        collate: of the detector.
        size: (height, width) of the padded image.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, collate: Collation, size: ImageSize) -> None:
        super().__init__()
        self.collate = collate
        for name, length in zip(("rows", "columns"), size, strict=True):
            self.register_buffer(name, torch.arange(length, dtype=torch.float32), persistent=False)

    def forward(self, image: Tensor, height: Tensor, width: Tensor) -> Tensor:
        """(1, C, H, W) pixels, scalars of the image without padding -> (1, C, H, W)."""
        normalized = (image - self.collate.pixel_mean) / self.collate.pixel_std
        is_inside = (self.rows < height)[:, None] & (self.columns < width)
        return torch.where(is_inside, normalized, 0.0)


class StaticRCNN(nn.Module):
    """A two-stage detector for one image of a fixed padded size.

    Args:
        detector: with an RPN, greedy suppression, and no branch or the mask branch; it is shared, not copied.
        size: (height, width) of the padded image, which the backbone's strides divide.
        kept_by_nms: finds the boxes that stay.
    """

    def __init__(self, detector: GeneralizedRCNN, size: ImageSize, *, kept_by_nms: KeptByNMS) -> None:
        super().__init__()
        assert isinstance(detector.proposal_generator, RPN)
        assert isinstance(detector.roi_heads, RegionHeads)
        self.input = PaddedInput(detector.collate, size)
        self.backbone = detector.backbone
        self.rpn = detector.proposal_generator
        self.roi_heads = detector.roi_heads
        self.kept_by_nms = kept_by_nms
        selection = self.roi_heads.last_predictor.selection
        assert selection is not None
        self.score_threshold, self.min_size = selection.score_threshold, selection.min_size
        self.selection = StaticSelection(
            selection.suppression,
            num_classes=self.roi_heads.last_predictor.num_classes,
            max_detections=selection.max_detections or 0,
            kept_by_nms=kept_by_nms,
        )
        blank = torch.zeros((1, len(detector.collate.pixel_mean), *size))
        with torch.no_grad():
            features = self.backbone(blank)
        anchors = self.rpn.anchor_generator([features[name] for name in self.rpn.in_features])
        self.num_levels = len(anchors)
        for level, of_level in enumerate(anchors):
            self.register_buffer(f"anchors{level}", of_level.clone(), persistent=False)

    def forward(self, image: Tensor, image_size: Tensor) -> tuple[Tensor, ...]:
        """The detections of one image.

        Args:
            image: (1, C, H, W) float32, 0 to 255 or the range of the training data, padded at the right and bottom.
            image_size: (2,) int64 height and width without padding.

        Returns:
            The columns of `FixedDetections`, and (D, M, M) mask probabilities of a detector with masks.
        """
        height, width = image_size.float().unbind()
        features = {**self.backbone(self.input(image, height, width))}
        proposals, exists = self.propose(features, (height, width))
        # One copy for all poolers: torchvision's RoIAlign reads maps in the order of the dimensions.
        features |= {name: features[name].contiguous() for name in self.roi_heads.box_pooler.names}
        detections = self.selection(self.candidates(self.roi_heads.predict_regions(features, [proposals]), exists))
        if not self.roi_heads.branch_names:
            return tuple(detections)
        return *detections, self.masks(features, detections)

    def propose(self, features: dict[str, Tensor], image_size: tuple[Tensor, Tensor]) -> tuple[Proposals, Tensor]:
        """The best proposals, and whether each exists.

        Args:
            features: maps of the backbone by name.
            image_size: height and width without padding, float32 scalars.

        Returns:
            P proposals of which some may be empty boxes, and (P,) bool.
        """
        logits, deltas = self.rpn(features)
        anchors = [self.get_buffer(f"anchors{level}") for level in range(self.num_levels)]
        select = self.rpn.test_selection
        candidates = select.candidates(logits, deltas, anchors, [image_size])  # type: ignore[list-item]
        boxes, objectness, scores = candidates.boxes[0], candidates.logits[0], candidates.scores[0]
        is_kept = self._nms_of_levels(candidates)
        count = min(select.post_nms_topk, len(scores))
        rows = torch.where(is_kept, scores, -torch.inf).topk(count).indices
        exists = is_kept[rows]
        boxes = boxes[rows].masked_fill(~exists[:, None], 0)
        return Proposals(image_size, boxes, objectness[rows]), exists  # type: ignore[arg-type]

    def _nms_of_levels(self, candidates: AnchorCandidates) -> Tensor:
        lengths = [rows.shape[1] for rows in candidates.rows]
        columns = (candidates.boxes[0], candidates.scores[0], candidates.levels, candidates.is_usable[0])
        levels = zip(*(column.split(lengths) for column in columns), strict=True)
        settings = {"iou_threshold": self.rpn.test_selection.iou_threshold, "num_groups": 1}
        return torch.cat([self.kept_by_nms(*level, **settings) for level in levels])

    def candidates(self, predictions: RegionPredictions, exists: Tensor) -> StaticCandidates:
        """The pairs of region and class with the highest scores, decoded and clipped.

        Args:
            predictions: of P regions.
            exists: (P,) bool.
        """
        scores, deltas = predictions.scores, predictions.deltas
        is_finite = scores.isfinite().all(dim=1) & deltas.isfinite().all(dim=1)
        is_candidate = (scores > self.score_threshold) & (is_finite & exists)[:, None]
        flat = torch.where(is_candidate, scores, -1.0).flatten()
        best, places = flat.topk(min(MAX_CANDIDATES, len(flat)))
        num_classes = scores.shape[1]
        regions, classes = places // num_classes, places % num_classes
        coder = self.roi_heads.last_predictor.regression.coder
        boxes = coder.decode(deltas_of_class(deltas[regions], classes), predictions.tables[0].boxes[regions])
        boxes = box_ops.clip_to_image(boxes, predictions.tables[0].image_size)
        is_usable = best >= 0
        if self.min_size > 0:
            is_usable = is_usable & box_ops.is_nonempty(boxes, min_size=self.min_size)
        return StaticCandidates(boxes.masked_fill(~is_usable[:, None], 0), best, classes, is_usable)

    def masks(self, features: dict[str, Tensor], detections: FixedDetections) -> Tensor:
        """(D, M, M) probabilities of the class of each detection; 0 where there is none."""
        branch: Any = self.roi_heads.branches[0]
        exists = torch.arange(self.selection.max_detections) < detections.num_found
        rows = exists.nonzero().squeeze(1)  # masks of few detections take less time
        pooled = branch.region_pooler(features, [detections.boxes[rows]])
        probabilities = branch.probabilities(pooled, detections.classes[rows])
        empty = probabilities.new_zeros((self.selection.max_detections, *probabilities.shape[1:]))
        return empty.index_copy(0, rows, probabilities)
