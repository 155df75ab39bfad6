"""torchvision: classifiers and detectors, both directions."""

from mrcnn_zoo.interop.torchvision import classifiers, detectors

__all__ = ["classifiers", "detectors"]
