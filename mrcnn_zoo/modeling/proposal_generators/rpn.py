"""Region proposal network.

Source: Ren et al. 2015 (Faster R-CNN), sec. 3.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.losses.box_regression import BoxLoss
from mrcnn_zoo.losses.classification import binary_cross_entropy, sigmoid_focal_loss
from mrcnn_zoo.modeling.anchors import build_anchored_levels
from mrcnn_zoo.modeling.assignment import AnchorLabeler
from mrcnn_zoo.modeling.contracts import AnchorGenerator, Features, RPNHead
from mrcnn_zoo.modeling.proposal_generators.rpn_head import (
    WINDOW_SIDE,
    AnchorPredictions,
    SampledPredictions,
    has_plain_window,
    predict_all,
    predict_at,
)
from mrcnn_zoo.modeling.proposal_generators.selection import RANKINGS, Candidates, JointSelection, ProposalSelection
from mrcnn_zoo.modeling.recording import Fate, Recorder, Selected, report_selection
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.ops.rows import image_numbers
from mrcnn_zoo.registries import BOX_CODERS, BOX_LOSSES, MATCHERS, PROPOSAL_GENERATORS, RPN_HEADS, SAMPLERS
from mrcnn_zoo.structures import Batch, FeatureSpec, ImageSize, LossSum, Proposals, Targets, TrainingOutput

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


Selection = ProposalSelection | JointSelection


class RPN(nn.Module):
    """Scores and moves anchors, and keeps the best as proposals.

    Args:
        head: predicts on feature maps.
        in_features: names of the maps, from fine to coarse.
        anchors: makes the anchors of these maps, equally many a cell on all of them.
        coder: turns deltas into boxes.
        training_selection: makes the proposals that the next stage is trained on.
        test_selection: makes the proposals at inference.
        supervision: samples anchors and computes the losses.
    """

    needs_targets = False

    def __init__(
        self,
        head: RPNHead,
        *,
        in_features: list[str],
        anchors: AnchorGenerator,
        coder: BoxCoder,
        training_selection: Selection,
        test_selection: Selection,
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
        return predict_all(self.rpn_head, levels, self.anchor_generator(levels))

    def losses(self, features: Features, batch: Batch) -> tuple[list[Proposals], TrainingOutput]:
        """The proposals to train the next stage on, without gradient, and the losses of objectness and boxes."""
        levels = [features[name] for name in self.in_features]
        sample = self.supervision.sample(self.anchor_generator(levels), batch.require_targets(), batch.image_sizes)
        sampled, predictions = self._predict_for_training(features, sample.rows)
        candidates = self._candidates(predictions, self.training_selection)
        # Candidates that are not finite are left out here; the losses below show the same to the trainer.
        proposals = self.training_selection.suppress(candidates, batch.image_sizes)
        return proposals, self.supervision.losses(sampled, sample)

    def predict(self, features: Features, batch: Batch, *, recorder: Recorder | None = None) -> list[Proposals]:
        """The proposals of each image, best first; a recorder gets a report of the stage "proposals"."""
        predictions = self(features)
        candidates = self._candidates(predictions, self.test_selection)
        report = None if recorder is None else partial(self._report, recorder, predictions, candidates, batch)
        return self.test_selection.suppress(candidates, batch.image_sizes, report)

    def _report(
        self,
        recorder: Recorder,
        predictions: AnchorPredictions,
        candidates: Candidates,
        batch: Batch,
        selected: list[Selected],
    ) -> None:
        anchors, logits, deltas = predictions.joined()
        sizes = [len(level) for level in predictions.anchors]
        # Where levels compete, the candidates are of one level, which has the anchors of all.
        firsts = [0] if len(candidates.rows) == 1 else list(itertools.accumulate([0, *sizes[:-1]]))
        for image, image_size in enumerate(batch.image_sizes):
            boxes = self.coder.decode(deltas[image], anchors)
            rows = torch.cat([level[image] + first for level, first in zip(candidates.rows, firsts, strict=True)])
            is_finite = boxes.isfinite().all(dim=1) & logits[image].isfinite()
            boxes = box_ops.clip(boxes, image_size)
            reasons = torch.full(boxes.shape[:1], int(Fate.NOT_IN_TOP_K), dtype=torch.int8, device=boxes.device)
            reasons[rows] = int(Fate.TOO_SMALL)
            reasons[~is_finite] = int(Fate.NOT_FINITE)
            report_selection(
                recorder,
                stage="proposals",
                image=image,
                image_size=image_size,
                boxes=boxes,
                scores=logits[image].float(),
                classes=image_numbers(sizes, boxes.device),
                sources=torch.arange(len(boxes), device=boxes.device),
                reasons=reasons,
                selected=replace(selected[image], rows=rows[selected[image].rows]),
            )

    def _predict_for_training(self, features: Features, rows: Tensor) -> tuple[SampledPredictions, AnchorPredictions]:
        """Predictions on the sampled anchors, which have a gradient, and on all, which may have none."""
        levels = [features[name] for name in self.in_features]
        num_cells = sum(level.shape[0] * level.shape[-2] * level.shape[-1] for level in levels)
        is_local = levels[0].device.type == "cpu" and has_plain_window(self.rpn_head)
        if not is_local or len(rows) * WINDOW_SIDE**2 > num_cells:
            predictions = self(features)
            return predictions.at(rows), predictions
        # With gradient first: under autocast, weights cast without gradient would be remembered and used again.
        sampled = predict_at(self.rpn_head, levels, self.anchor_generator.anchors_per_cell[0], rows)
        with torch.no_grad():
            return sampled, self(features)

    def _candidates(self, predictions: AnchorPredictions, selection: Selection) -> Candidates:
        return selection.candidates(predictions.logits, predictions.deltas, predictions.anchors, self.coder)


@PROPOSAL_GENERATORS.register("RPN")
def build_rpn(cfg: CfgNode, feature_specs: Mapping[str, FeatureSpec]) -> RPN:
    """The region proposal network of `MODEL.RPN` on maps of a backbone."""
    settings = cfg.MODEL.RPN
    levels = build_anchored_levels(cfg, "RPN", feature_specs)
    coder = BOX_CODERS.get(settings.BOX_CODER, key="MODEL.RPN.BOX_CODER")(settings.BBOX_REG_WEIGHTS)
    return RPN(
        RPN_HEADS.get(settings.HEAD_NAME)(cfg, levels.channels, levels.anchors_per_cell),
        in_features=levels.names,
        anchors=levels.anchors,
        coder=coder,
        training_selection=_build_selection(cfg, settings.PRE_NMS_TOPK_TRAIN, settings.POST_NMS_TOPK_TRAIN),
        test_selection=_build_selection(cfg, settings.PRE_NMS_TOPK_TEST, settings.POST_NMS_TOPK_TEST),
        supervision=build_rpn_supervision(cfg, coder),
    )


def _build_selection(cfg: CfgNode, pre_nms_topk: int, post_nms_topk: int) -> Selection:
    selection = ProposalSelection(
        pre_nms_topk=pre_nms_topk,
        post_nms_topk=post_nms_topk,
        iou_threshold=cfg.MODEL.RPN.NMS_THRESH,
        min_size=cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
        ranking=RANKINGS[cfg.MODEL.RPN.RANK_BY],
    )
    return JointSelection(selection) if cfg.MODEL.RPN.ACROSS_LEVELS else selection
