"""Arithmetic on boxes: x1, y1, x2, y2, continuous, so that a width is x2 - x1."""

import torch
from torch import Tensor


def area(boxes: Tensor) -> Tensor:
    """Area of each box in square pixels; 0 for boxes turned inside out.

    Args:
        boxes: (..., 4).

    Returns:
        (...,) of the same dtype.
    """
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of every box with every other; 0 where nothing overlaps, also for empty boxes.

    Args:
        boxes: (R, 4).
        others: (S, 4).

    Returns:
        (R, S) in [0, 1].
    """
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
    other_x1, other_y1, other_x2, other_y2 = others.unbind(1)
    # Each line makes one temporary and works in place on it: with all anchors of an image the matrix is large.
    intersection = torch.minimum(x2, other_x2).sub_(torch.maximum(x1, other_x1)).clamp_(min=0)
    intersection *= torch.minimum(y2, other_y2).sub_(torch.maximum(y1, other_y1)).clamp_(min=0)
    union = (area(boxes)[:, None] + area(others)).sub_(intersection)
    return intersection.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))


def clip(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """The boxes cut at the image's borders.

    Args:
        boxes: (..., 4) pixels.
        image_size: (height, width) in pixels.

    Returns:
        (..., 4); a box outside the image becomes an empty one on its border.
    """
    height, width = image_size
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)), dim=-1)


def is_nonempty(boxes: Tensor, *, min_size: float = 0.0) -> Tensor:
    """Whether both sides of each box are longer than `min_size` pixels: (..., 4) -> (...,) bool."""
    return ((boxes[..., 2:] - boxes[..., :2]) > min_size).all(dim=-1)


def scale(boxes: Tensor, *, x: float, y: float) -> Tensor:
    """The boxes of an image that is resized by the factors `x` and `y`: (..., 4) -> (..., 4)."""
    return torch.stack((boxes[..., 0::2] * x, boxes[..., 1::2] * y), dim=-1).flatten(-2)
