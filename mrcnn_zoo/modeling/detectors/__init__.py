"""Whole models: from images to losses or detections."""

from mrcnn_zoo.modeling.detectors.generalized_rcnn import GeneralizedRCNN
from mrcnn_zoo.modeling.detectors.postprocessing import to_original_size

__all__ = ["GeneralizedRCNN", "to_original_size"]
