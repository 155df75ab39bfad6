"""What is done with a trained detector: test-time augmentation."""

from mrcnn_zoo.inference.tta import AugmentedDetector, build_augmented_detector
from mrcnn_zoo.inference.views import AugmentedViews

__all__ = ["AugmentedDetector", "AugmentedViews", "build_augmented_detector"]
