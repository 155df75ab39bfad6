"""RoI pooling: a map of fixed size for each region, from a feature map of one scale.

A sample is a weighted sum of four cells, and a cell of a map in channels-last order is a row of a table. So all samples
of all regions are one look-up in that table, with a gradient for the cells and for the coordinates.
"""

from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

from mrcnn_zoo.ops.roi_align import SeparableRoIAlign, bin_samples


@dataclass(frozen=True)
class Taps:
    """The two cells of each sample along one axis, and how much of each it takes."""

    cells: Tensor  # (R, P, 2) int64, inside the map
    weights: Tensor  # (R, P, 2) in [0, 1], 0 for cells that are not there

    def only_where(self, is_counted: Tensor) -> "Taps":
        """The same taps, with weight 0 where the sample does not count: (R, P) bool."""
        return Taps(self.cells, self.weights * is_counted[:, :, None])


def taps_at(positions: Tensor, length: int) -> Taps:
    """The cells on both sides of each position; all beyond the map is 0.

    Args:
        positions: (R, P) cells; centres of cells are at integers.
        length: cells along the axis.
    """
    lower = positions.detach().floor()
    fraction = positions - lower
    cells = torch.stack((lower, lower + 1), dim=2)
    is_inside = (cells >= 0) & (cells < length)
    weights = torch.stack((1 - fraction, fraction), dim=2) * is_inside
    return Taps(cells.clamp(0, length - 1).long(), weights)


def taps_in_bins(starts: Tensor, sizes: Tensor, bins: int, *, samples: Tensor, max_samples: int, length: int) -> Taps:
    """The samples that RoIAlign takes along one axis, bin after bin: P is bins * max_samples; see `bin_samples`."""
    lower, fraction, is_counted = bin_samples(
        starts, sizes, bins, samples=samples, max_samples=max_samples, length=length
    )
    # Positions are clamped to the map, so the upper cell is missing only where its weight is 0: taps_at then agrees.
    return taps_at((lower + fraction).flatten(1), length).only_where(is_counted.flatten(1))


def sample(features: Tensor, images: Tensor, vertical: Taps, horizontal: Taps) -> Tensor:
    """The values at the crossings of P rows and Q columns of each region.

    Args:
        features: (N, C, H, W).
        images: (R,) int64 row of the image that each region is on.
        vertical: taps of the R x P rows.
        horizontal: taps of the R x Q columns.

    Returns:
        (R, P, Q, C).
    """
    _, channels, height, width = features.shape
    table = features.permute(0, 2, 3, 1).reshape(-1, channels)  # row (n * H + y) * W + x
    rows = images[:, None, None] * height + vertical.cells
    cells = rows[:, :, None, :, None] * width + horizontal.cells[:, None, :, None, :]  # (R, P, Q, 2, 2)
    weights = vertical.weights[:, :, None, :, None] * horizontal.weights[:, None, :, None, :]
    values = F.embedding_bag(
        cells.reshape(-1, 4), table, mode="sum", per_sample_weights=weights.reshape(-1, 4).to(table.dtype)
    )
    return values.view(*cells.shape[:3], channels)


def with_image_rows(boxes: list[Tensor]) -> Tensor:
    """All boxes of a batch in one tensor, each with its image's number in front: N of (R_i, 4) -> (sum of R_i, 5)."""
    return torch.cat([F.pad(image_boxes, (1, 0), value=number) for number, image_boxes in enumerate(boxes)])


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


def roi_align_max(
    features: Tensor, regions: Tensor, side: int, *, scale: float, sampling_ratio: int, aligned: bool
) -> Tensor:
    """The greatest of the bilinear samples in each cell of each region; arguments and result as of `roi_align`.

    A sample more than one cell outside the map is 0, and so is a region without samples. The gradient reaches the
    regions too.

    Source: He et al. 2017 (Mask R-CNN), table 2c.
    """
    corners = regions[:, 1:].float() * scale - (0.5 if aligned else 0.0)
    sizes = corners[:, 2:] - corners[:, :2]
    if not aligned:
        sizes = sizes.clamp(min=1.0)
    boxes = torch.cat((corners[:, :2], sizes), dim=1)
    precise, images = features.float(), regions[:, 0].long()
    if sampling_ratio > 0 or len(boxes) == 0:
        samples = max(sampling_ratio, 1)
        return _greatest_in_bins(precise, images, boxes, side, (samples, samples)).to(features.dtype)
    # Regions with as many samples go together: padded all to the most, one tall and one wide region would make huge
    # grids of all of them.
    counts, groups = (sizes.detach() / side).ceil().clamp(min=0).unique(dim=0, return_inverse=True)
    rows = [torch.nonzero(groups == group).squeeze(1) for group in range(len(counts))]
    pooled = [
        _greatest_in_bins(precise, images[members], boxes[members], side, (int(count[0]), int(count[1])))
        for members, count in zip(rows, counts.tolist(), strict=True)
    ]
    return torch.cat(pooled).index_select(0, torch.cat(rows).argsort()).to(features.dtype)


