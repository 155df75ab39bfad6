"""From class scores and box deltas of all regions to the detections of each image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.modeling.contracts import Candidates, Features
from mrcnn_zoo.modeling.recording import Fate, ImageScores, Recorder, StageValues, report_detections
from mrcnn_zoo.modeling.suppression import Suppression, build_suppression, suppress_and_limit
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.ops.rows import image_numbers, rows_in_parts
from mrcnn_zoo.structures import Detections, ImageSize, LabeledRegions, Proposals


@dataclass(frozen=True)
class RegionPredictions:
    """Outputs of a box predictor for the regions of all images."""

    scores: Tensor  # (sum of R_i, K) in [0, 1]
    deltas: Tensor  # (sum of R_i, 4 K), or (sum of R_i, 4) shared by all classes
    tables: Sequence[Proposals] | Sequence[LabeledRegions]  # R_i boxes of each image that the deltas refer to
    vectors: Tensor | None = None  # (sum of R_i, D) outputs of the box head
    features: Features | None = None  # maps of the backbone

    def boxes(self) -> Tensor:
        """(sum of R_i, 4) pixels."""
        return torch.cat([table.boxes for table in self.tables])

    def counts(self) -> list[int]:
        """R_i of each image."""
        return [len(table) for table in self.tables]

    def image_sizes(self) -> list[ImageSize]:
        """(height, width) of each image."""
        return [table.image_size for table in self.tables]


class DetectionSelection(nn.Module):
    """Thresholds the scores, decodes and clips the boxes, suppresses duplicates, and keeps the best.

    Args:
        suppression: removes duplicate boxes of an object.
        score_threshold: scores up to this give no detection, in [0, 1].
        max_detections: per image; negative for no limit.
        min_size: boxes with a side of at most this many pixels are removed before the suppression; 0 keeps all.
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
            At most `max_detections` per image, best first, clipped to the image. A region with a score or delta that is
            not finite gives none.
        """
        candidates = self.candidates(predictions, coder)
        report = None
        if recorder is not None:
            images = list(self._image_scores(predictions, coder))
            self._report_scores(recorder, predictions)
            report = partial(report_detections, recorder, images, candidates, Fate.TOO_SMALL)
        return suppress_and_limit(candidates, self.suppression, self.max_detections, report)

    def candidates(self, predictions: RegionPredictions, coder: BoxCoder) -> Candidates:
        """The boxes of all classes with scores above the threshold, decoded and clipped; arguments as `select`."""
        scores, deltas = predictions.scores, predictions.deltas
        is_finite = scores.isfinite().all(dim=1) & deltas.isfinite().all(dim=1)
        is_candidate = (scores > self.score_threshold) & is_finite[:, None]
        places, counts = rows_in_parts([image.flatten() for image in is_candidate.split(predictions.counts())])
        regions, classes = places // scores.shape[1], places % scores.shape[1]
        boxes = _decode(coder, deltas, predictions.boxes(), regions, classes)
        # Clip before NMS: a box that reaches far outside would have a low IoU with its visible duplicate.
        sizes = predictions.image_sizes()
        boxes = torch.cat([box_ops.clip_to_image(*image) for image in zip(boxes.split(counts), sizes, strict=True)])
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

    def _report_scores(self, recorder: Recorder, predictions: RegionPredictions) -> None:
        scores = predictions.scores.split(predictions.counts())
        for image, (of_image, table) in enumerate(zip(scores, predictions.tables, strict=True)):
            values = {"boxes": table.boxes, "scores": of_image}
            settings = {"score_threshold": self.score_threshold}
            recorder.add_values(StageValues("class scores", image, table.image_size, values, settings))

    def _image_scores(self, predictions: RegionPredictions, coder: BoxCoder) -> Iterator[ImageScores]:
        """Scores and boxes of each image, for a recorder."""
        counts = predictions.counts()
        all_scores, all_deltas = predictions.scores.split(counts), predictions.deltas.split(counts)
        for scores, deltas, table in zip(all_scores, all_deltas, predictions.tables, strict=True):
            is_finite = (scores.isfinite().all(dim=1) & deltas.isfinite().all(dim=1))[:, None]
            decode = partial(_decode, coder, deltas, table.boxes)
            yield ImageScores(table.image_size, scores, (scores > self.score_threshold) & is_finite, is_finite, decode)


def _decode(coder: BoxCoder, deltas: Tensor, boxes: Tensor, rows: Tensor, classes: Tensor) -> Tensor:
    return coder.decode(deltas_of_class(deltas[rows], classes), boxes[rows])


def deltas_of_class(deltas: Tensor, classes: Tensor) -> Tensor:
    """The deltas of each region for its class.

    Args:
        deltas: (R, 4 K), or (R, 4) shared by all classes.
        classes: (R,) int64.

    Returns:
        (R, 4).
    """
    by_class = deltas.unflatten(1, (-1, 4))
    columns = classes.clamp(max=by_class.shape[1] - 1)
    return by_class[torch.arange(len(by_class), device=deltas.device), columns]


def build_detection_selection(cfg: CfgNode) -> DetectionSelection:
    """The selection of `MODEL.ROI_HEADS` and `TEST`."""
    heads = cfg.MODEL.ROI_HEADS
    return DetectionSelection(
        build_suppression(cfg, heads.SUPPRESSION, heads.NMS_THRESH_TEST, key="MODEL.ROI_HEADS.SUPPRESSION"),
        score_threshold=heads.SCORE_THRESH_TEST,
        max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
        min_size=heads.MIN_SIZE_TEST,
    )
