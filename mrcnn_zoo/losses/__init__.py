"""Loss functions: pure functions of predictions and targets."""

from mrcnn_zoo.losses import box_regression, classification, mask

__all__ = ["box_regression", "classification", "mask"]
