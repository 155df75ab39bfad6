"""From scores and deltas of every region and class to the few detections of an image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.modeling.contracts import Candidates, Features
from mrcnn_zoo.modeling.recording import Fate, ImageScores, Recorder, report_detections
from mrcnn_zoo.modeling.suppression import Suppression, build_suppression, suppress_and_limit
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.ops.rows import image_numbers, rows_in_parts
from mrcnn_zoo.structures import Detections, ImageSize, LabeledRegions, Proposals


@dataclass(frozen=True)
class RegionPredictions:
    """What a box head predicts for the regions of all images."""

    scores: Tensor  # (sum of R_i, K) in [0, 1]
    deltas: Tensor  # (sum of R_i, 4 K), or (sum of R_i, 4) for all classes alike
    tables: Sequence[Proposals] | Sequence[LabeledRegions]  # R_i boxes of each image, which the deltas move
    vectors: Tensor | None = None  # (sum of R_i, D) of the box head
    features: Features | None = None  # maps of the backbone

    def boxes(self) -> Tensor:
        """(sum of R_i, 4) pixels."""
        return torch.cat([table.boxes for table in self.tables])

    def counts(self) -> list[int]:
        """R_i of each image."""
        return [len(table) for table in self.tables]

    def image_sizes(self) -> list[ImageSize]:
        """Of each image."""
        return [table.image_size for table in self.tables]


class DetectionSelection(nn.Module):
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
        super().__init__()
        self.suppression = suppression
        self.score_threshold = score_threshold
        self.max_detections = max_detections if max_detections >= 0 else None
        self.min_size = min_size

    def select(
        self, predictions: RegionPredictions, coder: BoxCoder, *, recorder: Recorder | None = None
    ) -> list[Detections]:
        """The detections of each image.

        Args:
            predictions: of all regions.
            coder: decodes the deltas.
            recorder: gets a report of the stage "boxes".

        Returns:
            At most `max_detections` each, best first, clipped to the image. A region with a number that is not finite
            gives none.
        """
        candidates = self.candidates(predictions, coder)
        report = None
        if recorder is not None:
            images = list(self._image_scores(predictions, coder))
            report = partial(report_detections, recorder, images, candidates, Fate.TOO_SMALL)
        return suppress_and_limit(candidates, self.suppression, self.max_detections, report)

    def candidates(self, predictions: RegionPredictions, coder: BoxCoder) -> Candidates:
        """The boxes of all classes whose scores are above the threshold, decoded and clipped to their images."""
        scores, deltas = predictions.scores, predictions.deltas
        is_finite = scores.isfinite().all(dim=1) & deltas.isfinite().all(dim=1)
        is_candidate = (scores > self.score_threshold) & is_finite[:, None]
        places, counts = rows_in_parts([image.flatten() for image in is_candidate.split(predictions.counts())])
        regions, classes = places // scores.shape[1], places % scores.shape[1]
        boxes = _decode(coder, deltas, predictions.boxes(), regions, classes)
        # Clip before the suppression: a box that reaches far outside would look unlike its visible twin.
        sizes = predictions.image_sizes()
        boxes = torch.cat([box_ops.clip(*image) for image in zip(boxes.split(counts), sizes, strict=True)])
        if self.min_size > 0:
            is_large = box_ops.is_nonempty(boxes, min_size=self.min_size)
            rows, counts = rows_in_parts(is_large.split(counts))
            boxes, regions, classes = boxes[rows], regions[rows], classes[rows]
        return Candidates(
            boxes=boxes,
            scores=scores[regions, classes],
            classes=classes,
            images=image_numbers(counts, boxes.device),
            image_sizes=sizes,
            counts=counts,
            num_classes=scores.shape[1],
            vectors=None if predictions.vectors is None else predictions.vectors[regions],
            features=predictions.features,
            sources=regions,
        )

    def _image_scores(self, predictions: RegionPredictions, coder: BoxCoder) -> Iterator[ImageScores]:
        """Of each image, for a recorder."""
        counts = predictions.counts()
        all_scores, all_deltas = predictions.scores.split(counts), predictions.deltas.split(counts)
        for scores, deltas, table in zip(all_scores, all_deltas, predictions.tables, strict=True):
            is_finite = (scores.isfinite().all(dim=1) & deltas.isfinite().all(dim=1))[:, None]
            decode = partial(_decode, coder, deltas, table.boxes)
            yield ImageScores(table.image_size, scores, (scores > self.score_threshold) & is_finite, is_finite, decode)


def _decode(coder: BoxCoder, deltas: Tensor, boxes: Tensor, rows: Tensor, classes: Tensor) -> Tensor:
    return coder.decode(deltas_of_class(deltas[rows], classes), boxes[rows])


def deltas_of_class(deltas: Tensor, classes: Tensor) -> Tensor:
    """Each region's deltas for its class, or its only ones: (R, 4 K) or (R, 4), (R,) int64 -> (R, 4)."""
    by_class = deltas.unflatten(1, (-1, 4))
    columns = classes.clamp(max=by_class.shape[1] - 1)
    return by_class[torch.arange(len(by_class), device=deltas.device), columns]


def build_detection_selection(cfg: CfgNode) -> DetectionSelection:
    """The selection that `MODEL.ROI_HEADS` and `TEST` describe."""
    heads = cfg.MODEL.ROI_HEADS
    return DetectionSelection(
        build_suppression(cfg, heads.SUPPRESSION, heads.NMS_THRESH_TEST, key="MODEL.ROI_HEADS.SUPPRESSION"),
        score_threshold=heads.SCORE_THRESH_TEST,
        max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
        min_size=heads.MIN_SIZE_TEST,
    )