def _greatest_in_bins(features: Tensor, images: Tensor, boxes: Tensor, side: int, counts: tuple[int, int]) -> Tensor:
    """(N, C, H, W), (R,), (R, 4) x y width height in cells, columns and rows of samples a bin -> (R, C, S, S)."""
    taps = [
        taps_in_bins(
            boxes[:, axis],
            boxes[:, 2 + axis],
            side,
            samples=torch.full_like(boxes[:, 0], count),
            max_samples=max(count, 1),
            length=features.shape[3 - axis],
        )
        for axis, count in enumerate(counts)
    ]
    values = sample(features, images, taps[1], taps[0])  # (R, S * rows, S * columns, C)
    return F.max_pool2d(values.permute(0, 3, 1, 2), (max(counts[1], 1), max(counts[0], 1)))


def roi_warp(features: Tensor, regions: Tensor, side: int, *, scale: float, samples: int) -> Tensor:
    """Each region warped to a grid by bilinear interpolation, and the greatest value in each cell of it.

    Nothing is rounded, so the gradient reaches the regions too. The grid begins on the region's left and upper border,
    a coordinate is a cell's number, and all beyond the map is 0.

    Source: Dai et al. 2016 (Multi-task Network Cascades), section 3.2, with the max pooling that follows the warping.

    Args:
        features: (N, C, H, W).
        regions: (R, 5) row of the image, and x1 y1 x2 y2 in image pixels.
        side: S, rows and columns of the result.
        scale: cells of the feature map per image pixel, 1 / stride.
        samples: grid points along each side of a pooled cell; the paper's warped map has side * samples rows.

    Returns:
        (R, C, side, side) of the dtype of the features.
    """
    height, width = features.shape[2:]
    x1, y1, x2, y2 = (regions[:, 1:].float() * scale).unbind(dim=1)
    steps = torch.arange(side * samples, device=features.device) / (side * samples)
    vertical = taps_at(y1[:, None] + steps * (y2 - y1)[:, None], height)
    horizontal = taps_at(x1[:, None] + steps * (x2 - x1)[:, None], width)
    warped = sample(features.float(), regions[:, 0].long(), vertical, horizontal)
    return F.max_pool2d(warped.permute(0, 3, 1, 2), samples).to(features.dtype)


def rounded_to_cells(regions: Tensor, *, scale: float) -> Tensor:
    """The regions that RoIPool looks at: from the first to the end of the last cell, at least one cell wide.

    Args:
        regions: (R, 5) row of the image, and x1 y1 x2 y2 in image pixels.
        scale: cells of the feature map per image pixel, 1 / stride.

    Returns:
        (R, 5) of row of the image, and x1 y1 x2 y2 in cells.
    """
    cells = (regions[:, 1:].float() * scale + 0.5).floor()
    first, last = cells[:, :2], cells[:, 2:]
    return torch.cat((regions[:, :1].float(), first, torch.maximum(last, first) + 1), dim=1)


def crop_and_resize(
    features: Tensor, regions: Tensor, side: int, *, normalizer: tuple[float, float], outside: float = 0.0
) -> Tensor:
    """One bilinear sample for each cell; the corners of the grid are the corners of the region.

    It is TensorFlow's `tf.image.crop_and_resize`, whose corners of the unit square are the centres of the outermost
    feature cells. A grid of one cell samples the middle.

    Args:
        features: (N, C, H, W).
        regions: (R, 5) row of the image, and x1 y1 x2 y2.
        side: rows and columns of the result.
        normalizer: (height, width) that the coordinates are divided by; (1, 1) for normalised ones.
        outside: the value of samples beyond the centres of the outermost cells.

    Returns:
        (R, C, side, side) of the dtype of the features.
    """
    steps = torch.linspace(0, 1, side, device=features.device) if side > 1 else features.new_full((1,), 0.5).float()
    boxes = regions[:, 1:].float()
    taps, are_inside = [], []
    for axis, extent in enumerate(normalizer):  # y, then x
        last = features.shape[2 + axis] - 1
        # Divide first: the border of an image then is exactly 1, and its last cell is not lost to rounding.
        start, end = boxes[:, 1 - axis, None] / extent * last, boxes[:, 3 - axis, None] / extent * last
        positions = start + steps * (end - start)
        is_inside = (positions >= 0) & (positions <= last)
        taps.append(taps_at(positions, last + 1).only_where(is_inside))
        are_inside.append(is_inside)
    values = sample(features.float(), regions[:, 0].long(), taps[0], taps[1])
    is_outside = ~(are_inside[0][:, :, None] & are_inside[1][:, None, :])
    return (values + outside * is_outside[..., None]).permute(0, 3, 1, 2).to(features.dtype)
