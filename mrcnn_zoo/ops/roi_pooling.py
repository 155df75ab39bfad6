"""RoI pooling: a map of fixed size per region, from a feature map of one scale.

A bilinear sample is a weighted sum of four cells, and a cell of a channels-last map is a row of a table. All samples of
all regions are therefore one `embedding_bag`, with a gradient for the cells and for the coordinates.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mrcnn_zoo.ops.roi_align import SeparableRoIAlign, bin_samples, roi_align_of_rows


@dataclass(frozen=True)
class BilinearWeights:
    """Interpolation of each sample between two cells along one axis."""

    cells: Tensor  # (R, P, 2) int64, inside the map
    weights: Tensor  # (R, P, 2) in [0, 1], 0 for cells outside the map

    def masked(self, is_counted: Tensor) -> "BilinearWeights":
        """The same cells, with weight 0 where `is_counted`, (R, P) bool, is False."""
        return BilinearWeights(self.cells, self.weights * is_counted[:, :, None])


def bilinear_weights(positions: Tensor, length: int) -> BilinearWeights:
    """The cells on both sides of each position, zero-padded outside the map.

    Args:
        positions: (R, P) in cells; centres of cells are at integers.
        length: cells along the axis.
    """
    lower = positions.detach().floor()
    fraction = positions - lower
    cells = torch.stack((lower, lower + 1), dim=2)
    is_inside = (cells >= 0) & (cells < length)
    weights = torch.stack((1 - fraction, fraction), dim=2) * is_inside
    return BilinearWeights(cells.clamp(0, length - 1).long(), weights)


def roi_align_weights(
    starts: Tensor, sizes: Tensor, bins: int, *, samples: Tensor, max_samples: int, length: int
) -> BilinearWeights:
    """RoIAlign samples along one axis, bin by bin: P is bins * max_samples; arguments as `bin_samples`."""
    lower, fraction, is_counted = bin_samples(
        starts, sizes, bins, samples=samples, max_samples=max_samples, length=length
    )
    # Positions are clamped to the map, so the upper cell is outside only where its weight is 0.
    return bilinear_weights((lower + fraction).flatten(1), length).masked(is_counted.flatten(1))


def sample_grid(features: Tensor, images: Tensor, vertical: BilinearWeights, horizontal: BilinearWeights) -> Tensor:
    """Bilinear samples on a grid of P rows and Q columns per region.

    Args:
        features: (N, C, H, W).
        images: (R,) int64 image of each region.
        vertical: of the R x P rows.
        horizontal: of the R x Q columns.

    Returns:
        (R, P, Q, C).
    """
    height, width = features.shape[2:]
    rows = images[:, None, None] * height + vertical.cells
    cells = rows[:, :, None, :, None] * width + horizontal.cells[:, None, :, None, :]
    weights = vertical.weights[:, :, None, :, None] * horizontal.weights[:, None, :, None, :]
    return weighted_cells(features, cells, weights)


def weighted_cells(features: Tensor, cells: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of four cells each; channels-last features are not copied.

    Args:
        features: (N, C, H, W).
        cells: (..., 2, 2) int64 numbers (n * H + y) * W + x.
        weights: (..., 2, 2).

    Returns:
        (..., C) of the dtype of the features.
    """
    table = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])
    sums = F.embedding_bag(
        cells.reshape(-1, 4), table, mode="sum", per_sample_weights=weights.reshape(-1, 4).to(table.dtype)
    )
    return sums.view(*cells.shape[:-2], features.shape[1])


def with_image_rows(boxes: list[Tensor]) -> Tensor:
    """The boxes of all images, each with the number of its image first: N x (R_i, 4) -> (sum of R_i, 5)."""
    return torch.cat([F.pad(image_boxes, (1, 0), value=number) for number, image_boxes in enumerate(boxes)])


