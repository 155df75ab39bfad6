"""What boxes are trained as: matching with ground truth, sampling, labels, and the coding of boxes."""

from mrcnn_zoo.modeling.assignment.labelers import (
    AnchorLabeler,
    AnchorLabels,
    RegionLabeler,
    build_region_labeler,
    label_all,
    with_ground_truth,
)
from mrcnn_zoo.modeling.assignment.matching import IGNORED, NEGATIVE, POSITIVE, Matches, MaxIoUMatcher, RandomSampler
from mrcnn_zoo.ops.box_coding import build_box_coder

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
