"""Training targets of boxes: matching with ground truth, sampling and class labels."""

from mrcnn_zoo.modeling.assignment.matching import (
    IGNORED,
    NEGATIVE,
    POSITIVE,
    Matches,
    MaxIoUMatcher,
    RandomSampler,
    match_and_sample,
    match_one_to_one,
    matched_classes,
)
from mrcnn_zoo.modeling.assignment.region_labeler import (
    RegionLabeler,
    build_region_labeler,
    label_all,
    with_ground_truth,
)

__all__ = [
    "IGNORED",
    "NEGATIVE",
    "POSITIVE",
    "Matches",
    "MaxIoUMatcher",
    "RandomSampler",
    "RegionLabeler",
    "build_region_labeler",
    "label_all",
    "match_and_sample",
    "match_one_to_one",
    "matched_classes",
    "with_ground_truth",
]
