"""Whole models: from images to losses or detections."""

from mrcnn_zoo.modeling.detectors.classifier import Classifier
from mrcnn_zoo.modeling.detectors.generalized_rcnn import GeneralizedRCNN
from mrcnn_zoo.modeling.detectors.input_output import to_original_size
from mrcnn_zoo.modeling.detectors.proposal_network import ProposalNetwork
from mrcnn_zoo.modeling.detectors.retinanet import RetinaNet

__all__ = ["Classifier", "GeneralizedRCNN", "ProposalNetwork", "RetinaNet", "to_original_size"]
