"""RetinaNet as a module from a padded image to a fixed number of detections."""

import math

import torch
from torch import Tensor, nn

from mrcnn_zoo.export.static_detector import FixedDetections, KeptByNMS, PaddedInput, StaticCandidates, StaticSelection
from mrcnn_zoo.modeling.detectors.retinanet import RetinaNet
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.structures import ImageSize


class StaticRetinaNet(nn.Module):
    """A RetinaNet for one image of a fixed padded size; inputs and outputs are those of `StaticRCNN`.

    Args:
        detector: with greedy suppression; it is shared, not copied.
        size: (height, width) of the padded image, which the backbone's strides divide.
        kept_by_nms: finds the boxes that stay.
    """

    def __init__(self, detector: RetinaNet, size: ImageSize, *, kept_by_nms: KeptByNMS) -> None:
        super().__init__()
        self.input = PaddedInput(detector.collate, size)
        self.detector = detector
        select = detector.selection
        self.selection = StaticSelection(
            select.suppression,
            num_classes=detector.head.num_classes,
            max_detections=select.max_detections or 0,
            kept_by_nms=kept_by_nms,
        )
        with torch.no_grad():
            features = detector.backbone(torch.zeros((1, len(detector.collate.pixel_mean), *size)))
        for level, of_level in enumerate(detector.anchor_generator([features[n] for n in detector.in_features])):
            self.register_buffer(f"anchors{level}", of_level.clone(), persistent=False)

    def forward(self, image: Tensor, image_size: Tensor) -> tuple[Tensor, ...]:
        """(1, C, H, W) pixels, (2,) int64 height and width without padding -> the columns of `FixedDetections`."""
        height, width = image_size.float().unbind()
        features = self.detector.backbone(self.input(image, height, width))
        logits, deltas = self.detector.predict_all(features)
        levels = [
            self._best_of_level(a[0], b[0], level) for level, (a, b) in enumerate(zip(logits, deltas, strict=True))
        ]
        boxes, scores, classes, is_usable = (torch.cat(columns) for columns in zip(*levels, strict=True))
        if self.detector.selection.clips_first:
            boxes = box_ops.clip_to_image(boxes, (height, width))
        boxes = boxes.masked_fill(~is_usable[:, None], 0)
        detections: FixedDetections = self.selection(StaticCandidates(boxes, scores, classes, is_usable))
        exists = torch.arange(len(detections.scores)) < detections.num_found
        return tuple(detections._replace(scores=torch.where(exists, detections.scores.sigmoid(), 0.0)))

    def _best_of_level(self, logits: Tensor, deltas: Tensor, level: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes (T, 4), logits, classes and whether they are above the threshold (T,) of (A, K) and (A, 4)."""
        select = self.detector.selection
        flat = logits.flatten()
        is_above = (flat > select.least_logit) & (flat < math.inf)
        best, places = torch.where(is_above, flat.float(), -math.inf).topk(
            min(select.candidates_per_level, flat.shape[0])
        )
        rows, classes = places // logits.shape[1], places % logits.shape[1]
        boxes = select.coder.decode(deltas[rows], self.get_buffer(f"anchors{level}")[rows])
        return boxes, best, classes, is_above[places] & boxes.isfinite().all(dim=1)
