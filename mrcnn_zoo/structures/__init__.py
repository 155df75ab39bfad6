"""The data passed between components."""

from mrcnn_zoo.structures.instances import (
    UNKNOWN_CLASS,
    Detections,
    ImageSize,
    InstanceTable,
    LabeledRegions,
    Proposals,
    Targets,
    foreground_regions,
    is_foreground,
    mask_windows,
    object_windows,
)
from mrcnn_zoo.structures.masks import BoxedBitmaps, PredictedMasks, ProbabilityMasks, TargetMasks, crop_matched
from mrcnn_zoo.structures.outputs import LossSum, TrainingOutput, training_output
from mrcnn_zoo.structures.samples import Batch, BranchSpec, FeatureSpec, Sample

__all__ = [
    "UNKNOWN_CLASS",
    "Batch",
    "BoxedBitmaps",
    "BranchSpec",
    "Detections",
    "FeatureSpec",
    "ImageSize",
    "InstanceTable",
    "LabeledRegions",
    "LossSum",
    "PredictedMasks",
    "ProbabilityMasks",
    "Proposals",
    "Sample",
    "TargetMasks",
    "Targets",
    "TrainingOutput",
    "crop_matched",
    "foreground_regions",
    "is_foreground",
    "mask_windows",
    "object_windows",
    "training_output",
]
