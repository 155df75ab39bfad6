"""Losses as sums with counts, and their normalisation."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.structures import LossSum, TrainingOutput


def test_each_loss_is_divided_by_its_own_count() -> None:
    output = TrainingOutput({"a": LossSum(torch.tensor(6.0), 4), "b": torch.tensor(2.0)})
    assert {name: loss.item() for name, loss in output.losses.items()} == {"a": 1.5, "b": 2.0}
    assert output.total().item() == 3.5


@pytest.mark.parametrize("count", [0, torch.tensor(0)])
def test_count_of_zero_gives_a_loss_of_zero_with_a_gradient(count: int | Tensor) -> None:
    weight = torch.ones(3, requires_grad=True)
    TrainingOutput({"a": LossSum((weight * 0).sum(), count)}).total().backward()
    assert weight.grad is not None
    assert not weight.grad.any()


def test_fractional_count_is_the_divisor() -> None:
    assert TrainingOutput({"a": LossSum(torch.tensor(1.0), 0.25)}).total().item() == 4.0


def test_divisor_is_called_once_for_all_losses() -> None:
    calls = []

    def divisor(count: Tensor) -> Tensor:
        calls.append(count.item())
        return count + 1

    output = TrainingOutput({name: LossSum(torch.tensor(8.0), 3, divisor) for name in "ab"})
    assert output.total().item() == output.total().item() == 4.0
    assert calls == [3]


class RunningSum:
    def __init__(self) -> None:
        self.value = torch.zeros(())

    def add(self, count: Tensor) -> Tensor:
        self.value = self.value + count
        return self.value


def test_bound_method_is_one_divisor() -> None:
    running = RunningSum()
    output = TrainingOutput({name: LossSum(torch.tensor(8.0), 4, running.add) for name in "ab"})
    assert {name: loss.item() for name, loss in output.losses.items()} == {"a": 2.0, "b": 2.0}
    assert running.value.item() == 4


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (torch.ones(3), r"loss 'a' must be a tensor of one number, not shape \(3,\)"),
        (LossSum(torch.ones((0, 2)), 1), r"not shape \(0, 2\)"),
        (1.5, "loss 'a' must be a tensor of one number, not float"),
    ],
)
def test_loss_that_is_no_scalar_is_refused(loss: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainingOutput({"a": loss})


def test_union_refuses_duplicate_names() -> None:
    output = TrainingOutput({"a": torch.zeros(())}, {"m": torch.zeros(())})
    assert (output | TrainingOutput({"b": torch.ones(())})).total().item() == 1
    with pytest.raises(ValueError, match="the same names: m"):
        output | TrainingOutput({}, {"m": torch.zeros(())})


def test_total_of_no_losses_is_an_error() -> None:
    with pytest.raises(ValueError, match="no losses to add up"):
        TrainingOutput().total()
