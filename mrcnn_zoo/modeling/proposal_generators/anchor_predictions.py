"""What an RPN head says of anchors: of all of them, or of a few for much less work.

Rows of anchors count through the images, in each through the levels, in each through rows, columns and the anchors of a
cell: N * A of them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mrcnn_zoo.modeling.contracts import RPNHead
from mrcnn_zoo.ops.anchors import by_anchor


@dataclass(frozen=True)
class AnchorPredictions:
    """Of every anchor of N images, level by level."""

    anchors: list[Tensor]  # (A, 4) pixels
    logits: list[Tensor]  # (N, A)
    deltas: list[Tensor]  # (N, A, 4)

    def joined(self) -> tuple[Tensor, Tensor, Tensor]:
        """The levels one after another: (A, 4) anchors, (N, A) logits, (N, A, 4) deltas."""
        return torch.cat(self.anchors), torch.cat(self.logits, dim=1), torch.cat(self.deltas, dim=1)

    def at(self, rows: Tensor) -> "SampledPredictions":
        """The predictions of some anchors."""
        return SampledPredictions(
            torch.cat(self.logits, dim=1).flatten()[rows], torch.cat(self.deltas, dim=1).flatten(0, 1)[rows]
        )


@dataclass(frozen=True)
class SampledPredictions:
    """Of some anchors of a batch."""

    logits: Tensor  # (M,)
    deltas: Tensor  # (M, 4)


def predict_all(head: RPNHead, levels: list[Tensor], anchors: list[Tensor]) -> AnchorPredictions:
    """Run the head on whole maps.

    Args:
        head: the RPN head.
        levels: (N, C, H, W) each.
        anchors: of each level, (H * W * A, 4).
    """
    logits, deltas = head(levels)
    return AnchorPredictions(
        anchors=anchors,
        logits=[level.permute(0, 2, 3, 1).flatten(1) for level in logits],
        deltas=[by_anchor(level, 4) for level in deltas],
    )


def predict_at(head: RPNHead, levels: list[Tensor], anchors_per_cell: int, rows: Tensor) -> SampledPredictions:
    """Run the head only around the cells of some anchors: the same numbers as `predict_all(...).at(rows)`.

    Gradients of losses on a few hundred anchors are zero nearly everywhere. Dense maps would carry those zeros backward
    through the head's 3 x 3 convolution, at the cost of twice its forward pass.

    Args:
        head: each of its predictions depends on the 3 x 3 cells around it; see `has_plain_window`. Not more, because a
            second convolution would see a border that only the first one pads.
        levels: (N, C, H, W) each.
        anchors_per_cell: A, the same on every level.
        rows: (M,) int64.
    """
    cells_of_levels = [level.shape[-2] * level.shape[-1] for level in levels]
    images = rows // (sum(cells_of_levels) * anchors_per_cell)
    cells = rows // anchors_per_cell % sum(cells_of_levels)
    patches, order = [], []
    first = 0
    for level, count in zip(levels, cells_of_levels, strict=True):
        members = ((cells >= first) & (cells < first + count)).nonzero().flatten()
        patches.append(_cut_patches(level, images[members], cells[members] - first))
        order.append(members)
        first += count
    (logits,), (deltas,) = head([torch.cat(patches)])
    back = torch.cat(order).argsort()
    center = (back, slice(None), 1, 1)
    anchor = (torch.arange(len(rows), device=rows.device), rows % anchors_per_cell)
    return SampledPredictions(logits[center][anchor], deltas[center].unflatten(1, (-1, 4))[anchor])


def _cut_patches(level: Tensor, images: Tensor, cells: Tensor) -> Tensor:
    """The neighbourhood of each cell, zeros outside the map: (M, C, 3, 3)."""
    height, width = level.shape[-2:]
    offsets = torch.arange(-1, 2, device=level.device)
    y = (cells // width)[:, None, None] + offsets[:, None]
    x = (cells % width)[:, None, None] + offsets
    is_outside = (y < 0) | (y >= height) | (x < 0) | (x >= width)
    positions = (images[:, None, None] * height + y.clamp(0, height - 1)) * width + x.clamp(0, width - 1)
    # Each position once, because patches overlap: threads that add up the gradient of one position in any order would
    # make runs differ in the last bits. Channels last, to copy the channels of a position as one piece.
    unique, inverse = positions.unique(return_inverse=True)
    columns = level.permute(0, 2, 3, 1)[unique // (height * width), unique // width % height, unique % width]
    values = columns.index_select(0, inverse.flatten()).unflatten(0, inverse.shape)
    return values.masked_fill(is_outside[..., None], 0).permute(0, 3, 1, 2)
