"""The sampled regions that show an object."""

import torch
from torch import Tensor

from mrcnn_zoo.structures import LabeledRegions


def is_foreground(classes: Tensor, num_classes: int) -> Tensor:
    """Whether each region's class is an object's, neither background nor ignored: (R,) int64 -> (R,) bool."""
    return (classes >= 0) & (classes < num_classes)


def foreground_only(regions: list[LabeledRegions], num_classes: int) -> list[LabeledRegions]:
    """The foreground of each image. Only there may `matches` be followed: an image may have no ground truth at all."""
    return [table[is_foreground(table.classes, num_classes)] for table in regions]


def matched_boxes(foreground: list[LabeledRegions]) -> Tensor:
    """The ground-truth boxes of foreground regions, image after image: (sum of R_i, 4) pixels."""
    return torch.cat([table.targets.boxes[table.matches] for table in foreground])
