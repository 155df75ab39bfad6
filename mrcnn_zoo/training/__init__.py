"""Training: a config in, trained weights and their results out."""

from mrcnn_zoo.training.hooks.nonfinite import replay_batch
from mrcnn_zoo.training.run import run
from mrcnn_zoo.training.stages import FinishedStage, Stage

__all__ = ["FinishedStage", "Stage", "replay_batch", "run"]
