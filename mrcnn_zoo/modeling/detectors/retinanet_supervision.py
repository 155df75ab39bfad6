"""What RetinaNet is trained on: every anchor, weighed by the focal loss."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrcnn_zoo.losses.box_regression import BoxLoss
from mrcnn_zoo.losses.classification import IGNORED, focal_loss_of_classes
from mrcnn_zoo.modeling.assignment import POSITIVE
from mrcnn_zoo.modeling.contracts import Matcher
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.ops.rows import rows_where
from mrcnn_zoo.structures import LossSum, Targets, TrainingOutput

FIRST_COUNT = 100.0  # positives that the running mean begins with, as Detectron2's
MOMENTUM = 0.9


@dataclass(frozen=True)
class LabeledAnchors:
    """What the anchors of N images are to be trained as."""

    classes: Tensor  # (N * A,) int64: [0, K), K background, -1 ignored
    positives: Tensor  # (P,) int64 rows of those with an object
    boxes: Tensor  # (P, 4) pixels, the anchors of the positives
    targets: Tensor  # (P, 4) pixels, the ground truth of each


class RunningCount(nn.Module):
    """A running mean of the positives of the batches of all processes together, by which losses are divided.

    It is no weight: checkpoints of models do not have it, so it is kept beside them (`RemembersTraining`).
    """

    value: Tensor  # scalar

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(FIRST_COUNT), persistent=False)

    @torch.no_grad()
    def forward(self, count: Tensor) -> Tensor:
        """The divisor of losses that are summed over a batch of all processes, of which `count` were positive.

        In training the mean moves on; otherwise the divisor is the batch's own count, as in the paper.
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
        """Go on from a saved mean."""
        self.value.copy_(state["value"])


class FocalSupervision(nn.Module):
    """Labels all anchors by their overlap with objects and computes the losses.

    Source: Lin et al. 2017 (Focal Loss), sec. 4.1 (Focal Loss, Anchors). As Detectron2 does, losses are divided by a
    running mean of the number of positives instead of that of each batch.

    Args:
        matcher: decides which ground truth an anchor belongs to.
        num_classes: K.
        coder: the one that predictions are decoded with.
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
        """What each of (A, 4) anchors is in every image; matched one by one, to keep the overlaps of one in memory."""
        classes, positives, boxes, truths = [], [], [], []
        matches_of_images = [self.matcher.match(anchors, truth.boxes) for truth in targets]
        rows_of_images = rows_where([matches.labels == POSITIVE for matches in matches_of_images])
        images = zip(targets, matches_of_images, rows_of_images, strict=True)
        for number, (truth, matches, rows) in enumerate(images):
            labels = torch.where(matches.labels == IGNORED, IGNORED, self.num_classes)
            labels[rows] = truth.classes[matches.rows[rows]]
            classes.append(labels)
            positives.append(rows + number * len(anchors))
            boxes.append(anchors[rows])
            truths.append(truth.boxes[matches.rows[rows]])
        return LabeledAnchors(torch.cat(classes), torch.cat(positives), torch.cat(boxes), torch.cat(truths))

    def losses(self, logits: Tensor, deltas: Tensor, labeled: LabeledAnchors) -> TrainingOutput:
        """The losses of (N, A, K) logits and (N, A, 4) deltas."""
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