def roi_align(
    features: Tensor, regions: Tensor, side: int, *, scale: float, sampling_ratio: int, aligned: bool
) -> Tensor:
    """The mean of bilinear samples per cell of each region.

    Source: He et al. 2017 (Mask R-CNN), section 3, "RoIAlign".

    Args:
        features: (N, C, H, W).
        regions: (R, 5) image number, and x1 y1 x2 y2 in image pixels.
        side: rows and columns of the result.
        scale: cells of the feature map per image pixel, 1 / stride.
        sampling_ratio: samples along each side of a pooled cell; 0 for its width in feature cells, rounded up.
        aligned: shift the regions by half a cell, because cell values are at the centres. If False, as in the first
            implementations, pooled maps are shifted by half a cell, and regions are at least one cell wide.

    Returns:
        (R, C, side, side) of the dtype of the features.
    """
    # The number of regions last: in an exported program, whose maps are not in this order, it is not known.
    if _reads_rows(features) and len(regions):
        return roi_align_of_rows(features, regions.float(), side, scale, sampling_ratio, aligned)
    # In float32 even under AMP: the 8 bits of bfloat16 are too few for coordinates of 800 pixels.
    inputs = (features.float(), regions.float(), side, scale, sampling_ratio, aligned)
    if features.device.type == "cpu" and features.requires_grad:
        return SeparableRoIAlign.apply(*inputs).to(features.dtype)
    from torchvision import ops

    return ops.roi_align(*inputs).to(features.dtype)


def _reads_rows(features: Tensor) -> bool:
    """Channels-last maps on the CPU without gradient; a traced program has torchvision's operator."""
    if features.device.type != "cpu" or features.requires_grad or torch.jit.is_tracing():
        return False
    return features.is_contiguous(memory_format=torch.channels_last) and not features.is_contiguous()


def roi_pool(features: Tensor, regions: Tensor, side: int, *, scale: float) -> Tensor:
    """The maximum per cell of each region, whose borders are rounded to feature cells.

    Source: Girshick 2015 (Fast R-CNN), section 2.1.

    Args:
        features: (N, C, H, W).
        regions: (R, 5) image number, and x1 y1 x2 y2 in image pixels.
        side: rows and columns of the result.
        scale: cells of the feature map per image pixel, 1 / stride.

    Returns:
        (R, C, side, side) of the dtype of the features.
    """
    from torchvision import ops

    return ops.roi_pool(features.float(), regions.float(), side, scale).to(features.dtype)


