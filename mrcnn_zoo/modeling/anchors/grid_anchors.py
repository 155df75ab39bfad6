"""Anchors on a regular grid: the same on every cell of a level."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops.anchors import cell_anchors, grid_anchors, rounded_cell_anchors
from mrcnn_zoo.registries import ANCHOR_GENERATORS

# Padded image sizes whose anchors are cached. One takes 4.3 MB at 800 x 1333; multi-scale training has hundreds.
CACHED_SIZES = 8

CellBuilder = Callable[[Sequence[float], Sequence[float], int], Tensor]


def exact_cell_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float], _stride: int) -> Tensor:
    """`ops.anchors.cell_anchors` as a `CellBuilder`.

    Args:
        sizes: square roots of the areas, pixels.
        aspect_ratios: height over width.

    Returns:
        (len(sizes) * len(aspect_ratios), 4) pixels.
    """
    return cell_anchors(sizes, aspect_ratios)


class GridAnchors(nn.Module):
    """Anchors of given sizes and aspect ratios on every cell.

    Source: Ren et al. 2015 (Faster R-CNN), sec. 3.1.1; Lin et al. 2017 (Feature Pyramid Networks), sec. 4.1.

    Args:
        sizes: of each level: square roots of the anchors' areas, pixels.
        aspect_ratios: of each level: height over width.
        strides: of each level: pixels per cell.
        offset: centre of the anchors in their cell, in strides, in [0, 1).
        build_cell: makes the anchors of one cell from sizes, aspect ratios and stride.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[float]],
        *,
        aspect_ratios: Sequence[Sequence[float]],
        strides: Sequence[int],
        offset: float = 0.0,
        build_cell: CellBuilder = exact_cell_anchors,
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.offset = offset
        for level, cell in enumerate(zip(sizes, aspect_ratios, strides, strict=True)):
            self.register_buffer(f"cell{level}", build_cell(*cell), persistent=False)
        self._cache: OrderedDict[tuple, list[Tensor]] = OrderedDict()

    @property
    def anchors_per_cell(self) -> list[int]:
        """Number of anchors per cell of each level."""
        return [len(self.get_buffer(f"cell{level}")) for level in range(len(self.strides))]

    @torch.no_grad()
    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """The anchors of each level; they are shared between calls and must not be changed.

        Args:
            features: (N, C, H, W) of each level.

        Returns:
            (H * W * A, 4) pixels for each level, in the order of rows, columns, anchors of a cell.
        """
        sizes = tuple((int(level.shape[-2]), int(level.shape[-1])) for level in features)
        device = self.get_buffer("cell0").device
        found = self._cache.get((sizes, device))
        if found is None:
            found = [
                grid_anchors(self.get_buffer(f"cell{level}"), size, stride=stride, offset=self.offset)
                for level, (size, stride) in enumerate(zip(sizes, self.strides, strict=True))
            ]
            # Other threads may use the cache, too: `found` is returned, which they may already have removed from it.
            self._cache[sizes, device] = found
            if len(self._cache) > CACHED_SIZES:
                self._cache.popitem(last=False)
        return found


@ANCHOR_GENERATORS.register("DefaultAnchorGenerator")
def build_grid_anchors(cfg: CfgNode, strides: Sequence[int]) -> GridAnchors:
    """The anchors of `MODEL.ANCHOR_GENERATOR`; a single list of sizes or ratios applies to every level.

    Args:
        cfg: the whole config.
        strides: pixels per cell of each feature map.
    """
    settings = cfg.MODEL.ANCHOR_GENERATOR
    return GridAnchors(
        anchor_lists(settings.SIZES, len(strides), "MODEL.ANCHOR_GENERATOR.SIZES"),
        aspect_ratios=anchor_lists(settings.ASPECT_RATIOS, len(strides), "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"),
        strides=strides,
        offset=settings.OFFSET,
    )


@ANCHOR_GENERATORS.register("RoundedAnchorGenerator")
def build_rounded_anchors(cfg: CfgNode, strides: Sequence[int]) -> GridAnchors:
    """Anchors with rounded shapes, for models of Detectron and maskrcnn-benchmark.

    Args:
        cfg: the whole config.
        strides: pixels per cell of each feature map.
    """
    settings = cfg.MODEL.ANCHOR_GENERATOR
    return GridAnchors(
        anchor_lists(settings.SIZES, len(strides), "MODEL.ANCHOR_GENERATOR.SIZES"),
        aspect_ratios=anchor_lists(settings.ASPECT_RATIOS, len(strides), "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"),
        strides=strides,
        offset=settings.OFFSET,
        build_cell=rounded_cell_anchors,
    )


def anchor_lists(values: Sequence, num_levels: int, key: str) -> list[list[float]]:
    """Sizes or aspect ratios of each level.

    Args:
        values: of the config: one list for all levels, or one per level.
        num_levels: number of levels.
        key: config key of the values, for messages.
    """
    lists = [list(level) for level in values] if values and not isinstance(values[0], int | float) else [list(values)]
    if len(lists) == 1:
        return lists * num_levels
    if len(lists) != num_levels:
        raise UserError(
            f"{key} has {len(lists)} lists where {num_levels} feature maps are used; give one list, or one per map."
        )
    return lists
