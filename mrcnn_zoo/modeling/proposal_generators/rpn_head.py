"""RPN heads, and their outputs per anchor.

Rows of anchors count through the images, in each through the levels, in each through rows, columns and the anchors of a
cell: N * A of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.layers import Conv2d, relu_
from mrcnn_zoo.modeling.contracts import RPNHead
from mrcnn_zoo.ops.anchors import flatten_per_anchor
from mrcnn_zoo.registries import RPN_HEADS

WEIGHT_STD = 0.01  # Ren et al. 2015 (Faster R-CNN), sec. 3.1.3
WINDOW_SIDE = 3  # cells that a prediction of the paper's head depends on, in each direction


ObjectnessLayer = Callable[[int, int], nn.Module]  # (C, A) -> (N, C, H, W) to logits (N, A, H, W)


class SoftmaxObjectness(nn.Module):
    """A softmax over two classes for each anchor, background and object, as one logit: their difference.

    The softmax of two scores is the sigmoid of their difference, so ranking by it ranks by the probability of an
    object, and the binary cross-entropy of it is the cross-entropy over the two classes.

    Source: Ren et al. 2015 (Faster R-CNN), sec. 3.1, footnote on the two-class softmax layer.

    Args:
        in_channels: C.
        num_anchors: A, anchors a cell.
    """

    def __init__(self, in_channels: int, num_anchors: int) -> None:
        super().__init__()
        self.conv = Conv2d(in_channels, 2 * num_anchors, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, A, H, W) logits."""
        background, thing = self.conv(hidden).unflatten(1, (-1, 2)).unbind(2)
        return thing - background


def sigmoid_objectness(in_channels: int, num_anchors: int) -> nn.Module:
    """One output an anchor, the logit itself."""
    return Conv2d(in_channels, num_anchors, 1)


class StandardRPNHead(nn.Module):
    """3 x 3 convolutions, then one 1 x 1 convolution for objectness and one for boxes; shared by all levels.

    Source: Ren et al. 2015 (Faster R-CNN), sec. 3.1.

    Args:
        in_channels: C of every level.
        num_anchors: A, anchors a cell.
        hidden_channels: C after each 3 x 3 convolution.
        objectness: makes the layer that scores anchors.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        num_anchors: int,
        hidden_channels: Sequence[int],
        objectness: ObjectnessLayer = sigmoid_objectness,
    ) -> None:
        super().__init__()
        inputs = (in_channels, *hidden_channels)
        convs = [Conv2d(a, b, 3, activation=relu_) for a, b in zip(inputs, hidden_channels, strict=False)]
        # One convolution is named conv, several conv.conv0, conv.conv1, ..., as in Detectron2's checkpoints.
        self.conv = convs[0] if len(convs) == 1 else nn.Sequential()
        if len(convs) > 1:
            for index, conv in enumerate(convs):
                self.conv.add_module(f"conv{index}", conv)
        self.objectness_logits = objectness(inputs[-1], num_anchors)
        self.anchor_deltas = Conv2d(inputs[-1], 4 * num_anchors, 1)
        for layer in self.modules():
            if isinstance(layer, Conv2d):
                nn.init.normal_(layer.weight, std=WEIGHT_STD)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """For each level (N, C, H, W): logits (N, A, H, W) and deltas (N, 4 A, H, W), anchor by anchor."""
        hidden = [self.conv(level) for level in features]
        return [self.objectness_logits(level) for level in hidden], [self.anchor_deltas(level) for level in hidden]


def has_plain_window(head: object) -> bool:
    """Whether each prediction of a head depends on the 3 x 3 cells around it alone, by the same weights everywhere.

    True for `StandardRPNHead` itself with plain convolutions, one of them 3 x 3. A norm, a dilation, another kind of
    convolution or a subclass may depend on other cells.
    """
    if type(head) is not StandardRPNHead:
        return False
    layers = [layer for layer in head.modules() if not isinstance(layer, StandardRPNHead | SoftmaxObjectness)]
    return all(map(_is_plain, layers)) and [layer for layer in layers if layer.kernel_size != (1, 1)] == [head.conv]


def _is_plain(layer: nn.Module) -> bool:
    is_dense = type(layer) is Conv2d and layer.norm is None and layer.activation in (None, relu_)
    return is_dense and layer.kernel_size in ((1, 1), (WINDOW_SIDE, WINDOW_SIDE)) and layer.dilation == (1, 1)


@RPN_HEADS.register("StandardRPNHead")
def build_standard_rpn_head(cfg: CfgNode, channels: int, num_anchors: int) -> StandardRPNHead:
    """The head with the convolutions of `MODEL.RPN.CONV_DIMS` and a sigmoid."""
    return StandardRPNHead(channels, num_anchors=num_anchors, hidden_channels=_hidden_channels(cfg, channels))


@RPN_HEADS.register("SoftmaxRPNHead")
def build_softmax_rpn_head(cfg: CfgNode, channels: int, num_anchors: int) -> StandardRPNHead:
    """The head with the convolutions of `MODEL.RPN.CONV_DIMS` and a softmax over background and object."""
    hidden = _hidden_channels(cfg, channels)
    return StandardRPNHead(channels, num_anchors=num_anchors, hidden_channels=hidden, objectness=SoftmaxObjectness)


def _hidden_channels(cfg: CfgNode, channels: int) -> list[int]:
    """Those of `MODEL.RPN.CONV_DIMS`, where -1 keeps the number of channels."""
    hidden: list[int] = []
    for dim in cfg.MODEL.RPN.CONV_DIMS:
        hidden.append(dim if dim > 0 else (hidden[-1] if hidden else channels))
    return hidden


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
        deltas=[flatten_per_anchor(level, 4) for level in deltas],
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
