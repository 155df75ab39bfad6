"""Feature maps and scores of anchors as small grey maps with their place on the image, for `data.py`."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor

from mrcnn_zoo.modeling.recording import StageValues

STRONGEST_CHANNELS = 4
MAX_CELLS_PER_DETAIL = 100_000  # larger maps have no maps of single channels or anchor shapes
MAX_SHAPES = 15  # per cell
SAME_PIXEL = 0.51  # largest distance between the expected and the real centre of an anchor, as integer anchors have


@dataclass(frozen=True)
class Grid:
    """The cells of a map on the image."""

    rows: int
    columns: int
    left: float  # pixels of the resized image: the edge of the first cell
    top: float
    stride: float  # pixels per cell

    def as_data(self) -> dict[str, Any]:
        """JSON-able values."""
        return {
            "rows": self.rows,
            "columns": self.columns,
            "left": self.left,
            "top": self.top,
            "stride": self.stride,
        }


@dataclass(frozen=True)
class AnchorLevel:
    """The anchors of one level.

    Args:
        name: of its map, or "level 0", ... where no map has its cells.
        first: row of its first anchor.
        count: number of its anchors.
        shapes: width and height of the anchors of a cell.
        grid: cells around the centres of the anchors; None where no map has them.
    """

    name: str
    first: int
    count: int
    shapes: tuple[tuple[float, float], ...]
    grid: Grid | None

    def cell_of(self, anchor: int) -> tuple[int, int, int]:
        """Row, column and place in its cell of an anchor; -1 without a grid.

        Args:
            anchor: row among all anchors.
        """
        if self.grid is None:
            return -1, -1, -1
        cell, shape = divmod(anchor - self.first, len(self.shapes))
        return *divmod(cell, self.grid.columns), shape

    def as_data(self) -> dict[str, Any]:
        """JSON-able values."""
        grid = None if self.grid is None else self.grid.as_data()
        shapes = [[round(width, 1), round(height, 1)] for width, height in self.shapes]
        return {"name": self.name, "count": self.count, "shapes": shapes, "grid": grid}


def anchor_levels(values: Mapping[str, StageValues]) -> list[AnchorLevel]:
    """The levels of the anchors, with the map that has their cells.

    Args:
        values: of one image: "anchors", and "features" where the proposals come from maps.
    """
    anchors, of_levels = (values["anchors"].values[name].cpu() for name in ("boxes", "levels"))
    maps: list[tuple[str, int, int, int]] = []
    if "features" in values:
        strides = values["features"].settings["strides"]
        maps = [(name, strides[name], *tensor.shape[1:]) for name, tensor in values["features"].values.items()]
    levels = []
    for number in range(int(of_levels.max()) + 1 if len(of_levels) else 0):
        rows = (of_levels == number).nonzero().flatten()
        boxes = anchors[rows]
        found = next((place for place, of_map in enumerate(maps) if _has_cells(boxes, *of_map[1:])), None)
        if found is None:
            levels.append(AnchorLevel(f"level {number}", int(rows[0]) if len(rows) else 0, len(rows), (), None))
            continue
        name, stride, height, width = maps[found]
        maps = maps[found + 1 :]
        per_cell = len(rows) // (height * width)
        # Cells are drawn around the centres of their anchors, wherever the offset puts them.
        x, y = (float(edge) - stride / 2 for edge in _centers(boxes[:per_cell]).mean(dim=0))
        shapes = tuple((w, h) for w, h in (boxes[:per_cell, 2:] - boxes[:per_cell, :2]).tolist())
        levels.append(AnchorLevel(name, int(rows[0]), len(rows), shapes, Grid(height, width, x, y, stride)))
    return levels


def _has_cells(boxes: Tensor, stride: int, height: int, width: int) -> bool:
    """Whether a level has equally many anchors on each cell of a map, row by row."""
    if not len(boxes) or len(boxes) % (height * width):
        return False
    middles = _centers(boxes).view(height, width, -1, 2)
    steps = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), dim=-1).flip(-1)
    expected = middles[0, 0] + (steps * stride)[:, :, None]
    return bool(((middles - expected).abs() <= SAME_PIXEL).all())


def _centers(boxes: Tensor) -> Tensor:
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def feature_maps(features: StageValues) -> list[dict[str, Any]]:
    """The mean over the channels of each map, and its channels of the largest variation, without padding.

    Args:
        features: the values "features".
    """
    return [
        _feature_map(name, tensor.detach().cpu().float(), features.settings["strides"][name], features.image_size)
        for name, tensor in features.values.items()
    ]


def _feature_map(name: str, tensor: Tensor, stride: int, image_size: tuple[int, int]) -> dict[str, Any]:
    channels, height, width = tensor.shape
    inside = tensor[:, : ceil(image_size[0] / stride), : ceil(image_size[1] / stride)].nan_to_num(0, 0, 0)
    maps = [_encoded("mean of all channels", inside.mean(dim=0))]
    if inside[0].numel() <= MAX_CELLS_PER_DETAIL and inside[0].numel() > 1:
        strongest = inside.flatten(1).std(dim=1).topk(min(STRONGEST_CHANNELS, channels)).indices.tolist()
        maps += [_encoded(f"channel {channel}", inside[channel]) for channel in strongest]
    grid = Grid(inside.shape[1], inside.shape[2], 0.0, 0.0, stride)
    return {"name": name, "channels": channels, "size": [height, width], "grid": grid.as_data(), "maps": maps}


def score_maps(levels: Sequence[AnchorLevel], scores: Tensor) -> list[dict[str, Any]]:
    """The scores of the anchors of each level as maps: the highest of each cell, and those of each anchor shape.

    Args:
        levels: those without a grid have no map.
        scores: (A,) in [0, 1] of all anchors.
    """
    found = []
    for number, level in enumerate(levels):
        if level.grid is None:
            continue
        grid = level.grid
        of_level = scores[level.first : level.first + level.count].view(grid.rows, grid.columns, -1)
        maps = [_encoded("highest score of each cell", of_level.amax(dim=2), limits=(0.0, 1.0))]
        if 1 < len(level.shapes) <= MAX_SHAPES and grid.rows * grid.columns <= MAX_CELLS_PER_DETAIL:
            for place, (width, height) in enumerate(level.shapes):
                label = f"anchor of {width:.0f} x {height:.0f} pixels"
                maps.append(_encoded(label, of_level[:, :, place], limits=(0.0, 1.0)))
        found.append({"level": number, "name": level.name, "grid": grid.as_data(), "maps": maps})
    return found


def _encoded(label: str, values: Tensor, *, limits: tuple[float, float] | None = None) -> dict[str, Any]:
    """A map (H, W) as one byte per cell between its limits, row by row."""
    low, high = limits or (float(values.min()), float(values.max()))
    bytes_ = ((values - low) / max(high - low, 1e-12) * 255).clamp(0, 255).round().to(torch.uint8)
    text = base64.b64encode(bytes_.contiguous().numpy().tobytes()).decode("ascii")
    return {"label": label, "low": round(low, 5), "high": round(high, 5), "values": text}
