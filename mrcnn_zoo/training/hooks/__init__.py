"""Hooks around training steps, registered in HOOKS; one file per purpose."""

from mrcnn_zoo.training.hooks import best, checkpoints, evaluation, metrics, nonfinite, pictures, precise_bn

__all__ = ["best", "checkpoints", "evaluation", "metrics", "nonfinite", "pictures", "precise_bn"]
