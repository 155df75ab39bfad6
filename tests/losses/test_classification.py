import math

import torch

from mrcnn_zoo.losses.classification import binary_cross_entropy, softmax_cross_entropy


def test_binary_cross_entropy_adds_up() -> None:
    # A logit of 0 is a probability of a half; log(3) is one of three quarters.
    loss = binary_cross_entropy(torch.tensor([0.0, math.log(3)]), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(loss, torch.tensor(math.log(2) + math.log(4)))


def test_softmax_cross_entropy_leaves_out_ignored_rows() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3)], [9.0, 1.0]])
    loss = softmax_cross_entropy(logits, torch.tensor([0, 1, -1]))
    torch.testing.assert_close(loss, torch.tensor(math.log(2) + math.log(4 / 3)))


def test_losses_of_nothing_are_zero_and_have_a_gradient() -> None:
    logits = torch.zeros(0, 3, requires_grad=True)
    for loss in (
        softmax_cross_entropy(logits, torch.zeros(0, dtype=torch.int64)),
        binary_cross_entropy(logits, torch.zeros(0, 3)),
    ):
        assert loss == 0
        assert loss.requires_grad


def test_only_ignored_rows_give_zero() -> None:
    assert softmax_cross_entropy(torch.randn(2, 3), torch.tensor([-1, -1])) == 0
