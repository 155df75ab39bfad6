"""RoI pooling: a map of fixed size for each region, from a feature map of one scale."""

import torch
import torchvision
from torch import Tensor

from mrcnn_zoo.ops.roi_align_gradient import SeparableRoIAlign


def with_image_rows(boxes: list[Tensor]) -> Tensor:
    """All boxes of a batch in one tensor, each with its image's number in front: N of (R_i, 4) -> (sum of R_i, 5)."""
    counts = [len(image_boxes) for image_boxes in boxes]
    merged = torch.cat(boxes)
    numbers = torch.arange(len(boxes), device=merged.device, dtype=merged.dtype)
    # The sum of the counts is known here; telling it spares a wait for the device.
    repeats = torch.tensor(counts, device=merged.device)
    rows = torch.repeat_interleave(numbers, repeats, output_size=sum(counts))
    return torch.cat((rows[:, None], merged), dim=1)


def roi_align(
    features: Tensor, regions: Tensor, side: int, *, scale: float, sampling_ratio: int, aligned: bool
) -> Tensor:
    """The mean of bilinear samples in each cell of each region.

    Source: He et al. 2017 (Mask R-CNN), section 3, "RoIAlign".

    Args:
        features: (N, C, H, W).
        regions: (R, 5) row of the image, and x1 y1 x2 y2 in image pixels.
        side: rows and columns of the result.
        scale: cells of the feature map per image pixel, 1 / stride.
        sampling_ratio: samples along each side of a cell; 0 takes as many as the cell is feature cells wide.
        aligned: shift the regions by half a cell, so that the value of a cell stands at its centre. Without it, as in
            the first implementations, pooled maps are half a cell off, and regions are at least one cell wide.

    Returns:
        (R, C, side, side) of the dtype of the features.
    """
    # In float32 even under AMP: coordinates of 800 pixels need more than the 8 bits that bfloat16 has.
    inputs = (features.float(), regions.float(), side, scale, sampling_ratio, aligned)
    if features.device.type == "cpu" and features.requires_grad:
        return SeparableRoIAlign.apply(*inputs).to(features.dtype)
    return torchvision.ops.roi_align(*inputs).to(features.dtype)


def roi_pool(features: Tensor, regions: Tensor, side: int, *, scale: float) -> Tensor:
    """The greatest value in each cell of each region, whose borders are rounded to feature cells.

    Source: Girshick 2015 (Fast R-CNN), section 2.1.

    Args:
        features: (N, C, H, W).
        regions: (R, 5) row of the image, and x1 y1 x2 y2 in image pixels.
        side: rows and columns of the result.
        scale: cells of the feature map per image pixel, 1 / stride.

    Returns:
        (R, C, side, side) of the dtype of the features.
    """
    return torchvision.ops.roi_pool(features.float(), regions.float(), side, scale).to(features.dtype)
