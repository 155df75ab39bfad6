"""Region proposal network.

Source: Ren et al. 2015 (Faster R-CNN), sec. 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.losses.box_regression import BoxLoss
from mrcnn_zoo.losses.classification import binary_cross_entropy
from mrcnn_zoo.modeling.anchors import build_anchor_generator
from mrcnn_zoo.modeling.assignment import AnchorLabeler
from mrcnn_zoo.modeling.contracts import AnchorGenerator, Features, RPNHead
from mrcnn_zoo.modeling.proposal_generators.selection import Candidates, ProposalSelection
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.registries import BOX_CODERS, BOX_LOSSES, MATCHERS, PROPOSAL_GENERATORS, RPN_HEADS, SAMPLERS
from mrcnn_zoo.structures import Batch, FeatureSpec, ImageSize, Proposals, Targets, TrainingOutput


@dataclass(frozen=True)
class AnchorPredictions:
    """What the head says of every anchor of N images, level by level."""

    anchors: list[Tensor]  # (A, 4) pixels
    logits: list[Tensor]  # (N, A)
    deltas: list[Tensor]  # (N, A, 4)


class RPNSupervision:
    """Labels anchors and computes the losses of a region proposal network.

    Both losses are divided by the number of anchors that a full sample has, not by the positives alone: every anchor
    weighs the same, whichever image it is from.

    Args:
        labeler: chooses and labels anchors.
        coder: the one that predictions are decoded with.
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
        box_loss: BoxLoss,
        anchors_per_image: int,
        objectness_weight: float,
        box_weight: float,
    ) -> None:
        self.labeler = labeler
        self.coder = coder
        self.box_loss = box_loss
        self.anchors_per_image = anchors_per_image
        self.objectness_weight = objectness_weight
        self.box_weight = box_weight

    def losses(
        self, predictions: AnchorPredictions, targets: list[Targets], image_sizes: list[ImageSize]
    ) -> TrainingOutput:
        """The weighted losses, and how many anchors of each kind an image has contributed."""
        anchors = torch.cat(predictions.anchors)
        labels = self.labeler.label(anchors, targets, image_sizes)
        first_rows = range(0, len(anchors) * len(labels), len(anchors))
        positives = torch.cat([image.positives + first for image, first in zip(labels, first_rows, strict=True)])
        negatives = torch.cat([image.negatives + first for image, first in zip(labels, first_rows, strict=True)])
        logits = torch.cat(predictions.logits, dim=1).flatten()[torch.cat((positives, negatives))].float()
        is_object = torch.zeros_like(logits)
        is_object[: len(positives)] = 1
        box_loss = self.box_loss(
            torch.cat(predictions.deltas, dim=1).flatten(0, 1)[positives].float(),
            torch.cat([anchors[image.positives] for image in labels]),
            torch.cat([truth.boxes[image.matches] for image, truth in zip(labels, targets, strict=True)]),
            self.coder,
        )
        normalizer = self.anchors_per_image * len(labels)
        return TrainingOutput(
            losses={
                "loss_rpn_cls": binary_cross_entropy(logits, is_object) * (self.objectness_weight / normalizer),
                "loss_rpn_loc": box_loss * (self.box_weight / normalizer),
            },
            metrics={
                "rpn/num_pos_anchors": torch.tensor(len(positives) / len(labels), device=logits.device),
                "rpn/num_neg_anchors": torch.tensor(len(negatives) / len(labels), device=logits.device),
            },
        )


class RPN(nn.Module):
    """Scores and moves anchors, and keeps the best as proposals.

    Args:
        head: predicts on feature maps.
        in_features: names of the maps, from fine to coarse.
        anchors: makes the anchors of these maps.
        coder: turns deltas into boxes.
        training_selection: makes the proposals that the next stage is trained on.
        test_selection: makes the proposals at inference.
        supervision: labels anchors and computes the losses.
    """

    def __init__(
        self,
        head: RPNHead,
        *,
        in_features: list[str],
        anchors: AnchorGenerator,
        coder: BoxCoder,
        training_selection: ProposalSelection,
        test_selection: ProposalSelection,
        supervision: RPNSupervision,
    ) -> None:
        super().__init__()
        self.rpn_head = head
        self.in_features = in_features
        self.anchor_generator = anchors
        self.coder = coder
        self.training_selection = training_selection
        self.test_selection = test_selection
        self.supervision = supervision

    def forward(self, features: Features) -> AnchorPredictions:
        """Predictions on every anchor, in the order of the anchors."""
        levels = [features[name] for name in self.in_features]
        logits, deltas = self.rpn_head(levels)
        return AnchorPredictions(
            anchors=self.anchor_generator(levels),
            logits=[level.permute(0, 2, 3, 1).flatten(1) for level in logits],
            deltas=[level.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)) for level in deltas],
        )

    def losses(self, features: Features, batch: Batch) -> tuple[list[Proposals], TrainingOutput]:
        """The proposals to train the next stage on, without gradient, and the losses of objectness and boxes.

        Raises:
            FloatingPointError: a prediction is NaN or infinite.
        """
        assert batch.targets is not None
        predictions = self(features)
        candidates = self._candidates(predictions, self.training_selection)
        _check_finite(candidates)
        proposals = self.training_selection.suppress(candidates, batch.image_sizes)
        return proposals, self.supervision.losses(predictions, batch.targets, batch.image_sizes)

    def predict(self, features: Features, batch: Batch) -> list[Proposals]:
        """The proposals of each image, best first."""
        candidates = self._candidates(self(features), self.test_selection)
        return self.test_selection.suppress(candidates, batch.image_sizes)

    def _candidates(self, predictions: AnchorPredictions, selection: ProposalSelection) -> Candidates:
        return selection.candidates(predictions.logits, predictions.deltas, predictions.anchors, self.coder)


