"""Points of regions: bilinear samples of maps, and the most uncertain points of a mask.

Points of regions are in the unit square: (0, 0) is the upper left corner of the box and (1, 1) the lower right corner.
Points of maps are in cells: the centre of the first cell is (0.5, 0.5).

Source: Kirillov et al. 2020 (PointRend), section 3.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mrcnn_zoo.ops.roi_pooling import bilinear_weights, weighted_cells


def grid_points(side: int, device: torch.device) -> Tensor:
    """The cell centres of a regular grid over the unit square.

    Args:
        side: rows and columns.
        device: of the result.

    Returns:
        (side * side, 2) x, y, row by row.
    """
    return cell_centers(torch.arange(side * side, device=device), side)


def cell_centers(cells: Tensor, side: int) -> Tensor:
    """The centres of cells of a regular grid over the unit square.

    Args:
        cells: (...,) int64, numbered row by row.
        side: rows and columns.

    Returns:
        (..., 2) x, y.
    """
    columns, rows = cells % side, cells.div(side, rounding_mode="floor")
    return (torch.stack((columns, rows), dim=-1) + 0.5) / side


def points_on_image(points: Tensor, boxes: Tensor) -> Tensor:
    """Points of regions in image coordinates.

    Args:
        points: (R, P, 2) in the unit square of each region.
        boxes: (R, 4) pixels.

    Returns:
        (R, P, 2) x, y in pixels.
    """
    start, end = boxes[:, None, :2], boxes[:, None, 2:]
    return start + points * (end - start)


def sample_at(maps: Tensor, rows: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples of zero-padded maps; channels-last maps are not copied.

    Args:
        maps: (N, C, H, W).
        rows: (R,) int64 map of each region.
        points: (R, P, 2) x, y in cells of the map.

    Returns:
        (R, C, P), the dtype of the maps. Only the maps have a gradient.
    """
    height, width = maps.shape[2:]
    # Points that are not finite, when training diverges, are moved outside the map, where samples are 0.
    positions = (points.detach().float() - 0.5).nan_to_num(-2.0, -2.0, -2.0)
    horizontal, vertical = bilinear_weights(positions[..., 0], width), bilinear_weights(positions[..., 1], height)
    lines = rows[:, None, None] * height + vertical.cells
    cells = lines[..., :, None] * width + horizontal.cells[..., None, :]  # (R, P, 2, 2)
    weights = vertical.weights[..., :, None] * horizontal.weights[..., None, :]
    return weighted_cells(maps, cells, weights).transpose(1, 2)


def sample_own(maps: Tensor, points: Tensor) -> Tensor:
    """As `sample_at`, from one map per region that covers the region.

    Args:
        maps: (R, C, M, M).
        points: (R, P, 2) in the unit square of each region.

    Returns:
        (R, C, P).
    """
    return sample_at(maps, torch.arange(len(maps), device=maps.device), points * maps.shape[-1])


def most_uncertain(logits: Tensor, count: int) -> Tensor:
    """The points with the logits nearest to 0, where object and background are equally likely.

    Source: Kirillov et al. 2020 (PointRend), section 3.1 and appendix.

    Args:
        logits: (R, P).
        count: points per region.

    Returns:
        (R, min(count, P)) int64 points, most uncertain first.
    """
    return logits.abs().topk(min(count, logits.shape[1]), dim=1, largest=False).indices


@dataclass(frozen=True)
class Subdivision:
    """Coarse-to-fine prediction: each step doubles the side and predicts the most uncertain cells again.

    First steps that would predict all cells again are skipped; the first grid is larger instead.

    Source: Kirillov et al. 2020 (PointRend), section 3.1, "Inference" and figure 4.

    Args:
        side: rows and columns of the coarse mask.
        steps: the side doubles in each.
        num_points: predicted again per region and step.
    """

    side: int
    steps: int
    num_points: int

    @property
    def num_skipped(self) -> int:
        """The number of skipped first steps."""
        sides = (self.side * 2**step for step in range(1, self.steps + 1))
        return sum(side**2 <= self.num_points for side in sides)

    def __call__(self, logits_at: Callable[[Tensor], Tensor], num_regions: int, device: torch.device) -> Tensor:
        """The refined masks.

        Args:
            logits_at: (R, P, 2) points in the unit square of each region -> (R, P) logits.
            num_regions: R.
            device: of the regions.

        Returns:
            (R, M, M) logits, where M = side * 2 ** steps.
        """
        side = self.side * 2**self.num_skipped
        logits = logits_at(grid_points(side, device).expand(num_regions, -1, -1))
        for _ in range(self.steps - self.num_skipped):
            finer = F.interpolate(
                logits.unflatten(1, (1, side, side)), scale_factor=2, mode="bilinear", align_corners=False
            ).flatten(1)
            side *= 2
            cells = most_uncertain(finer, self.num_points)
            logits = finer.scatter(1, cells, logits_at(cell_centers(cells, side)))
        return logits.unflatten(1, (side, side))
