"""Training: a config in, trained weights and their results out."""

from mrcnn_zoo.training.replay import replay_batch
from mrcnn_zoo.training.run import run

__all__ = ["replay_batch", "run"]
