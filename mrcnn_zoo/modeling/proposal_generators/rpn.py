"""Region proposal network.

Source: Ren et al. 2015 (Faster R-CNN), sec. 3.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode, choice_of
from mrcnn_zoo.losses.box_regression import BoxLoss
from mrcnn_zoo.losses.classification import binary_cross_entropy, sigmoid_focal_loss
from mrcnn_zoo.modeling.anchors import build_anchored_levels
from mrcnn_zoo.modeling.assignment import IGNORED, Matches, match_and_sample
from mrcnn_zoo.modeling.contracts import AnchorGenerator, Features, Matcher, RPNHead, Sampler
from mrcnn_zoo.modeling.proposal_generators.rpn_patches import can_use_patches, predict_on_patches
from mrcnn_zoo.modeling.proposal_generators.selection import RANKINGS, ProposalSelection
from mrcnn_zoo.modeling.recording import Recorder
from mrcnn_zoo.ops.anchors import flatten_per_anchor, is_inside
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.ops.rows import rows_where
from mrcnn_zoo.registries import BOX_CODERS, BOX_LOSSES, MATCHERS, PROPOSAL_GENERATORS, RPN_HEADS, SAMPLERS
from mrcnn_zoo.structures import Batch, FeatureSpec, ImageSize, LossSum, Proposals, Targets, TrainingOutput

ObjectnessLoss = Callable[[Tensor, Tensor], Tensor]  # (M,) logits, (M,) 0 or 1 -> scalar sum


@dataclass(frozen=True)
class AnchorSample:
    """Anchors of N images that contribute to the losses of a step, positives first.

    Rows count through the images, in each through the levels, in each through rows, columns and the anchors of a cell.
    """

    rows: Tensor  # (M,) int64 in [0, N * A)
    positive_anchors: Tensor  # (P, 4) pixels
    positive_targets: Tensor  # (P, 4) pixels, the ground truth of each positive

    @property
    def num_positives(self) -> int:
        """P."""
        return len(self.positive_anchors)


class AnchorLabeler:
    """Matches anchors with ground truth and samples those that contribute to the losses.

    Anchors that cross the border can be left out before matching, as with "valid" padding: then each object has its
    best anchor among the others. Detectron2 matches first and ignores them afterwards, so a large object with best
    anchors across the border has none. At inference all anchors are used, and their proposals are clipped.

    Source: Ren et al. 2015 (Faster R-CNN), sec. 3.1.3.

    Args:
        matcher: assigns ground truth and a label to each anchor.
        sampler: samples positives and negatives of each image.
        boundary_margin: anchors that extend outside the image by more pixels are left out; a negative margin keeps all.
    """

    def __init__(self, matcher: Matcher, sampler: Sampler, *, boundary_margin: float = -1) -> None:
        self.matcher = matcher
        self.sampler = sampler
        self.boundary_margin = boundary_margin

    @torch.no_grad()
    def sample(self, anchors: Tensor, targets: Sequence[Targets], image_sizes: Sequence[ImageSize]) -> AnchorSample:
        """Sample the anchors of a training step.

        Args:
            anchors: (A, 4) pixels, the same for all images.
            targets: of each image.
            image_sizes: (height, width) of each image, without padding.
        """
        inside = self._rows_inside(anchors, image_sizes)
        candidates = [anchors] * len(targets) if inside is None else [anchors[rows] for rows in inside]
        samples = match_and_sample(self.matcher, self.sampler, candidates, [truth.boxes for truth in targets])
        positive_rows, negative_rows, positive_anchors, positive_targets = [], [], [], []
        for image, (matches, positives, negatives) in enumerate(samples):
            positive_anchors.append(candidates[image][positives])
            positive_targets.append(targets[image].boxes[matches.rows[positives]])
            if inside is not None:
                positives, negatives = inside[image][positives], inside[image][negatives]
            positive_rows.append(positives + image * len(anchors))
            negative_rows.append(negatives + image * len(anchors))
        return AnchorSample(
            rows=torch.cat(positive_rows + negative_rows),
            positive_anchors=torch.cat(positive_anchors),
            positive_targets=torch.cat(positive_targets),
        )

    @torch.no_grad()
    def label(self, anchors: Tensor, targets: Targets, image_size: ImageSize) -> tuple[Matches, Tensor]:
        """Label all anchors of one image as `sample` does, for inspection.

        Args:
            anchors: (A, 4) pixels.
            targets: of the image.
            image_size: (height, width) of the image, without padding.

        Returns:
            The matches of all anchors, and (A,) bool: whether each is left out; these have the label -1 and row 0.
        """
        inside = self._rows_inside(anchors, [image_size])
        if inside is None:
            return self.matcher.match(anchors, targets.boxes), torch.zeros_like(anchors[:, 0], dtype=torch.bool)
        matches = self.matcher.match(anchors[inside[0]], targets.boxes)
        rows = matches.rows.new_zeros(len(anchors)).index_copy(0, inside[0], matches.rows)
        labels = matches.labels.new_full((len(anchors),), IGNORED).index_copy(0, inside[0], matches.labels)
        is_left_out = torch.ones_like(labels, dtype=torch.bool).index_fill(0, inside[0], False)
        return Matches(rows, labels), is_left_out

    def _rows_inside(self, anchors: Tensor, image_sizes: Sequence[ImageSize]) -> list[Tensor] | None:
        """The rows of the anchors of each image that are matched; None for all."""
        if self.boundary_margin < 0:
            return None
        return rows_where([is_inside(anchors, size, margin=self.boundary_margin) for size in image_sizes])


class RPN(nn.Module):
    """Scores and moves anchors, and keeps the best as proposals.

    Both losses are divided by the number of anchors in a full sample, not by the positives: every anchor has the same
    weight, whichever image it is from.

    Args:
        head: predicts logits and deltas on feature maps.
        in_features: names of the maps, from fine to coarse.
        anchors: makes the anchors of these maps, the same number per cell on each.
        labeler: samples the anchors of a training step.
        coder: converts between boxes and deltas.
        box_loss: compares predicted with ground-truth boxes of the positives.
        training_selection: selects the proposals that the next stage is trained on.
        test_selection: selects the proposals at inference.
        objectness_loss: compares logits with 1 (object) and 0 (background); a sum.
        anchors_per_image: size of a full sample.
        loss_weights: factors of `loss_rpn_cls` and `loss_rpn_loc`.
    """

    needs_targets = False

    def __init__(
        self,
        head: RPNHead,
        *,
        in_features: Sequence[str],
        anchors: AnchorGenerator,
        labeler: AnchorLabeler,
        coder: BoxCoder,
        box_loss: BoxLoss,
        training_selection: ProposalSelection,
        test_selection: ProposalSelection,
        objectness_loss: ObjectnessLoss = binary_cross_entropy,
        anchors_per_image: int = 256,
        loss_weights: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__()
        self.rpn_head = head
        self.in_features = tuple(in_features)
        self.anchor_generator = anchors
        self.labeler = labeler
        self.coder = coder
        self.box_loss = box_loss
        self.training_selection = training_selection
        self.test_selection = test_selection
        self.objectness_loss = objectness_loss
        self.anchors_per_image = anchors_per_image
        self.objectness_weight, self.box_weight = loss_weights

    def forward(self, features: Features) -> tuple[list[Tensor], list[Tensor]]:
        """Predictions on every anchor, in the order of the anchors.

        Args:
            features: maps of the backbone by name.

        Returns:
            For each level (N, A) logits and (N, A, 4) deltas.
        """
        logits, deltas = self.rpn_head(self._levels(features))
        return (
            [flatten_per_anchor(level, 1).squeeze(-1) for level in logits],
            [flatten_per_anchor(level, 4) for level in deltas],
        )

    def losses(self, features: Features, batch: Batch) -> tuple[list[Proposals], TrainingOutput]:
        """The proposals to train the next stage on, without gradient, and the losses of objectness and boxes.

        Args:
            features: maps of the backbone by name.
            batch: with targets.
        """
        levels = self._levels(features)
        anchors = self.anchor_generator(levels)
        sample = self.labeler.sample(torch.cat(anchors), batch.require_targets(), batch.image_sizes)
        if can_use_patches(self.rpn_head, levels, len(sample.rows)):
            # With gradient first: autocast caches weights, and would reuse those cast without gradient.
            anchors_per_cell = self.anchor_generator.anchors_per_cell[0]
            sampled = predict_on_patches(self.rpn_head, levels, anchors_per_cell, sample.rows)
            with torch.no_grad():
                logits, deltas = self(features)
        else:
            logits, deltas = self(features)
            sampled = (
                torch.cat(logits, dim=1).flatten()[sample.rows],
                torch.cat(deltas, dim=1).flatten(0, 1)[sample.rows],
            )
        # Proposals that are not finite are left out here; the losses then are not finite either, which stops training.
        proposals = self.training_selection.select(logits, deltas, anchors, batch.image_sizes)
        return proposals, self.sampled_losses(*sampled, sample, num_images=len(batch.image_sizes))

    def sampled_losses(
        self, logits: Tensor, deltas: Tensor, sample: AnchorSample, *, num_images: int
    ) -> TrainingOutput:
        """The weighted losses, and the number of sampled anchors of each kind per image.

        Args:
            logits: (M,) of the sampled anchors.
            deltas: (M, 4) of the sampled anchors.
            sample: M anchors.
            num_images: N.
        """
        num_positives, num_negatives = sample.num_positives, len(sample.rows) - sample.num_positives
        logits = logits.float()
        is_object = torch.zeros_like(logits)
        is_object[:num_positives] = 1
        positive_deltas = deltas[:num_positives].float()
        box_loss = self.box_loss(positive_deltas, sample.positive_anchors, sample.positive_targets, self.coder)
        full_sample = self.anchors_per_image * num_images
        return TrainingOutput(
            losses={
                "loss_rpn_cls": LossSum(self.objectness_loss(logits, is_object) * self.objectness_weight, full_sample),
                "loss_rpn_loc": LossSum(box_loss * self.box_weight, full_sample),
            },
            metrics={
                "rpn/num_pos_anchors": torch.full((), num_positives / num_images, device=logits.device),
                "rpn/num_neg_anchors": torch.full((), num_negatives / num_images, device=logits.device),
            },
        )

    def predict(self, features: Features, batch: Batch, *, recorder: Recorder | None = None) -> list[Proposals]:
        """The proposals of each image, best first.

        Args:
            features: maps of the backbone by name.
            batch: the images.
            recorder: gets a report of the stage "proposals".
        """
        logits, deltas = self(features)
        anchors = self.anchor_generator(self._levels(features))
        return self.test_selection.select(logits, deltas, anchors, batch.image_sizes, recorder=recorder)

    def _levels(self, features: Features) -> list[Tensor]:
        return [features[name] for name in self.in_features]


@PROPOSAL_GENERATORS.register("RPN")
def build_rpn(cfg: CfgNode, feature_specs: Mapping[str, FeatureSpec]) -> RPN:
    """The region proposal network of `MODEL.RPN`.

    Args:
        cfg: the whole config.
        feature_specs: maps of the backbone by name.

    Raises:
        UserError: IN_FEATURES that the backbone does not have, or that differ in channels or anchors per cell.
    """
    settings = cfg.MODEL.RPN
    levels = build_anchored_levels(cfg, "RPN", feature_specs)
    coder = BOX_CODERS.get(settings.BOX_CODER, key="MODEL.RPN.BOX_CODER")(settings.BBOX_REG_WEIGHTS)
    build_box_loss = BOX_LOSSES.get(settings.BBOX_REG_LOSS_TYPE, key="MODEL.RPN.BBOX_REG_LOSS_TYPE")
    return RPN(
        RPN_HEADS.get(settings.HEAD_NAME)(cfg, levels.channels, levels.anchors_per_cell),
        in_features=levels.names,
        anchors=levels.anchors,
        labeler=_build_labeler(cfg),
        coder=coder,
        box_loss=build_box_loss(settings.SMOOTH_L1_BETA),
        training_selection=_build_selection(cfg, coder, settings.PRE_NMS_TOPK_TRAIN, settings.POST_NMS_TOPK_TRAIN),
        test_selection=_build_selection(cfg, coder, settings.PRE_NMS_TOPK_TEST, settings.POST_NMS_TOPK_TEST),
        objectness_loss=_build_objectness_loss(cfg),
        anchors_per_image=settings.BATCH_SIZE_PER_IMAGE,
        loss_weights=(
            settings.CLS_LOSS_WEIGHT * settings.LOSS_WEIGHT,
            settings.BBOX_REG_LOSS_WEIGHT * settings.LOSS_WEIGHT,
        ),
    )


def _build_labeler(cfg: CfgNode) -> AnchorLabeler:
    settings = cfg.MODEL.RPN
    matcher = MATCHERS.get(settings.MATCHER, key="MODEL.RPN.MATCHER")(
        settings.IOU_THRESHOLDS, settings.IOU_LABELS, allow_low_quality=settings.ALLOW_LOW_QUALITY_MATCHES
    )
    sampler = SAMPLERS.get(settings.SAMPLER, key="MODEL.RPN.SAMPLER")(
        settings.BATCH_SIZE_PER_IMAGE, positive_fraction=settings.POSITIVE_FRACTION
    )
    return AnchorLabeler(matcher, sampler, boundary_margin=settings.BOUNDARY_THRESH)


def _build_objectness_loss(cfg: CfgNode) -> ObjectnessLoss:
    alpha, gamma = cfg.MODEL.RPN.FOCAL_LOSS_ALPHA, cfg.MODEL.RPN.FOCAL_LOSS_GAMMA
    losses: dict[str, ObjectnessLoss] = {
        "cross_entropy": binary_cross_entropy,
        "focal": lambda logits, is_object: sigmoid_focal_loss(logits, is_object, alpha=alpha, gamma=gamma).sum(),
    }
    return choice_of(cfg, "MODEL.RPN.CLS_LOSS_TYPE", losses)


def _build_selection(cfg: CfgNode, coder: BoxCoder, pre_nms_topk: int, post_nms_topk: int) -> ProposalSelection:
    return ProposalSelection(
        coder,
        pre_nms_topk=pre_nms_topk,
        post_nms_topk=post_nms_topk,
        iou_threshold=cfg.MODEL.RPN.NMS_THRESH,
        min_size=cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
        joins_levels=cfg.MODEL.RPN.ACROSS_LEVELS,
        rank=choice_of(cfg, "MODEL.RPN.RANK_BY", RANKINGS),
    )
