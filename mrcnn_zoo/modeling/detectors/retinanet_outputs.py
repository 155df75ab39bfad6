"""RetinaNet's losses over all anchors, and its selection of detections."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from mrcnn_zoo.losses.box_regression import BoxLoss
from mrcnn_zoo.losses.classification import focal_loss_of_classes
from mrcnn_zoo.modeling.assignment import POSITIVE, matched_classes
from mrcnn_zoo.modeling.contracts import Candidates, Features, Matcher
from mrcnn_zoo.modeling.recording import Fate, ImageScores, Recorder, report_anchors, report_detections
from mrcnn_zoo.modeling.suppression import Suppression, suppress_and_limit
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.ops.rows import image_numbers, rows_in_parts, rows_of_all, rows_where
from mrcnn_zoo.structures import Detections, ImageSize, LossSum, Targets, TrainingOutput

FIRST_COUNT = 100.0  # initial value of the running mean, as in Detectron2
MOMENTUM = 0.9


@dataclass(frozen=True)
class LabeledAnchors:
    """Training targets of the anchors of N images."""

    classes: Tensor  # (N * A,) int64: [0, K), K background, -1 ignored
    positives: Tensor  # (P,) int64 rows of the positives
    boxes: Tensor  # (P, 4) pixels, the anchors of the positives
    targets: Tensor  # (P, 4) pixels, the ground truth of each


class RunningCount(nn.Module):
    """Running mean of the positives of global batches, which losses are divided by.

    It is not in the state dict; trainer checkpoints keep it separately (`HasTrainingState`).
    """

    value: Tensor  # scalar

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(FIRST_COUNT), persistent=False)

    @torch.no_grad()
    def forward(self, count: Tensor) -> Tensor:
        """The divisor of losses that are summed over a global batch.

        In training mode the mean is updated and returned; else the divisor is the batch's own count, as in the paper.

        Args:
            count: scalar, positives of the global batch.
        """
        count = count.to(self.value.dtype).clamp(min=1)
        if not self.training:
            return count
        self.value.lerp_(count, 1 - MOMENTUM)
        return self.value.clone()

    def training_state(self) -> dict[str, Tensor]:
        """The running mean."""
        return {"value": self.value.clone()}

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore a saved mean.

        Args:
            state: from `training_state`.
        """
        self.value.copy_(state["value"])


