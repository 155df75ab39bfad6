"""What happens around training steps: one file a purpose; every hook is registered in HOOKS."""

from mrcnn_zoo.training.hooks import best, checkpoints, evaluation, metrics, nonfinite, pictures, precise_bn

__all__ = ["best", "checkpoints", "evaluation", "metrics", "nonfinite", "pictures", "precise_bn"]
