"""MMDetection: its weights, and its configs as our settings."""

from mrcnn_zoo.interop.mmdetection import weights

__all__ = ["weights"]