class FocalSupervision(nn.Module):
    """Labels all anchors and computes the losses.

    Source: Lin et al. 2017 (Focal Loss), sec. 4.1 (Focal Loss, Anchors). As Detectron2 does, losses are divided by a
    running mean of the number of positives instead of that of each batch.

    Args:
        matcher: assigns ground truth and a label to each anchor.
        num_classes: K.
        coder: converts between boxes and deltas.
        box_loss: compares predicted with ground-truth boxes of the positives.
        alpha: weight of positives in the focal loss.
        gamma: exponent of the focal loss.
        class_weight: factor of `loss_cls`.
        box_weight: factor of `loss_box_reg`.
    """

    def __init__(
        self,
        matcher: Matcher,
        *,
        num_classes: int,
        coder: BoxCoder,
        box_loss: BoxLoss,
        alpha: float,
        gamma: float,
        class_weight: float = 1.0,
        box_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.matcher = matcher
        self.num_classes = num_classes
        self.coder = coder
        self.box_loss = box_loss
        self.alpha = alpha
        self.gamma = gamma
        self.class_weight = class_weight
        self.box_weight = box_weight
        self.positives_of_a_batch = RunningCount()

    @torch.no_grad()
    def label(self, anchors: Tensor, targets: list[Targets]) -> LabeledAnchors:
        """Label the anchors of every image; images are matched one by one, to hold the overlaps of one in memory.

        Args:
            anchors: (A, 4) pixels.
            targets: of each image.
        """
        classes, positives, boxes, truths = [], [], [], []
        matches_of_images = [self.matcher.match(anchors, truth.boxes) for truth in targets]
        rows_of_images = rows_where([matches.labels == POSITIVE for matches in matches_of_images])
        images = zip(targets, matches_of_images, rows_of_images, strict=True)
        for number, (truth, matches, rows) in enumerate(images):
            classes.append(matched_classes(matches, truth.classes, self.num_classes))
            positives.append(rows + number * len(anchors))
            boxes.append(anchors[rows])
            truths.append(truth.boxes[matches.rows[rows]])
        return LabeledAnchors(torch.cat(classes), torch.cat(positives), torch.cat(boxes), torch.cat(truths))

    def losses(self, logits: Tensor, deltas: Tensor, labeled: LabeledAnchors) -> TrainingOutput:
        """The weighted losses of all anchors.

        Args:
            logits: (N, A, K).
            deltas: (N, A, 4).
            labeled: anchors of N images.
        """
        count = len(labeled.positives)
        focal_loss = focal_loss_of_classes(
            logits.flatten(0, 1).float(), labeled.classes, alpha=self.alpha, gamma=self.gamma
        )
        chosen = deltas.flatten(0, 1)[labeled.positives].float()
        box_loss = self.box_loss(chosen, labeled.boxes, labeled.targets, self.coder)
        return TrainingOutput(
            losses={
                "loss_cls": LossSum(self.class_weight * focal_loss, count, self.positives_of_a_batch),
                "loss_box_reg": LossSum(self.box_weight * box_loss, count, self.positives_of_a_batch),
            },
            metrics={"num_pos_anchors": torch.full((), count / len(logits), device=logits.device)},
        )


class DenseSelection(nn.Module):
    """Drops low scores, decodes the best of each level and suppresses duplicates.

    Source: Lin et al. 2017 (Focal Loss), sec. 4.1 (Inference).

    Args:
        suppression: removes duplicate boxes of an object.
        coder: decodes deltas.
        score_threshold: candidates have higher scores.
        candidates_per_level: highest scores of each level that are decoded.
        max_detections: detections kept per image; below 0 all.
        clips_first: clip boxes to the image before suppression, as torchvision does; Detectron2 clips them after it.
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
        self.least_logit = _logit(score_threshold)

    def select(
        self,
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Sequence[Tensor],
        image_sizes: Sequence[ImageSize],
        *,
        features: Features | None = None,
        recorder: Recorder | None = None,
    ) -> list[Detections]:
        """The detections of each image.

        Args:
            logits: of each level (N, A, K); one that is not finite gives no detection.
            deltas: of each level (N, A, 4).
            anchors: of each level (A, 4) pixels.
            image_sizes: (height, width) of each image, without padding.
            features: maps of the backbone, for a suppression that uses them.
            recorder: gets a report of the stage "boxes".

        Returns:
            At most `max_detections` per image, best first; they may extend outside the image.
        """
        candidates = self.candidates(
            logits, deltas, anchors, image_sizes, features=features, keeps_sources=recorder is not None
        )
        report = None
        if recorder is not None:
            report_anchors(recorder, anchors, image_sizes)
            images = list(self._image_scores(logits, deltas, anchors, image_sizes))
            report = partial(report_detections, recorder, images, candidates, Fate.NOT_IN_TOP_K)
        return suppress_and_limit(candidates, self.suppression, self.max_detections, report)

    def candidates(
        self,
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Sequence[Tensor],
        image_sizes: Sequence[ImageSize],
        *,
        features: Features | None = None,
        keeps_sources: bool = False,
    ) -> Candidates:
        """The best scores above the threshold of each level, decoded.

        Args:
            logits: see `select`, as the next four.
            deltas: of each level.
            anchors: of each level.
            image_sizes: of each image.
            features: maps of the backbone, or None.
            keeps_sources: fill `Candidates.sources`.
        """
        num_images, num_levels = len(image_sizes), len(logits)
        # Compared as logits: of millions of scores only those that pass are computed.
        masks = [(level > self.least_logit) & (level < math.inf) for level in logits]
        places = rows_where([mask[image].flatten() for image in range(num_images) for mask in masks])
        found = [
            self._best_of_level(
                logits[level][image], deltas[level][image], anchors[level], places[image * num_levels + level]
            )
            for image in range(num_images)
            for level in range(num_levels)
        ]
        boxes, scores, classes = (torch.cat(columns) for columns in zip(*(f[:3] for f in found), strict=True))
        lengths = [len(of_level[1]) for of_level in found]
        counts = [sum(lengths[first : first + num_levels]) for first in range(0, len(lengths), num_levels)]
        rows, counts = rows_in_parts(boxes.isfinite().all(dim=1).split(counts))
        boxes = boxes[rows]
        if self.clips_first:
            boxes = torch.cat(
                [box_ops.clip_to_image(*image) for image in zip(boxes.split(counts), image_sizes, strict=True)]
            )
        return Candidates(
            boxes=boxes,
            scores=scores[rows],
            classes=classes[rows],
            images=image_numbers(counts, boxes.device),
            image_sizes=image_sizes,
            counts=counts,
            num_classes=logits[0].shape[2],
            are_clipped=self.clips_first,
            features=features,
            sources=self._sources([f[3] for f in found], anchors)[rows] if keeps_sources else None,
        )

    def _sources(self, rows: Sequence[Tensor], anchors: Sequence[Tensor]) -> Tensor:
        """Rows within each level of each image -> rows of the anchors of all levels and images."""
        lengths = [len(level) for level in anchors] * (len(rows) // len(anchors))
        return rows_of_all(rows, lengths)

    def _image_scores(
        self,
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Sequence[Tensor],
        image_sizes: Sequence[ImageSize],
    ) -> Iterator[ImageScores]:
        """Of all levels of each image, for a recorder."""
        all_anchors = torch.cat(list(anchors))
        for image, image_size in enumerate(image_sizes):
            image_logits = torch.cat([level[image] for level in logits])
            image_deltas = torch.cat([level[image] for level in deltas])
            yield ImageScores(
                image_size=image_size,
                scores=image_logits.float().sigmoid(),
                is_above=(image_logits > self.least_logit) & (image_logits < math.inf),
                is_finite=image_logits.isfinite(),
                decode=partial(self._decode, image_deltas, all_anchors),
                clips=self.clips_first,
            )

    def _decode(self, deltas: Tensor, anchors: Tensor, rows: Tensor, _classes: Tensor) -> Tensor:
        return self.coder.decode(deltas[rows], anchors[rows])

    def _best_of_level(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, places: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes (T, 4), scores, classes and anchors (T,) of the best candidates, given as places in A x K."""
        rows, classes = places // logits.shape[1], places % logits.shape[1]
        scores, order = logits[rows, classes].float().sigmoid().topk(min(self.candidates_per_level, len(places)))
        rows, classes = rows[order], classes[order]
        return self.coder.decode(deltas[rows], anchors[rows]), scores, classes, rows


def _logit(probability: float) -> float:
    if probability <= 0:
        return -math.inf
    return math.inf if probability >= 1 else math.log(probability / (1 - probability))
