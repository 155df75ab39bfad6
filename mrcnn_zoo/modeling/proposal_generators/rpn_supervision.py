"""What a region proposal network is trained on."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.losses.box_regression import BoxLoss
from mrcnn_zoo.losses.classification import binary_cross_entropy, sigmoid_focal_loss
from mrcnn_zoo.modeling.assignment import AnchorLabeler
from mrcnn_zoo.modeling.proposal_generators.anchor_predictions import SampledPredictions
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.registries import BOX_LOSSES, MATCHERS, SAMPLERS
from mrcnn_zoo.structures import ImageSize, LossSum, Targets, TrainingOutput

ObjectnessLoss = Callable[[Tensor, Tensor], Tensor]  # (M,) logits, (M,) 0 or 1 -> scalar


@dataclass(frozen=True)
class AnchorSample:
    """The anchors of N images that take part in a training step, positives first."""

    rows: Tensor  # (M,) int64 in [0, N * A), see anchor_predictions
    boxes: Tensor  # (P, 4) pixels, the positive anchors
    targets: Tensor  # (P, 4) pixels, the ground truth of each
    num_images: int

    @property
    def num_positives(self) -> int:
        """P."""
        return len(self.boxes)


class RPNSupervision:
    """Samples anchors and computes the losses of a region proposal network.

    Both losses are divided by the number of anchors that a full sample has, not by the positives alone: every anchor
    weighs the same, whichever image it is from.

    Args:
        labeler: chooses and labels anchors.
        coder: the one that predictions are decoded with.
        objectness_loss: compares logits with what anchors are, 1 for objects and 0 for background; a sum.
        box_loss: compares predicted with ground-truth boxes of the positives.
        anchors_per_image: what the labeler samples when there are enough.
        objectness_weight: factor of `loss_rpn_cls`.
        box_weight: factor of `loss_rpn_loc`.
    """

    def __init__(
        self,
        labeler: AnchorLabeler,
        *,
        coder: BoxCoder,
        objectness_loss: ObjectnessLoss,
        box_loss: BoxLoss,
        anchors_per_image: int,
        objectness_weight: float,
        box_weight: float,
    ) -> None:
        self.labeler = labeler
        self.coder = coder
        self.objectness_loss = objectness_loss
        self.box_loss = box_loss
        self.anchors_per_image = anchors_per_image
        self.objectness_weight = objectness_weight
        self.box_weight = box_weight

    @torch.no_grad()
    def sample(self, anchors: list[Tensor], targets: list[Targets], image_sizes: list[ImageSize]) -> AnchorSample:
        """The anchors of this step; it does not depend on predictions."""
        all_anchors = torch.cat(anchors)
        labels = self.labeler.label(all_anchors, targets, image_sizes)
        first_rows = range(0, len(all_anchors) * len(labels), len(all_anchors))
        positives = [image.positives + first for image, first in zip(labels, first_rows, strict=True)]
        negatives = [image.negatives + first for image, first in zip(labels, first_rows, strict=True)]
        return AnchorSample(
            rows=torch.cat(positives + negatives),
            boxes=torch.cat([all_anchors[image.positives] for image in labels]),
            targets=torch.cat([truth.boxes[image.matches] for image, truth in zip(labels, targets, strict=True)]),
            num_images=len(labels),
        )

    def losses(self, predictions: SampledPredictions, sample: AnchorSample) -> TrainingOutput:
        """The weighted losses, and how many anchors of each kind an image has contributed."""
        logits = predictions.logits.float()
        is_object = torch.zeros_like(logits)
        is_object[: sample.num_positives] = 1
        deltas = predictions.deltas[: sample.num_positives].float()
        box_loss = self.box_loss(deltas, sample.boxes, sample.targets, self.coder)
        full_sample = self.anchors_per_image * sample.num_images
        positives_per_image = sample.num_positives / sample.num_images
        negatives_per_image = (len(sample.rows) - sample.num_positives) / sample.num_images
        return TrainingOutput(
            losses={
                "loss_rpn_cls": LossSum(self.objectness_loss(logits, is_object) * self.objectness_weight, full_sample),
                "loss_rpn_loc": LossSum(box_loss * self.box_weight, full_sample),
            },
            metrics={
                "rpn/num_pos_anchors": torch.full((), positives_per_image, device=logits.device),
                "rpn/num_neg_anchors": torch.full((), negatives_per_image, device=logits.device),
            },
        )


def build_rpn_supervision(cfg: CfgNode, coder: BoxCoder) -> RPNSupervision:
    """Labels and losses as `MODEL.RPN` describes them."""
    settings = cfg.MODEL.RPN
    matcher = MATCHERS.get(settings.MATCHER, key="MODEL.RPN.MATCHER")(
        settings.IOU_THRESHOLDS, settings.IOU_LABELS, allow_low_quality=settings.ALLOW_LOW_QUALITY_MATCHES
    )
    sampler = SAMPLERS.get(settings.SAMPLER, key="MODEL.RPN.SAMPLER")(
        settings.BATCH_SIZE_PER_IMAGE, positive_fraction=settings.POSITIVE_FRACTION
    )
    build_box_loss = BOX_LOSSES.get(settings.BBOX_REG_LOSS_TYPE, key="MODEL.RPN.BBOX_REG_LOSS_TYPE")
    return RPNSupervision(
        AnchorLabeler(matcher, sampler, boundary_margin=settings.BOUNDARY_THRESH),
        coder=coder,
        objectness_loss=_build_objectness_loss(cfg),
        box_loss=build_box_loss(settings.SMOOTH_L1_BETA),
        anchors_per_image=settings.BATCH_SIZE_PER_IMAGE,
        objectness_weight=settings.CLS_LOSS_WEIGHT * settings.LOSS_WEIGHT,
        box_weight=settings.BBOX_REG_LOSS_WEIGHT * settings.LOSS_WEIGHT,
    )


def _build_objectness_loss(cfg: CfgNode) -> ObjectnessLoss:
    settings = cfg.MODEL.RPN
    if settings.CLS_LOSS_TYPE == "cross_entropy":
        return binary_cross_entropy
    alpha, gamma = settings.FOCAL_LOSS_ALPHA, settings.FOCAL_LOSS_GAMMA
    if not 0 <= alpha <= 1 or gamma < 0:
        raise UserError(
            f"MODEL.RPN.FOCAL_LOSS_ALPHA = {alpha} should be in [0, 1], and MODEL.RPN.FOCAL_LOSS_GAMMA = {gamma} not "
            "negative."
        )

    def focal(logits: Tensor, is_object: Tensor) -> Tensor:
        return sigmoid_focal_loss(logits, is_object, alpha=alpha, gamma=gamma).sum()

    return focal
