"""Points of regions: values of maps at them, and the points where a mask is least certain.

A point of a region lies in the unit square, (0, 0) the upper left corner of the region's box and (1, 1) the lower right
one. A point of a map is in cells: the centre of the first cell is (0.5, 0.5).

Source: Kirillov et al. 2020 (PointRend), section 3.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mrcnn_zoo.ops.roi_pooling import taps_at


def grid_points(side: int, device: torch.device) -> Tensor:
    """(side * side, 2) x, y: the centres of a regular grid over the unit square, row after row."""
    return cell_centers(torch.arange(side * side, device=device), side)


def cell_centers(cells: Tensor, side: int) -> Tensor:
    """The centre of each cell of a square grid over the unit square: (...,) int64, row after row -> (..., 2) x, y."""
    columns, rows = cells % side, cells.div(side, rounding_mode="floor")
    return (torch.stack((columns, rows), dim=-1) + 0.5) / side


def points_on_image(points: Tensor, boxes: Tensor) -> Tensor:
    """Points of regions as points of the image: (R, P, 2) in the unit square, (R, 4) boxes -> (R, P, 2) x, y pixels."""
    start, end = boxes[:, None, :2], boxes[:, None, 2:]
    return start + points * (end - start)


def sample_at(maps: Tensor, rows: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps at points; all outside of a map is 0.

    Channels-last maps are read without a copy.

    Args:
        maps: (N, C, H, W).
        rows: (R,) int64 the map of each region.
        points: (R, P, 2) x, y in cells of the map.

    Returns:
        (R, C, P), the dtype of the maps. The gradient goes to the maps alone.
    """
    _, channels, height, width = maps.shape
    table = maps.permute(0, 2, 3, 1).reshape(-1, channels)  # row (n * H + y) * W + x
    # Regions that are not finite, of a training that diverges, take the 0 outside: there is no cell to look up.
    positions = (points.detach().float() - 0.5).nan_to_num(-2.0, -2.0, -2.0)
    horizontal, vertical = taps_at(positions[..., 0], width), taps_at(positions[..., 1], height)
    lines = rows[:, None, None] * height + vertical.cells
    cells = lines[..., :, None] * width + horizontal.cells[..., None, :]  # (R, P, 2, 2)
    weights = vertical.weights[..., :, None] * horizontal.weights[..., None, :]
    values = F.embedding_bag(
        cells.reshape(-1, 4), table, mode="sum", per_sample_weights=weights.reshape(-1, 4).to(table.dtype)
    )
    return values.view(*points.shape[:2], channels).transpose(1, 2)


def sample_own(maps: Tensor, points: Tensor) -> Tensor:
    """As `sample_at`, each region from a map over itself: (R, C, M, M), (R, P, 2) in the unit square -> (R, C, P)."""
    return sample_at(maps, torch.arange(len(maps), device=maps.device), points * maps.shape[-1])


def most_uncertain(logits: Tensor, count: int) -> Tensor:
    """The places of the logits nearest to 0, where object and background are equally likely.

    Source: Kirillov et al. 2020 (PointRend), section 3.1 and appendix.

    Args:
        logits: (R, P).
        count: how many of each region; all where there are fewer.

    Returns:
        (R, min(count, P)) int64, most uncertain first.
    """
    return logits.abs().topk(min(count, logits.shape[1]), dim=1, largest=False).indices


@dataclass(frozen=True)
class Subdivision:
    """From a small grid to a large one: the side doubles, and the most uncertain cells are decided anew.

    Steps that would decide all cells anew are skipped: the first grid is larger then.

    Source: Kirillov et al. 2020 (PointRend), section 3.1, "Inference" and figure 4.

    Args:
        side: of the coarse mask, cells.
        steps: how often the side doubles.
        num_points: decided anew per region and step.
    """

    side: int
    steps: int
    num_points: int

    @property
    def num_skipped(self) -> int:
        """The first steps, which need not be made."""
        sides = (self.side * 2**step for step in range(1, self.steps + 1))
        return sum(side**2 <= self.num_points for side in sides)

    def __call__(self, logits_at: Callable[[Tensor], Tensor], num_regions: int, device: torch.device) -> Tensor:
        """The refined masks.

        Args:
            logits_at: (R, P, 2) points in the unit square of each region -> (R, P) logits.
            num_regions: R.
            device: of the regions.

        Returns:
            (R, M, M) logits, where M is the side times 2 to the number of steps.
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
