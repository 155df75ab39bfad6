"""The sampled regions that show an object."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mrcnn_zoo.ops.rows import rows_of_all, rows_where
from mrcnn_zoo.structures import LabeledRegions


def is_foreground(classes: Tensor, num_classes: int) -> Tensor:
    """Whether each region's class is an object's, neither background nor ignored: (R,) int64 -> (R,) bool."""
    return (classes >= 0) & (classes < num_classes)


def foreground_only(regions: Sequence[LabeledRegions], num_classes: int) -> list[LabeledRegions]:
    """The foreground of each image. Only there may `matches` be followed: an image may have no ground truth at all."""
    return foreground_and_rows(regions, num_classes)[0]


def foreground_and_rows(regions: Sequence[LabeledRegions], num_classes: int) -> tuple[list[LabeledRegions], Tensor]:
    """The foreground of each image, and its rows counted through the regions of all images: (sum of R_i,) int64."""
    counts = [table.num_foreground for table in regions if table.num_foreground is not None]
    if len(counts) == len(regions):
        rows = [torch.arange(count, device=table.boxes.device) for count, table in zip(counts, regions, strict=True)]
        tables = [table[:count] for count, table in zip(counts, regions, strict=True)]
    else:
        rows = rows_where([is_foreground(table.classes, num_classes) for table in regions])
        tables = [table[image_rows] for image_rows, table in zip(rows, regions, strict=True)]
    return [replace(table, num_foreground=len(table)) for table in tables], rows_of_all(rows, [*map(len, regions)])


def matched_boxes(foreground: list[LabeledRegions]) -> Tensor:
    """The ground-truth boxes of foreground regions, image after image: (sum of R_i, 4) pixels."""
    return torch.cat([table.targets.boxes[table.matches] for table in foreground])