def roi_align_max(
    features: Tensor, regions: Tensor, side: int, *, scale: float, sampling_ratio: int, aligned: bool
) -> Tensor:
    """The maximum of bilinear samples per cell of each region; arguments and result as `roi_align`.

    Samples more than one cell outside the map are 0, as are regions without samples. The regions have a gradient, too.

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
        return _maximum_in_bins(precise, images, boxes, side, (samples, samples)).to(features.dtype)
    # Regions are grouped by their number of samples. Padded to a common number, one tall and one wide region would give
    # all regions huge grids.
    counts, groups = (sizes.detach() / side).ceil().clamp(min=0).unique(dim=0, return_inverse=True)
    rows = [torch.nonzero(groups == group).squeeze(1) for group in range(len(counts))]
    pooled = [
        _maximum_in_bins(precise, images[members], boxes[members], side, (int(count[0]), int(count[1])))
        for members, count in zip(rows, counts.tolist(), strict=True)
    ]
    return torch.cat(pooled).index_select(0, torch.cat(rows).argsort()).to(features.dtype)


def _maximum_in_bins(features: Tensor, images: Tensor, boxes: Tensor, side: int, counts: tuple[int, int]) -> Tensor:
    """(N, C, H, W), (R,), (R, 4) x y width height in cells, columns and rows of samples per bin -> (R, C, S, S)."""
    horizontal, vertical = [
        roi_align_weights(
            boxes[:, axis],
            boxes[:, 2 + axis],
            side,
            samples=torch.full_like(boxes[:, 0], count),
            max_samples=max(count, 1),
            length=features.shape[3 - axis],
        )
        for axis, count in enumerate(counts)
    ]
    values = sample_grid(features, images, vertical, horizontal)  # (R, S * rows, S * columns, C)
    return F.max_pool2d(values.permute(0, 3, 1, 2), (max(counts[1], 1), max(counts[0], 1)))


def roi_warp(features: Tensor, regions: Tensor, side: int, *, scale: float, samples: int) -> Tensor:
    """Each region warped to a grid by bilinear interpolation, then max-pooled.

    Nothing is rounded, so the regions have a gradient, too. The grid starts on the left and upper border of the region,
    coordinates are cell numbers, and the map is zero-padded.

    Source: Dai et al. 2016 (Multi-task Network Cascades), section 3.2, with the max pooling that follows the warping.

    Args:
        features: (N, C, H, W).
        regions: (R, 5) image number, and x1 y1 x2 y2 in image pixels.
        side: S, rows and columns of the result.
        scale: cells of the feature map per image pixel, 1 / stride.
        samples: grid points along each side of a pooled cell; the paper's warped map has side * samples rows.

    Returns:
        (R, C, side, side) of the dtype of the features.
    """
    height, width = features.shape[2:]
    x1, y1, x2, y2 = (regions[:, 1:].float() * scale).unbind(dim=1)
    steps = torch.arange(side * samples, device=features.device) / (side * samples)
    vertical = bilinear_weights(y1[:, None] + steps * (y2 - y1)[:, None], height)
    horizontal = bilinear_weights(x1[:, None] + steps * (x2 - x1)[:, None], width)
    warped = sample_grid(features.float(), regions[:, 0].long(), vertical, horizontal)
    return F.max_pool2d(warped.permute(0, 3, 1, 2), samples).to(features.dtype)


def rounded_to_cells(regions: Tensor, *, scale: float) -> Tensor:
    """The regions rounded as RoIPool rounds them: from the first to the end of the last cell, at least one cell wide.

    Args:
        regions: (R, 5) image number, and x1 y1 x2 y2 in image pixels.
        scale: cells of the feature map per image pixel, 1 / stride.

    Returns:
        (R, 5) image number, and x1 y1 x2 y2 in cells.
    """
    cells = (regions[:, 1:].float() * scale + 0.5).floor()
    first, last = cells[:, :2], cells[:, 2:]
    return torch.cat((regions[:, :1].float(), first, torch.maximum(last, first) + 1), dim=1)


def crop_and_resize(
    features: Tensor, regions: Tensor, side: int, *, normalizer: tuple[float, float], outside: float = 0.0
) -> Tensor:
    """One bilinear sample per cell, on a grid whose corners are the corners of the region.

    Same as TensorFlow's `tf.image.crop_and_resize`, where the corners of the unit square are the centres of the
    outermost feature cells. A grid of one cell samples the centre.

    Args:
        features: (N, C, H, W).
        regions: (R, 5) image number, and x1 y1 x2 y2.
        side: rows and columns of the result.
        normalizer: (height, width) that divides the coordinates; (1, 1) if they are normalised.
        outside: value of samples outside the centres of the outermost cells.

    Returns:
        (R, C, side, side) of the dtype of the features.
    """
    steps = torch.linspace(0, 1, side, device=features.device) if side > 1 else features.new_full((1,), 0.5).float()
    boxes = regions[:, 1:].float()
    axes, are_inside = [], []
    for axis, extent in enumerate(normalizer):  # y, then x
        last = features.shape[2 + axis] - 1
        # Divide first: the border of an image is then exactly 1, and rounding does not exclude its last cell.
        start, end = boxes[:, 1 - axis, None] / extent * last, boxes[:, 3 - axis, None] / extent * last
        positions = start + steps * (end - start)
        is_inside = (positions >= 0) & (positions <= last)
        axes.append(bilinear_weights(positions, last + 1).masked(is_inside))
        are_inside.append(is_inside)
    values = sample_grid(features.float(), regions[:, 0].long(), axes[0], axes[1])
    is_outside = ~(are_inside[0][:, :, None] & are_inside[1][:, None, :])
    return (values + outside * is_outside[..., None]).permute(0, 3, 1, 2).to(features.dtype)
