import math

import pytest
import torch
import torchvision

from mrcnn_zoo.losses.classification import (
    binary_cross_entropy,
    focal_loss_of_classes,
    sigmoid_focal_loss,
    softmax_cross_entropy,
)


def test_binary_cross_entropy_is_summed() -> None:
    # The logits 0 and log(3) are probabilities 1/2 and 3/4.
    loss = binary_cross_entropy(torch.tensor([0.0, math.log(3)]), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(loss, torch.tensor(math.log(2) + math.log(4)))


def test_softmax_cross_entropy_ignores_class_minus_one() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3)], [9.0, 1.0]])
    loss = softmax_cross_entropy(logits, torch.tensor([0, 1, -1]))
    torch.testing.assert_close(loss, torch.tensor(math.log(2) + math.log(4 / 3)))


def test_losses_of_no_rows_are_zero_with_a_gradient() -> None:
    logits = torch.zeros(0, 3, requires_grad=True)
    for loss in (
        softmax_cross_entropy(logits, torch.zeros(0, dtype=torch.int64)),
        binary_cross_entropy(logits, torch.zeros(0, 3)),
    ):
        assert loss == 0
        assert loss.requires_grad


def test_softmax_cross_entropy_of_ignored_rows_is_zero() -> None:
    assert softmax_cross_entropy(torch.randn(2, 3), torch.tensor([-1, -1])) == 0


def test_focal_loss_equals_hand_computed_values() -> None:
    # Probabilities 1/2 and 3/4, with focal weights (1/2)^2 and (1/4)^2.
    loss = sigmoid_focal_loss(torch.tensor([0.0, math.log(3)]), torch.tensor([0, 1]), alpha=0.25, gamma=2.0)
    torch.testing.assert_close(loss, torch.tensor([0.75 / 4 * math.log(2), 0.25 / 16 * math.log(4 / 3)]))


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 0.0), (0.9, 0.5), (0.0, 3.0)])
def test_focal_loss_and_gradient_agree_with_torchvision(alpha: float, gamma: float) -> None:
    logits = 4 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    targets = (torch.arange(30).reshape(6, 5) % 3 == 0).float()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = sigmoid_focal_loss(ours, targets, alpha=alpha, gamma=gamma)
    reference = torchvision.ops.sigmoid_focal_loss(theirs, targets, alpha=alpha, gamma=gamma)
    torch.testing.assert_close(loss, reference)
    loss.sum().backward()
    reference.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_is_finite_for_extreme_logits(gamma: float) -> None:
    logits = torch.tensor([-1e4, -100.0, 100.0, 1e4]).repeat(2).requires_grad_()
    targets = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    loss = sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=gamma)
    loss.sum().backward()
    assert loss[3].item() == pytest.approx(7500)
    assert loss[4].item() == pytest.approx(2500)
    assert loss[0] == 0
    assert logits.grad.isfinite().all()


def test_focal_loss_of_classes_equals_the_loss_of_one_hot_targets() -> None:
    logits = 3 * torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    classes = torch.tensor([0, 4, -1, 3, 4])
    table = torch.zeros(5, 4)
    table[0, 0] = table[3, 3] = 1
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = focal_loss_of_classes(ours, classes, alpha=0.25, gamma=2.0)
    dense = torchvision.ops.sigmoid_focal_loss(theirs[[0, 1, 3, 4]], table[[0, 1, 3, 4]], 0.25, 2.0, "sum")
    torch.testing.assert_close(loss, dense)
    loss.backward()
    dense.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_focal_loss_of_no_rows_is_zero_with_a_gradient() -> None:
    logits = torch.zeros(0, 3, requires_grad=True)
    loss = focal_loss_of_classes(logits, torch.zeros(0, dtype=torch.int64), alpha=0.25, gamma=2.0)
    assert loss == 0
    assert loss.requires_grad
    assert focal_loss_of_classes(torch.randn(2, 3), torch.tensor([-1, -1]), alpha=0.25, gamma=2.0) == 0
