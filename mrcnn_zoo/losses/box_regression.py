"""Box regression losses, on deltas or on decoded boxes, summed over regions."""

import math
from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.registries import BOX_LOSSES

EPSILON = 1e-7  # keeps quotients of empty boxes finite


class BoxLoss(Protocol):
    """The loss of predicted deltas, as `BOX_LOSSES` builds it."""

    def __call__(self, deltas: Tensor, sources: Tensor, targets: Tensor, coder: BoxCoder) -> Tensor:
        """The loss summed over rows.

        Args:
            deltas: (R, 4) predicted, relative to `sources`.
            sources: (R, 4) boxes that the deltas refer to, pixels.
            targets: (R, 4) ground-truth boxes, pixels.
            coder: turns deltas into boxes and back.

        Returns:
            Scalar; 0 with a gradient of 0 if there are no rows.
        """
        ...


def smooth_l1(deltas: Tensor, sources: Tensor, targets: Tensor, coder: BoxCoder, *, beta: float) -> Tensor:
    """Smooth L1 loss of the deltas: quadratic below a difference of `beta`, linear above; L1 if `beta` is 0.

    Source: Girshick 2015 (Fast R-CNN), eq. 3, where beta is 1.

    Args:
        deltas: (R, 4), see `BoxLoss`.
        sources: (R, 4) pixels.
        targets: (R, 4) pixels.
        coder: encodes the targets.
        beta: at least 0, in units of deltas.
    """
    return F.smooth_l1_loss(deltas, coder.encode(sources, targets), beta=beta, reduction="sum")


def complete_iou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """The DIoU loss plus a penalty of different aspect ratios.

    Not `torchvision.ops.complete_box_iou_loss`, which is NaN for an empty predicted box.

    Source: Zheng et al. 2020 (DIoU), eqs. 8 to 11; the trade-off factor is a constant for the gradient.

    Args:
        predicted: (R, 4) pixels.
        target: (R, 4) pixels.

    Returns:
        (R,).
    """
    from torchvision.ops import distance_box_iou_loss

    aspect = 4 / math.pi**2 * (_aspect_angle(target) - _aspect_angle(predicted)) ** 2
    with torch.no_grad():
        trade_off = aspect / (1 - _paired_iou(predicted, target) + aspect + EPSILON)
    return distance_box_iou_loss(predicted, target) + trade_off * aspect


def _paired_iou(predicted: Tensor, target: Tensor) -> Tensor:
    """IoU of row r with row r."""
    corners = torch.maximum(predicted[:, :2], target[:, :2]), torch.minimum(predicted[:, 2:], target[:, 2:])
    intersection = box_ops.area(torch.cat(corners, dim=1))
    return intersection / (box_ops.area(predicted) + box_ops.area(target) - intersection + EPSILON)


def _aspect_angle(boxes: Tensor) -> Tensor:
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
    return torch.atan(width / (height + EPSILON))


class DecodedBoxLoss:
    """A loss of the decoded boxes.

    Args:
        formula: (R, 4) predicted, (R, 4) target, pixels -> (R,).
    """

    def __init__(self, formula: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.formula = formula

    def __call__(self, deltas: Tensor, sources: Tensor, targets: Tensor, coder: BoxCoder) -> Tensor:
        return self.formula(coder.decode(deltas, sources), targets).sum()


@BOX_LOSSES.register("smooth_l1")
def build_smooth_l1(beta: float) -> BoxLoss:
    """Smooth L1 of deltas, plain L1 where `beta` is 0."""
    return partial(smooth_l1, beta=beta)


@BOX_LOSSES.register("l1")
def build_l1(_beta: float) -> BoxLoss:
    """Plain L1 of deltas."""
    return partial(smooth_l1, beta=0.0)


@BOX_LOSSES.register("giou")
def build_giou(_beta: float) -> BoxLoss:
    """Generalized IoU of boxes. Source: Rezatofighi et al. 2019 (GIoU), algorithm 1."""
    from torchvision.ops import generalized_box_iou_loss

    return DecodedBoxLoss(generalized_box_iou_loss)


@BOX_LOSSES.register("diou")
def build_diou(_beta: float) -> BoxLoss:
    """Distance IoU of boxes. Source: Zheng et al. 2020 (DIoU), eq. 7."""
    from torchvision.ops import distance_box_iou_loss

    return DecodedBoxLoss(distance_box_iou_loss)


@BOX_LOSSES.register("ciou")
def build_ciou(_beta: float) -> BoxLoss:
    """Complete IoU of boxes. Source: Zheng et al. 2020 (DIoU), eqs. 8 to 11."""
    return DecodedBoxLoss(complete_iou_loss)
