"""What boxes are trained as: matching with ground truth, sampling, labels, and the coding of boxes."""

from mrcnn_zoo.modeling.assignment.anchor_labeler import AnchorLabeler, AnchorLabels
from mrcnn_zoo.modeling.assignment.box_coder import build_box_coder
from mrcnn_zoo.modeling.assignment.matcher import IGNORED, NEGATIVE, POSITIVE, Matches, MaxIoUMatcher
from mrcnn_zoo.modeling.assignment.region_labeler import (
    RegionLabeler,
    build_region_labeler,
    label_all,
    with_ground_truth,
)
from mrcnn_zoo.modeling.assignment.sampler import RandomSampler

__all__ = [
    "IGNORED",
    "NEGATIVE",
    "POSITIVE",
    "AnchorLabeler",
    "AnchorLabels",
    "Matches",
    "MaxIoUMatcher",
    "RandomSampler",
    "RegionLabeler",
    "build_box_coder",
    "build_region_labeler",
    "label_all",
    "with_ground_truth",
]
