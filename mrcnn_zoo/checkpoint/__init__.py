"""Checkpoints: written atomically, read without running code, loaded into models."""

from mrcnn_zoo.checkpoint.checkpointer import Checkpointer, load_checkpoint
from mrcnn_zoo.checkpoint.loading import convert_detector, load_weights, load_weights_file
from mrcnn_zoo.checkpoint.report import LoadReport
from mrcnn_zoo.checkpoint.sources import WeightsFile, read_weights

__all__ = [
    "Checkpointer",
    "LoadReport",
    "WeightsFile",
    "convert_detector",
    "load_checkpoint",
    "load_weights",
    "load_weights_file",
    "read_weights",
]
