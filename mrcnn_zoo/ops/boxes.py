"""Arithmetic on boxes: x1, y1, x2, y2 in continuous coordinates, so a width is x2 - x1.

Other operations are `torchvision.ops`'s. Functions import it where they call it, as this takes about as long as
importing torch.
"""

import torch
from torch import Tensor


def area(boxes: Tensor) -> Tensor:
    """Area of each box in square pixels; 0 if x2 < x1 or y2 < y1, where `torchvision.ops.box_area` is not.

    Args:
        boxes: (..., 4).

    Returns:
        (...,) of the same dtype.
    """
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def clip_to_image(boxes: Tensor, image_size: tuple[int, int] | tuple[Tensor, Tensor]) -> Tensor:
    """The part of each box inside the image.

    Args:
        boxes: (..., 4) pixels.
        image_size: (height, width): numbers, or scalars of the dtype of the boxes, which an exported program has.
    """
    height, width = image_size
    if isinstance(height, Tensor) and isinstance(width, Tensor):
        return boxes.clamp(min=0).minimum(torch.stack((width, height, width, height)))
    assert not isinstance(height, Tensor), "both are numbers, or both are tensors"
    assert not isinstance(width, Tensor), "both are numbers, or both are tensors"
    sides = boxes[..., 0::2].clamp(min=0, max=width), boxes[..., 1::2].clamp(min=0, max=height)
    return torch.stack(sides, dim=-1).flatten(-2)


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of every box with every other.

    Not `torchvision.ops.box_iou`, which is NaN for two empty boxes and needs more than twice the memory.

    Args:
        boxes: (R, 4).
        others: (S, 4).

    Returns:
        (R, S) in [0, 1]; 0 where an intersection is empty.
    """
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
    other_x1, other_y1, other_x2, other_y2 = others.unbind(1)
    # One temporary per line, changed in place: with all anchors of an image the matrix is large.
    intersection = torch.minimum(x2, other_x2).sub_(torch.maximum(x1, other_x1)).clamp_(min=0)
    intersection *= torch.minimum(y2, other_y2).sub_(torch.maximum(y1, other_y1)).clamp_(min=0)
    union = (area(boxes)[:, None] + area(others)).sub_(intersection)
    return intersection.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))


def is_nonempty(boxes: Tensor, *, min_size: float = 0.0) -> Tensor:
    """Whether both sides of each box are longer than a minimum.

    Args:
        boxes: (..., 4) pixels.
        min_size: pixels.

    Returns:
        (...,) bool.
    """
    return ((boxes[..., 2:] - boxes[..., :2]) > min_size).all(dim=-1)


def scale(boxes: Tensor, *, x: float, y: float) -> Tensor:
    """The boxes of a resized image.

    Args:
        boxes: (..., 4) pixels.
        x: new width over old width.
        y: new height over old height.

    Returns:
        (..., 4) pixels of the resized image.
    """
    return torch.stack((boxes[..., 0::2] * x, boxes[..., 1::2] * y), dim=-1).flatten(-2)
