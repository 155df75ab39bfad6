"""torchvision: classifiers into ours, detectors in both directions."""

from mrcnn_zoo.interop.torchvision import classifiers, detectors

__all__ = ["classifiers", "detectors"]
