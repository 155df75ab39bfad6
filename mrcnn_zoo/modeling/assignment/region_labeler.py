"""Proposals become training regions: matched to ground truth, sampled, and given a class."""

import math

import torch
from torch import Tensor

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.modeling.assignment.matcher import IGNORED, POSITIVE
from mrcnn_zoo.modeling.assignment.sampler import sample_all
from mrcnn_zoo.modeling.contracts import Matcher, Matches, Sampler
from mrcnn_zoo.registries import MATCHERS, SAMPLERS
from mrcnn_zoo.structures import LabeledRegions, Proposals, Targets

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
