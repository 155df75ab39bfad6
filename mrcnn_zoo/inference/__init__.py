"""Inference with trained detectors: predictions on images, test-time augmentation, given boxes."""

from mrcnn_zoo.inference.predicted_dataset import save_predictions
from mrcnn_zoo.inference.prediction import Prediction
from mrcnn_zoo.inference.predictor import Predictor
from mrcnn_zoo.inference.trained import load_trained
from mrcnn_zoo.inference.tta import AugmentedDetector, build_augmented_detector
from mrcnn_zoo.inference.views import AugmentedViews

__all__ = [
    "AugmentedDetector",
    "AugmentedViews",
    "Prediction",
    "Predictor",
    "build_augmented_detector",
    "load_trained",
    "save_predictions",
]
