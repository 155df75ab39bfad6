"""Losses of predicted boxes.

The formulas compare rows and return one number a row. A `BoxLoss` is what `BOX_LOSSES` builds: it takes predicted
deltas, decides whether to compare deltas or decoded boxes, and returns the sum.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.registries import BOX_LOSSES

EPSILON = 1e-7  # keeps quotients of empty boxes finite


class BoxLoss(Protocol):
    """How far predicted boxes are from their targets."""

    def __call__(self, deltas: Tensor, sources: Tensor, targets: Tensor, coder: BoxCoder) -> Tensor:
        """The loss summed over rows.

        Args:
            deltas: (R, 4) predicted, relative to `sources`.
            sources: (R, 4) boxes that the prediction started from, pixels.
            targets: (R, 4) boxes to reach, pixels.
            coder: turns deltas into boxes and back.

        Returns:
            Scalar; 0 with a gradient of 0 when there are no rows.
        """
        ...


def smooth_l1(predicted: Tensor, target: Tensor, *, beta: float) -> Tensor:
    """Quadratic below a difference of `beta`, linear above, L1 when `beta` is 0; (...,) -> (...,).

    Source: Girshick 2015 (Fast R-CNN), eq. 3, where beta is 1.
    """
    difference = (predicted - target).abs()
    if beta == 0:
        return difference
    return torch.where(difference < beta, 0.5 * difference**2 / beta, difference - 0.5 * beta)


def generalized_iou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - GIoU of each row: (R, 4), (R, 4) -> (R,) in [0, 2].

    Source: Rezatofighi et al. 2019 (GIoU), algorithm 1.
    """
    iou, union = _paired_iou(predicted, target)
    hull_width, hull_height = _hull_sides(predicted, target)
    hull = hull_width * hull_height
    return 1 - iou + (hull - union) / (hull + EPSILON)


def distance_iou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - IoU plus the squared distance of the centres over the squared diagonal of the hull: (R, 4), (R, 4) -> (R,).

    Source: Zheng et al. 2020 (DIoU), eq. 7.
    """
    iou, _ = _paired_iou(predicted, target)
    return 1 - iou + _center_distance(predicted, target)


def complete_iou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """The DIoU loss plus a penalty for the wrong aspect ratio: (R, 4), (R, 4) -> (R,).

    Source: Zheng et al. 2020 (DIoU), eqs. 8 to 11; the trade-off factor is a constant for the gradient.
    """
    iou, _ = _paired_iou(predicted, target)
    aspect = 4 / math.pi**2 * (_aspect_angle(target) - _aspect_angle(predicted)) ** 2
    with torch.no_grad():
        trade_off = aspect / (1 - iou + aspect + EPSILON)
    return 1 - iou + _center_distance(predicted, target) + trade_off * aspect


def _paired_iou(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and union of row r with row r."""
    corners = torch.maximum(predicted[:, :2], target[:, :2]), torch.minimum(predicted[:, 2:], target[:, 2:])
    intersection = box_ops.area(torch.cat(corners, dim=1))
    union = box_ops.area(predicted) + box_ops.area(target) - intersection
    return intersection / (union + EPSILON), union


def _hull_sides(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Width and height of the smallest box around both."""
    sides = torch.maximum(predicted[:, 2:], target[:, 2:]) - torch.minimum(predicted[:, :2], target[:, :2])
    width, height = sides.unbind(1)
    return width, height


def _center_distance(predicted: Tensor, target: Tensor) -> Tensor:
    hull_width, hull_height = _hull_sides(predicted, target)
    twice_offset = (predicted[:, :2] + predicted[:, 2:]) - (target[:, :2] + target[:, 2:])
    return 0.25 * twice_offset.square().sum(dim=1) / (hull_width**2 + hull_height**2 + EPSILON)


def _aspect_angle(boxes: Tensor) -> Tensor:
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
    return torch.atan(width / (height + EPSILON))


class DeltaLoss:
    """Smooth L1 between predicted and wanted deltas."""

    def __init__(self, *, beta: float) -> None:
        self.beta = beta

    def __call__(self, deltas: Tensor, sources: Tensor, targets: Tensor, coder: BoxCoder) -> Tensor:
        return smooth_l1(deltas, coder.encode(sources, targets), beta=self.beta).sum()


class DecodedBoxLoss:
    """A formula over the boxes that the deltas stand for.

    Args:
        formula: (R, 4) predicted, (R, 4) target -> (R,).
    """

    def __init__(self, formula: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.formula = formula

    def __call__(self, deltas: Tensor, sources: Tensor, targets: Tensor, coder: BoxCoder) -> Tensor:
        return self.formula(coder.decode(deltas, sources), targets).sum()


@BOX_LOSSES.register("smooth_l1")
def build_smooth_l1(beta: float) -> BoxLoss:
    """Smooth L1 of deltas, plain L1 where `beta` is 0."""
    return DeltaLoss(beta=beta)


@BOX_LOSSES.register("l1")
def build_l1(_beta: float) -> BoxLoss:
    """Plain L1 of deltas."""
    return DeltaLoss(beta=0.0)


@BOX_LOSSES.register("giou")
def build_giou(_beta: float) -> BoxLoss:
    """Generalized IoU of boxes."""
    return DecodedBoxLoss(generalized_iou_loss)


@BOX_LOSSES.register("diou")
def build_diou(_beta: float) -> BoxLoss:
    """Distance IoU of boxes."""
    return DecodedBoxLoss(distance_iou_loss)


@BOX_LOSSES.register("ciou")
def build_ciou(_beta: float) -> BoxLoss:
    """Complete IoU of boxes."""
    return DecodedBoxLoss(complete_iou_loss)