def _check_finite(candidates: Candidates) -> None:
    # The best candidates are enough to look at: top-k puts NaN and infinity first.
    if not candidates.is_finite().all():
        raise FloatingPointError(
            "the RPN (proposal_generator.rpn_head) predicts NaN or infinity: training has diverged. A lower "
            "SOLVER.BASE_LR, a longer warm-up or SOLVER.CLIP_GRADIENTS usually helps."
        )


@PROPOSAL_GENERATORS.register("RPN")
def build_rpn(cfg: CfgNode, feature_specs: Mapping[str, FeatureSpec]) -> RPN:
    """The region proposal network of `MODEL.RPN` on maps of a backbone."""
    settings = cfg.MODEL.RPN
    in_features = list(settings.IN_FEATURES)
    missing = [name for name in in_features if name not in feature_specs]
    if missing or not in_features:
        raise UserError(
            f"MODEL.RPN.IN_FEATURES = {in_features} should name maps of the backbone: {', '.join(feature_specs)}."
        )
    specs = [feature_specs[name] for name in in_features]
    anchors = build_anchor_generator(cfg, [spec.stride for spec in specs])
    if len(set(anchors.anchors_per_cell)) > 1 or len({spec.channels for spec in specs}) > 1:
        raise UserError(
            f"one RPN head serves all levels, so they need equal channels and numbers of anchors; {in_features} have "
            f"{[spec.channels for spec in specs]} channels and {anchors.anchors_per_cell} anchors a cell "
            "(MODEL.ANCHOR_GENERATOR.SIZES times ASPECT_RATIOS)."
        )
    coder = BOX_CODERS.get(settings.BOX_CODER, key="MODEL.RPN.BOX_CODER")(settings.BBOX_REG_WEIGHTS)
    return RPN(
        RPN_HEADS.get(settings.HEAD_NAME)(cfg, specs[0].channels, anchors.anchors_per_cell[0]),
        in_features=in_features,
        anchors=anchors,
        coder=coder,
        training_selection=_build_selection(cfg, settings.PRE_NMS_TOPK_TRAIN, settings.POST_NMS_TOPK_TRAIN),
        test_selection=_build_selection(cfg, settings.PRE_NMS_TOPK_TEST, settings.POST_NMS_TOPK_TEST),
        supervision=build_rpn_supervision(cfg, coder),
    )


def build_rpn_supervision(cfg: CfgNode, coder: BoxCoder) -> RPNSupervision:
    """Labels and losses as `MODEL.RPN` describes them."""
    settings = cfg.MODEL.RPN
    matcher = MATCHERS.get(settings.MATCHER, key="MODEL.RPN.MATCHER")(
        settings.IOU_THRESHOLDS, settings.IOU_LABELS, allow_low_quality=True
    )
    sampler = SAMPLERS.get(settings.SAMPLER, key="MODEL.RPN.SAMPLER")(
        settings.BATCH_SIZE_PER_IMAGE, positive_fraction=settings.POSITIVE_FRACTION
    )
    build_box_loss = BOX_LOSSES.get(settings.BBOX_REG_LOSS_TYPE, key="MODEL.RPN.BBOX_REG_LOSS_TYPE")
    return RPNSupervision(
        AnchorLabeler(matcher, sampler, boundary_margin=settings.BOUNDARY_THRESH),
        coder=coder,
        box_loss=build_box_loss(settings.SMOOTH_L1_BETA),
        anchors_per_image=settings.BATCH_SIZE_PER_IMAGE,
        objectness_weight=settings.LOSS_WEIGHT,
        box_weight=settings.BBOX_REG_LOSS_WEIGHT * settings.LOSS_WEIGHT,
    )


def _build_selection(cfg: CfgNode, pre_nms_topk: int, post_nms_topk: int) -> ProposalSelection:
    return ProposalSelection(
        pre_nms_topk=pre_nms_topk,
        post_nms_topk=post_nms_topk,
        iou_threshold=cfg.MODEL.RPN.NMS_THRESH,
        min_size=cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
    )
