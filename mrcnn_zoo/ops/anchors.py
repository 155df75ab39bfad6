"""Anchors: reference boxes on the cells of a feature map."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def cell_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
    """The anchors of one cell, centred at the origin: all aspect ratios of the first size, then of the next.

    Args:
        sizes: square roots of the areas, pixels.
        aspect_ratios: height over width.

    Returns:
        (len(sizes) * len(aspect_ratios), 4) float32.
    """
    anchors = []
    for size in sizes:
        for ratio in aspect_ratios:
            width = math.sqrt(size**2 / ratio)
            height = ratio * width
            anchors.append((-width / 2, -height / 2, width / 2, height / 2))
    return torch.tensor(anchors, dtype=torch.float32).reshape(-1, 4)


def rounded_cell_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float], stride: int) -> Tensor:
    """As `cell_anchors`, with sides at size `stride` rounded to whole pixels, then scaled to each size.

    Source: Ren et al. 2015 (Faster R-CNN), the published code.

    Args:
        sizes: square roots of the areas, pixels.
        aspect_ratios: height over width.
        stride: pixels per cell.

    Returns:
        (len(sizes) * len(aspect_ratios), 4) float32.
    """
    anchors = []
    for size in sizes:
        for ratio in aspect_ratios:
            width = round(math.sqrt(stride**2 / ratio))
            height = round(width * ratio)
            scale = size / stride
            anchors.append((-width * scale / 2, -height * scale / 2, width * scale / 2, height * scale / 2))
    return torch.tensor(anchors, dtype=torch.float32).reshape(-1, 4)


def grid_anchors(cell: Tensor, feature_size: tuple[int, int], *, stride: int, offset: float) -> Tensor:
    """The anchors of all cells, row by row, with the A anchors of a cell in sequence.

    Args:
        cell: (A, 4) of one cell.
        feature_size: height and width in cells.
        stride: pixels per cell.
        offset: centre of the anchors in a cell, in strides; 0 is the upper left corner.

    Returns:
        (H * W * A, 4) pixels, on the device of `cell`.
    """
    ys, xs = ((torch.arange(count, device=cell.device) + offset) * stride for count in feature_size)
    y, x = torch.meshgrid(ys.to(cell.dtype), xs.to(cell.dtype), indexing="ij")
    shifts = torch.stack((x, y, x, y), dim=-1)  # (H, W, 4)
    return (shifts[:, :, None] + cell).reshape(-1, 4)


def flatten_per_anchor(maps: Tensor, values: int) -> Tensor:
    """What a head predicts, in the order of `grid_anchors`: (N, A * values, H, W) -> (N, H * W * A, values)."""
    return maps.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, values))


def is_inside(boxes: Tensor, image_size: tuple[int, int], *, margin: float) -> Tensor:
    """Whether boxes are inside the image enlarged by a margin; boxes on its border are inside.

    Args:
        boxes: (R, 4) pixels.
        image_size: (height, width).
        margin: pixels on each side.

    Returns:
        (R,) bool.
    """
    height, width = image_size
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x1 >= -margin) & (y1 >= -margin) & (x2 <= width + margin) & (y2 <= height + margin)
