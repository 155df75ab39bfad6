"""The data that the components hand to each other."""

from mrcnn_zoo.structures.features import FeatureSpec
from mrcnn_zoo.structures.instances import (
    Detections,
    ImageSize,
    InstanceTable,
    LabeledRegions,
    Proposals,
    Targets,
)
from mrcnn_zoo.structures.masks import PredictedMasks, TargetMasks
from mrcnn_zoo.structures.outputs import TrainingOutput
from mrcnn_zoo.structures.samples import Batch, Sample

__all__ = [
    "Batch",
    "Detections",
    "FeatureSpec",
    "ImageSize",
    "InstanceTable",
    "LabeledRegions",
    "PredictedMasks",
    "Proposals",
    "Sample",
    "TargetMasks",
    "Targets",
    "TrainingOutput",
]
