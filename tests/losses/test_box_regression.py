import math

import pytest
import torch
import torchvision
from torch.nn import functional as F

from mrcnn_zoo.losses.box_regression import (
    complete_iou_loss,
    distance_iou_loss,
    generalized_iou_loss,
    smooth_l1,
)
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.registries import BOX_LOSSES
from support.scenes import random_boxes

FORMULAS = {
    "giou": (generalized_iou_loss, torchvision.ops.generalized_box_iou_loss),
    "diou": (distance_iou_loss, torchvision.ops.distance_box_iou_loss),
    "ciou": (complete_iou_loss, torchvision.ops.complete_box_iou_loss),
}


def test_smooth_l1_is_quadratic_below_beta_and_linear_above() -> None:
    difference = torch.tensor([0.5, -1.0, 3.0])
    assert smooth_l1(difference, torch.zeros(3), beta=2.0).tolist() == [0.0625, 0.25, 2.0]


def test_smooth_l1_with_beta_zero_is_l1() -> None:
    assert smooth_l1(torch.tensor([0.5, -3.0]), torch.tensor([0.0, 1.0]), beta=0.0).tolist() == [0.5, 4.0]


def test_smooth_l1_agrees_with_torch() -> None:
    predicted, target = random_boxes(20, seed=0), random_boxes(20, seed=1)
    expected = F.smooth_l1_loss(predicted, target, beta=7.0, reduction="none")
    torch.testing.assert_close(smooth_l1(predicted, target, beta=7.0), expected)


@pytest.mark.parametrize("name", FORMULAS)
def test_iou_losses_and_their_gradients_agree_with_torchvision(name: str) -> None:
    ours, theirs = FORMULAS[name]
    predicted, target = random_boxes(60, seed=0).requires_grad_(), random_boxes(60, seed=1)
    torch.testing.assert_close(ours(predicted, target), theirs(predicted, target), atol=1e-5, rtol=1e-5)
    expected = torch.autograd.grad(theirs(predicted, target).sum(), predicted)
    actual = torch.autograd.grad(ours(predicted, target).sum(), predicted)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", FORMULAS)
def test_iou_losses_stay_finite_on_boxes_without_area(name: str) -> None:
    point = torch.tensor([[3.0, 3.0, 3.0, 3.0]], requires_grad=True)
    loss = FORMULAS[name][0](point, torch.tensor([[3.0, 3.0, 3.0, 3.0]])).sum()
    (gradient,) = torch.autograd.grad(loss, point)
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_giou_loss_by_hand() -> None:
    # Two unit squares with a gap of one between them: IoU 0, hull 3, union 2.
    loss = generalized_iou_loss(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[2.0, 0.0, 3.0, 1.0]]))
    torch.testing.assert_close(loss, torch.tensor([1 + 1 / 3]))


@pytest.mark.parametrize(("name", "beta"), [("smooth_l1", 0.0), ("l1", 1.0)])
def test_the_delta_loss_compares_deltas(name: str, beta: float) -> None:
    # To double the width around the same centre is a delta of log 2.
    loss = BOX_LOSSES.get(name)(beta)
    source, target = torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[-1.0, 0.0, 3.0, 2.0]])
    assert math.isclose(loss(torch.zeros(1, 4), source, target, BoxCoder((1, 1, 1, 1))), math.log(2), rel_tol=1e-6)


@pytest.mark.parametrize("name", FORMULAS)
def test_the_losses_of_decoded_boxes_vanish_on_the_target(name: str) -> None:
    coder = BoxCoder((10, 10, 5, 5))
    source, target = random_boxes(5, seed=0), random_boxes(5, seed=1)
    loss = BOX_LOSSES.get(name)(0.0)(coder.encode(source, target), source, target, coder)
    assert abs(loss) < 1e-4
