"""The same anchors on every cell of a level."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops.anchors import cell_anchors, grid_anchors, rounded_cell_anchors
from mrcnn_zoo.registries import ANCHOR_GENERATORS

# Padded sizes remembered. One is 4.3 MB at 800 x 1333, and training at several scales sees hundreds.
CACHED_SIZES = 8

CellBuilder = Callable[[Sequence[float], Sequence[float], int], Tensor]


def exact_cell_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float], _stride: int) -> Tensor:
    """As `ops.anchors.cell_anchors`: (len(sizes) * len(aspect_ratios), 4)."""
    return cell_anchors(sizes, aspect_ratios)


class GridAnchors(nn.Module):
    """Anchors of some sizes and aspect ratios, centred on every cell.

    Source: Ren et al. 2015 (Faster R-CNN), sec. 3.1.1; Lin et al. 2017 (Feature Pyramid Networks), sec. 4.1.

    Args:
        sizes: for each level the square roots of the anchors' areas in pixels.
        aspect_ratios: for each level height over width.
        strides: for each level the pixels from one cell to the next.
        offset: where in its cell an anchor is centred, in strides, in [0, 1).
        build_cell: makes the anchors of one cell of sizes, aspect ratios and the stride.
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
        """How many anchors stand on one cell of each level."""
        return [len(self.get_buffer(f"cell{level}")) for level in range(len(self.strides))]

    @torch.no_grad()
    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """The anchors of each level, (H * W * A, 4) pixels; they are shared between calls and must not be changed."""
        sizes = tuple((int(level.shape[-2]), int(level.shape[-1])) for level in features)
        device = self.get_buffer("cell0").device
        if (sizes, device) not in self._cache:
            self._cache[sizes, device] = [
                grid_anchors(self.get_buffer(f"cell{level}"), size, stride=stride, offset=self.offset)
                for level, (size, stride) in enumerate(zip(sizes, self.strides, strict=True))
            ]
            if len(self._cache) > CACHED_SIZES:
                self._cache.popitem(last=False)
        return self._cache[sizes, device]


@ANCHOR_GENERATORS.register("DefaultAnchorGenerator")
def build_grid_anchors(cfg: CfgNode, strides: Sequence[int]) -> GridAnchors:
    """The anchors of `MODEL.ANCHOR_GENERATOR`; a single list of sizes or ratios holds for every level."""
    settings = cfg.MODEL.ANCHOR_GENERATOR
    return GridAnchors(
        anchor_lists(settings.SIZES, len(strides), "MODEL.ANCHOR_GENERATOR.SIZES"),
        aspect_ratios=anchor_lists(settings.ASPECT_RATIOS, len(strides), "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"),
        strides=strides,
        offset=settings.OFFSET,
    )


@ANCHOR_GENERATORS.register("RoundedAnchorGenerator")
def build_rounded_anchors(cfg: CfgNode, strides: Sequence[int]) -> GridAnchors:
    """Anchors with rounded shapes: Detectron's and maskrcnn-benchmark's, after the first code of Faster R-CNN."""
    settings = cfg.MODEL.ANCHOR_GENERATOR
    return GridAnchors(
        anchor_lists(settings.SIZES, len(strides), "MODEL.ANCHOR_GENERATOR.SIZES"),
        aspect_ratios=anchor_lists(settings.ASPECT_RATIOS, len(strides), "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"),
        strides=strides,
        offset=settings.OFFSET,
        build_cell=rounded_cell_anchors,
    )


def anchor_lists(values: Sequence, num_levels: int, key: str) -> list[list[float]]:
    """Sizes or aspect ratios for each level; `values` of the config may be one list for all levels."""
    # A flat list is how users write the values of all levels at once.
    lists = [list(level) for level in values] if values and not isinstance(values[0], int | float) else [list(values)]
    if len(lists) == 1:
        return lists * num_levels
    if len(lists) != num_levels:
        raise UserError(
            f"{key} has {len(lists)} lists where {num_levels} feature maps are used; give one, or one a map."
        )
    return lists
