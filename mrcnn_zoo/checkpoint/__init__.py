"""Checkpoints: written whole, read safely, fitted to models."""

from mrcnn_zoo.checkpoint.checkpointer import Checkpointer, load_checkpoint
from mrcnn_zoo.checkpoint.merge import load_weights
from mrcnn_zoo.checkpoint.report import LoadReport
from mrcnn_zoo.checkpoint.sources import read_weights

__all__ = ["Checkpointer", "LoadReport", "load_checkpoint", "load_weights", "read_weights"]
