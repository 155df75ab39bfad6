"""Proposals as training examples: matched with ground truth, sampled and labelled with classes."""

import math

import torch
from torch import Tensor

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.modeling.assignment.matching import match_and_sample, matched_classes
from mrcnn_zoo.modeling.contracts import Matcher, Sampler
from mrcnn_zoo.registries import MATCHERS, SAMPLERS
from mrcnn_zoo.structures import LabeledRegions, Proposals, Targets

# The logit of a probability of 1 - 1e-10: the objectness of ground-truth boxes among proposals.
GROUND_TRUTH_LOGIT = math.log((1.0 - 1e-10) / (1 - (1.0 - 1e-10)))


class RegionLabeler:
    """Samples and labels the regions that region heads are trained on.

    Args:
        matcher: assigns ground truth and a label to each proposal.
        sampler: samples foreground and background of each image.
        num_classes: K; background regions get class K.
        append_ground_truth: whether ground-truth boxes are added to the proposals, for good boxes early in training.
    """

    def __init__(self, matcher: Matcher, sampler: Sampler, num_classes: int, append_ground_truth: bool) -> None:
        self.matcher = matcher
        self.sampler = sampler
        self.num_classes = num_classes
        self.append_ground_truth = append_ground_truth

    @torch.no_grad()
    def label(self, proposals: list[Proposals], targets: list[Targets]) -> list[LabeledRegions]:
        """The sampled regions of each image, foreground first.

        Args:
            proposals: of each image.
            targets: of each image.
        """
        if self.append_ground_truth:
            proposals = [with_ground_truth(table, truth) for table, truth in zip(proposals, targets, strict=True)]
        boxes, truth = [table.boxes for table in proposals], [table.boxes for table in targets]
        samples = match_and_sample(self.matcher, self.sampler, boxes, truth)
        regions = []
        for table, image_targets, (matches, foreground, background) in zip(proposals, targets, samples, strict=True):
            rows = torch.cat((foreground, background))
            regions.append(
                LabeledRegions(
                    image_size=table.image_size,
                    boxes=table.boxes[rows],
                    classes=matched_classes(matches, image_targets.classes, self.num_classes)[rows],
                    matches=matches.rows[rows],
                    targets=image_targets,
                    num_foreground=len(foreground),
                )
            )
        return regions


@torch.no_grad()
def label_all(boxes: list[Tensor], targets: list[Targets], matcher: Matcher, num_classes: int) -> list[LabeledRegions]:
    """Label every box of each image, without sampling.

    Args:
        boxes: (R_i, 4) of each image, pixels.
        targets: of each image.
        matcher: assigns ground truth and a label to each box.
        num_classes: K, the class of the background.
    """
    regions = []
    for image_boxes, truth in zip(boxes, targets, strict=True):
        matches = matcher.match(image_boxes, truth.boxes)
        classes = matched_classes(matches, truth.classes, num_classes)
        regions.append(LabeledRegions(truth.image_size, image_boxes, classes, matches=matches.rows, targets=truth))
    return regions


def with_ground_truth(proposals: Proposals, targets: Targets) -> Proposals:
    """The proposals followed by the ground-truth boxes with a nearly certain objectness.

    Args:
        proposals: of one image.
        targets: of the same image.
    """
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
