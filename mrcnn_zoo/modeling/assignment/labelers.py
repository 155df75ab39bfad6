"""Anchors and proposals as training examples: matched to ground truth, sampled, and labelled."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.modeling.assignment.matching import IGNORED, POSITIVE, sample_all
from mrcnn_zoo.modeling.contracts import Matcher, Matches, Sampler
from mrcnn_zoo.ops.anchors import is_inside
from mrcnn_zoo.ops.rows import rows_where
from mrcnn_zoo.registries import MATCHERS, SAMPLERS
from mrcnn_zoo.structures import ImageSize, LabeledRegions, Proposals, Targets


@dataclass(frozen=True)
class AnchorLabels:
    """The anchors of one image that take part in a training step, as rows of all anchors."""

    positives: Tensor  # (P,) int64
    negatives: Tensor  # (M,) int64
    matches: Tensor  # (P,) int64 rows of the targets that the positives belong to


class AnchorLabeler:
    """Chooses the anchors that a proposal generator is trained on.

    Anchors that cross the border can be left out, as the sliding window with "valid" padding has none: then each object
    has its best anchor among the others. Detectron2 matches first and ignores afterwards, and so leaves a large object,
    whose best anchors all cross, without any. At inference they stay, and their proposals are clipped.

    Source: Ren et al. 2015 (Faster R-CNN), sec. 3.1.3.

    Args:
        matcher: decides which ground truth an anchor belongs to.
        sampler: decides how many of each kind are used.
        boundary_margin: anchors that reach further outside the image than this many pixels are left out; a negative
            margin keeps all.
    """

    def __init__(self, matcher: Matcher, sampler: Sampler, *, boundary_margin: float = -1) -> None:
        self.matcher = matcher
        self.sampler = sampler
        self.boundary_margin = boundary_margin

    @torch.no_grad()
    def label(self, anchors: Tensor, targets: list[Targets], image_sizes: list[ImageSize]) -> list[AnchorLabels]:
        """The sampled anchors of each image; matched one image at a time, which keeps the overlaps of one in memory.

        Args:
            anchors: (A, 4) pixels, the same for all images.
            targets: one table an image.
            image_sizes: without padding, one an image.
        """
        if self.boundary_margin < 0:
            return self._sample([anchors] * len(targets), targets)
        inside = rows_where([is_inside(anchors, size, margin=self.boundary_margin) for size in image_sizes])
        labels = self._sample([anchors[rows] for rows in inside], targets)
        return [
            AnchorLabels(rows[image.positives], rows[image.negatives], image.matches)
            for rows, image in zip(inside, labels, strict=True)
        ]

    def _sample(self, anchors: list[Tensor], targets: list[Targets]) -> list[AnchorLabels]:
        matches = [
            self.matcher.match(*image) for image in zip(anchors, [truth.boxes for truth in targets], strict=True)
        ]
        samples = sample_all(self.sampler, [image.labels for image in matches])
        return [
            AnchorLabels(positives, negatives, image.rows[positives])
            for image, (positives, negatives) in zip(matches, samples, strict=True)
        ]


# The logit of a probability of 1 - 1e-10: ground truth among the proposals is as sure as a score can be.
GROUND_TRUTH_LOGIT = math.log((1.0 - 1e-10) / (1 - (1.0 - 1e-10)))


class RegionLabeler:
    """Chooses the regions that a head is trained on, and what each should be called.

    Args:
        matcher: decides which ground truth a proposal belongs to.
        sampler: decides how many of each kind are used.
        num_classes: K; background regions get class K.
        append_ground_truth: let the ground-truth boxes be proposals too, so that training has good boxes early.
    """

    def __init__(self, matcher: Matcher, sampler: Sampler, num_classes: int, append_ground_truth: bool) -> None:
        self.matcher = matcher
        self.sampler = sampler
        self.num_classes = num_classes
        self.append_ground_truth = append_ground_truth

    @torch.no_grad()
    def label(self, proposals: list[Proposals], targets: list[Targets]) -> list[LabeledRegions]:
        """The sampled regions of each image, foreground first and then background."""
        if self.append_ground_truth:
            proposals = [with_ground_truth(table, truth) for table, truth in zip(proposals, targets, strict=True)]
        matches = [
            self.matcher.match(table.boxes, truth.boxes) for table, truth in zip(proposals, targets, strict=True)
        ]
        samples = sample_all(self.sampler, [image.labels for image in matches])
        return [self._label_image(*image) for image in zip(proposals, targets, matches, samples, strict=True)]

    def _label_image(
        self, proposals: Proposals, targets: Targets, matches: Matches, sample: tuple[Tensor, Tensor]
    ) -> LabeledRegions:
        foreground, background = sample
        rows = torch.cat((foreground, background))
        classes = torch.full_like(rows, self.num_classes)
        classes[: len(foreground)] = targets.classes[matches.rows[foreground]]
        return LabeledRegions(
            image_size=proposals.image_size,
            boxes=proposals.boxes[rows],
            classes=classes,
            matches=matches.rows[rows],
            targets=targets,
            num_foreground=len(foreground),
        )


@torch.no_grad()
def label_all(boxes: list[Tensor], targets: list[Targets], matcher: Matcher, num_classes: int) -> list[LabeledRegions]:
    """Every box of each image with its class, none left out.

    Args:
        boxes: (R_i, 4) of each image, pixels.
        targets: of each image.
        matcher: decides which ground truth a box belongs to.
        num_classes: K, the class of the background.
    """
    return [
        _label_boxes(image_boxes, truth, matcher, num_classes)
        for image_boxes, truth in zip(boxes, targets, strict=True)
    ]


def _label_boxes(boxes: Tensor, targets: Targets, matcher: Matcher, num_classes: int) -> LabeledRegions:
    matches = matcher.match(boxes, targets.boxes)
    classes = torch.where(matches.labels == IGNORED, IGNORED, num_classes)
    if len(targets):
        classes = torch.where(matches.labels == POSITIVE, targets.classes[matches.rows], classes)
    return LabeledRegions(
        image_size=targets.image_size, boxes=boxes, classes=classes, matches=matches.rows, targets=targets
    )


def with_ground_truth(proposals: Proposals, targets: Targets) -> Proposals:
    """The proposals followed by the ground-truth boxes, which get a nearly certain objectness."""
    logits: Tensor = proposals.objectness.new_full((len(targets),), GROUND_TRUTH_LOGIT)
    return Proposals(
        image_size=proposals.image_size,
        boxes=torch.cat((proposals.boxes, targets.boxes.to(proposals.boxes.dtype))),
        objectness=torch.cat((proposals.objectness, logits)),
    )


def build_region_labeler(cfg: CfgNode) -> RegionLabeler:
    """The labeler that `MODEL.ROI_HEADS` describes."""
    heads = cfg.MODEL.ROI_HEADS
    build_matcher = MATCHERS.get(heads.MATCHER, key="MODEL.ROI_HEADS.MATCHER")
    build_sampler = SAMPLERS.get(heads.SAMPLER, key="MODEL.ROI_HEADS.SAMPLER")
    return RegionLabeler(
        build_matcher(heads.IOU_THRESHOLDS, heads.IOU_LABELS, allow_low_quality=False),
        build_sampler(heads.BATCH_SIZE_PER_IMAGE, positive_fraction=heads.POSITIVE_FRACTION),
        num_classes=heads.NUM_CLASSES,
        append_ground_truth=heads.PROPOSAL_APPEND_GT,
    )
