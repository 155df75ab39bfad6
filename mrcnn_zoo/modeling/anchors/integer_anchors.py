"""torchvision's anchors: whole pixels, and strides computed from the padded size of the images."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.anchors.grid_anchors import anchor_lists
from mrcnn_zoo.registries import ANCHOR_GENERATORS


class IntegerAnchors(nn.Module):
    """Anchors with corners on whole pixels, centred on the upper left corner of every cell.

    Detectors trained with torchvision need them. They differ from `GridAnchors` in three ways. The corners are rounded.
    The anchors of a cell are ordered by aspect ratio first, then by size. The stride of a level is the padded height or
    width of the images over the cells of the level, rounded down: the five rows of p7 over 608 pixels are 121 pixels
    apart, not 128.

    Source: `torchvision.models.detection.anchor_utils.AnchorGenerator`.

    Args:
        sizes: of each level: square roots of the anchors' areas, pixels.
        aspect_ratios: of each level: height over width.
        finest_stride: pixels per cell of the first level; it must divide the padded sides of the images.
    """

    def __init__(
        self, sizes: Sequence[Sequence[float]], *, aspect_ratios: Sequence[Sequence[float]], finest_stride: int
    ) -> None:
        super().__init__()
        self.finest_stride = finest_stride
        self.num_levels = len(sizes)
        for level, (level_sizes, level_ratios) in enumerate(zip(sizes, aspect_ratios, strict=True)):
            self.register_buffer(f"cell{level}", integer_cell_anchors(level_sizes, level_ratios), persistent=False)

    @property
    def anchors_per_cell(self) -> list[int]:
        """Number of anchors per cell of each level."""
        return [len(self.get_buffer(f"cell{level}")) for level in range(self.num_levels)]

    @torch.no_grad()
    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """The anchors of each level.

        Args:
            features: (N, C, H, W) of each level.

        Returns:
            (H * W * A, 4) pixels for each level, in the order of rows, columns, anchors of a cell.
        """
        image_height, image_width = (self.finest_stride * int(side) for side in features[0].shape[-2:])
        levels = []
        for number, level in enumerate(features):
            height, width = int(level.shape[-2]), int(level.shape[-1])
            cell = self.get_buffer(f"cell{number}")
            ys = torch.arange(height, device=cell.device) * (image_height // height)
            xs = torch.arange(width, device=cell.device) * (image_width // width)
            y, x = torch.meshgrid(ys, xs, indexing="ij")
            shifts = torch.stack((x, y, x, y), dim=-1).to(cell.dtype)  # (H, W, 4)
            levels.append((shifts[:, :, None] + cell).reshape(-1, 4))
        return levels


def integer_cell_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
    """The anchors of one cell, centred at the origin: all sizes of the first aspect ratio, then of the next.

    Args:
        sizes: square roots of the areas, pixels.
        aspect_ratios: height over width.

    Returns:
        (len(aspect_ratios) * len(sizes), 4) float32 with whole numbers; halves are rounded to the even one.
    """
    # In float32 and in this order of operations: a corner near a half must fall on the same side as torchvision's.
    heights_over_size = torch.tensor(aspect_ratios, dtype=torch.float32).sqrt()
    widths_over_size = 1 / heights_over_size
    size = torch.tensor(sizes, dtype=torch.float32)
    widths = (widths_over_size[:, None] * size).flatten()
    heights = (heights_over_size[:, None] * size).flatten()
    return (torch.stack((-widths, -heights, widths, heights), dim=1) / 2).round()


@ANCHOR_GENERATORS.register("TorchvisionAnchorGenerator")
def build_integer_anchors(cfg: CfgNode, strides: Sequence[int]) -> IntegerAnchors:
    """torchvision's anchors, with the sizes and ratios of `MODEL.ANCHOR_GENERATOR`.

    Args:
        cfg: the whole config.
        strides: pixels per cell of each feature map.
    """
    settings = cfg.MODEL.ANCHOR_GENERATOR
    if settings.OFFSET != 0:
        raise UserError(
            f"MODEL.ANCHOR_GENERATOR.OFFSET = {settings.OFFSET}: TorchvisionAnchorGenerator has no offset: set it to 0."
        )
    return IntegerAnchors(
        anchor_lists(settings.SIZES, len(strides), "MODEL.ANCHOR_GENERATOR.SIZES"),
        aspect_ratios=anchor_lists(settings.ASPECT_RATIOS, len(strides), "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"),
        finest_stride=strides[0],
    )
