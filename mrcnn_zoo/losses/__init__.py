"""The formulas of losses: pure functions of predictions and labels."""

from mrcnn_zoo.losses import box_regression, classification, mask

__all__ = ["box_regression", "classification", "mask"]
