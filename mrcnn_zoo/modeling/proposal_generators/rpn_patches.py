"""RPN predictions on the sampled anchors alone, from 3 x 3 patches: the training path of `StandardRPNHead` on the CPU.

256 of some 268,000 anchors are trained per image, so the gradient of dense maps is 0 nearly everywhere. On the CPU it
is faster to run the head again on the neighbourhoods of the sampled cells, with gradient, than to carry those zeros
backward through the head's 3 x 3 convolution, which costs twice its forward pass. Losses and gradients are the same.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mrcnn_zoo.layers import Conv2d, relu_
from mrcnn_zoo.modeling.contracts import RPNHead
from mrcnn_zoo.modeling.proposal_generators.rpn_head import SoftmaxObjectness, StandardRPNHead

PATCH_SIDE = 3  # cells, the receptive field of the paper's head


def can_use_patches(head: object, levels: Sequence[Tensor], num_anchors: int) -> bool:
    """Whether predictions on patches equal those on whole maps and are computed on fewer cells.

    Args:
        head: the RPN head.
        levels: (N, C, H, W) each.
        num_anchors: sampled anchors of all images.
    """
    num_cells = sum(level.shape[0] * level.shape[-2] * level.shape[-1] for level in levels)
    is_on_cpu = levels[0].device.type == "cpu"
    return is_on_cpu and num_anchors * PATCH_SIDE**2 <= num_cells and has_3x3_receptive_field(head)


def has_3x3_receptive_field(head: object) -> bool:
    """Whether each prediction depends on the 3 x 3 cells around it alone, by the same weights everywhere.

    True for `StandardRPNHead` itself with plain convolutions, one of them 3 x 3. A norm, a dilation, another kind of
    convolution or a subclass may depend on other cells; a second 3 x 3 convolution would see a border that only the
    first one pads.

    Args:
        head: the RPN head.
    """
    if type(head) is not StandardRPNHead:
        return False
    layers = [layer for layer in head.modules() if not isinstance(layer, StandardRPNHead | SoftmaxObjectness)]
    return all(map(_is_plain, layers)) and [layer for layer in layers if layer.kernel_size != (1, 1)] == [head.conv]


def _is_plain(layer: nn.Module) -> bool:
    is_dense = type(layer) is Conv2d and layer.norm is None and layer.activation in (None, relu_)
    return is_dense and layer.kernel_size in ((1, 1), (PATCH_SIDE, PATCH_SIDE)) and layer.dilation == (1, 1)


def predict_on_patches(
    head: RPNHead, levels: Sequence[Tensor], anchors_per_cell: int, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Predictions on some anchors, with gradient: the same numbers as on whole maps.

    Args:
        head: one with `has_3x3_receptive_field`.
        levels: (N, C, H, W) each.
        anchors_per_cell: A, the same on every level.
        rows: (M,) int64 anchors, counted through images, levels, cells and the anchors of a cell.

    Returns:
        (M,) logits and (M, 4) deltas.
    """
    cells_per_level = [level.shape[-2] * level.shape[-1] for level in levels]
    images = rows // (sum(cells_per_level) * anchors_per_cell)
    cells = rows // anchors_per_cell % sum(cells_per_level)
    patches, order = [], []
    first = 0
    for level, count in zip(levels, cells_per_level, strict=True):
        members = ((cells >= first) & (cells < first + count)).nonzero().flatten()
        patches.append(_cut_patches(level, images[members], cells[members] - first))
        order.append(members)
        first += count
    (logits,), (deltas,) = head([torch.cat(patches)])
    back = torch.cat(order).argsort()
    center = (back, slice(None), 1, 1)
    anchor = (torch.arange(len(rows), device=rows.device), rows % anchors_per_cell)
    return logits[center][anchor], deltas[center].unflatten(1, (-1, 4))[anchor]


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
