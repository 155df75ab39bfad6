"""Box losses against hand-computed values and torchvision."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor

from mrcnn_zoo.losses.box_regression import complete_iou_loss
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.registries import BOX_LOSSES
from support.scenes import random_boxes

IOU_LOSSES = ("giou", "diou", "ciou")
IDENTITY: Any = SimpleNamespace(encode=lambda _, targets: targets, decode=lambda deltas, _: deltas)


def loss_of(name: str, predicted: Tensor, target: Tensor, *, beta: float = 0.0) -> Tensor:
    """The loss with an identity box coder."""
    return BOX_LOSSES.get(name)(beta)(predicted, target, target, IDENTITY)


def test_smooth_l1_is_quadratic_below_beta_and_linear_above() -> None:
    difference = torch.tensor([[0.5, -1.0, 3.0, 0.0]])
    assert loss_of("smooth_l1", difference, torch.zeros(1, 4), beta=2.0) == 0.0625 + 0.25 + 2.0


@pytest.mark.parametrize(("name", "beta"), [("smooth_l1", 0.0), ("l1", 1.0)])
def test_smooth_l1_with_beta_zero_is_l1(name: str, beta: float) -> None:
    assert loss_of(name, torch.tensor([[0.5, -3.0, 0, 0]]), torch.tensor([[0.0, 1.0, 0, 0]]), beta=beta) == 4.5


@pytest.mark.parametrize(("name", "beta"), [("smooth_l1", 0.0), ("l1", 1.0)])
def test_smooth_l1_and_l1_compare_deltas(name: str, beta: float) -> None:
    # A box of twice the width with the same centre has the delta log 2.
    loss = BOX_LOSSES.get(name)(beta)
    source, target = torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[-1.0, 0.0, 3.0, 2.0]])
    assert math.isclose(loss(torch.zeros(1, 4), source, target, BoxCoder((1, 1, 1, 1))), math.log(2), rel_tol=1e-6)


@pytest.mark.parametrize(("name", "expected"), [("giou", 1 + 1 / 3), ("diou", 1 + 4 / 10), ("ciou", 1 + 4 / 10)])
def test_iou_losses_of_disjoint_squares(name: str, expected: float) -> None:
    # Two unit squares with a gap of 1: IoU 0, union 2, hull 3 x 1, distance of the centres 2.
    loss = loss_of(name, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[2.0, 0.0, 3.0, 1.0]]))
    assert loss.item() == pytest.approx(expected)


def test_complete_iou_loss_and_gradient_equal_torchvision() -> None:
    predicted, target = random_boxes(60, seed=0).requires_grad_(), random_boxes(60, seed=1)
    ours, theirs = complete_iou_loss(predicted, target), torchvision.ops.complete_box_iou_loss(predicted, target)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    expected = torch.autograd.grad(theirs.sum(), predicted)
    torch.testing.assert_close(torch.autograd.grad(ours.sum(), predicted), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", IOU_LOSSES)
def test_iou_losses_of_empty_boxes_are_finite(name: str) -> None:
    point = torch.tensor([[3.0, 3.0, 3.0, 3.0]], requires_grad=True)
    loss = loss_of(name, point, torch.tensor([[3.0, 3.0, 3.0, 3.0]]))
    (gradient,) = torch.autograd.grad(loss, point)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", IOU_LOSSES)
def test_iou_losses_of_decoded_targets_are_zero(name: str) -> None:
    coder = BoxCoder((10, 10, 5, 5))
    source, target = random_boxes(5, seed=0), random_boxes(5, seed=1)
    loss = BOX_LOSSES.get(name)(0.0)(coder.encode(source, target), source, target, coder)
    assert abs(loss) < 1e-4
