import math

import pytest
import torch
from torch import Tensor

from mrcnn_zoo.losses.mask import DiceMaskLoss, SigmoidMaskLoss, SoftmaxMaskLoss
from mrcnn_zoo.registries import MASK_LOSSES

CLASSES = torch.tensor([2, 0, 1])


def logits_of(targets: Tensor, certainty: float, *, maps_compete: bool) -> Tensor:
    """Maps that predict `targets` for the classes of three regions: (3, M, M), or (3, 4, M, M) with background."""
    own = (targets.float() * 2 - 1) * certainty
    if not maps_compete:
        return own
    maps = torch.full((3, 4, *targets.shape[1:]), -certainty)
    maps[torch.arange(3), CLASSES], maps[:, 3] = own, -own
    return maps


def test_sigmoid_loss_equals_hand_computed_value() -> None:
    logits = torch.tensor([[[0.0, 2.0]], [[-1.0, 0.0]]])
    targets = torch.tensor([[[True, False]], [[False, False]]])
    expected = math.log(2) + math.log(1 + math.exp(2)) + math.log(1 + math.exp(-1)) + math.log(2)
    assert SigmoidMaskLoss()(logits, targets, CLASSES[:2]).item() == pytest.approx(expected)


def test_softmax_loss_equals_hand_computed_value() -> None:
    # One region of class 1 with two pixels; maps of two classes and background.
    logits = torch.tensor([[[[0.0, 1.0]], [[2.0, 0.0]], [[1.0, 3.0]]]])
    targets = torch.tensor([[[True, False]]])
    on_object = math.exp(2) / (1 + math.exp(2) + math.exp(1))
    beside = math.exp(3) / (math.exp(1) + 1 + math.exp(3))
    loss, classes = SoftmaxMaskLoss(), torch.tensor([1])
    assert loss(logits, targets, classes).item() == pytest.approx(-math.log(on_object) - math.log(beside))
    probabilities = loss.probabilities(logits, classes)
    assert probabilities.flatten().tolist() == pytest.approx([on_object, 1 / (math.exp(1) + 1 + math.exp(3))])


def test_class_agnostic_softmax_equals_sigmoid_of_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn((3, 2, 4, 4), generator=generator), torch.rand((3, 4, 4), generator=generator) < 0.5
    difference = logits[:, 0] - logits[:, 1]
    expected = SigmoidMaskLoss()(difference, targets, CLASSES)
    torch.testing.assert_close(SoftmaxMaskLoss()(logits, targets, CLASSES), expected)
    torch.testing.assert_close(SoftmaxMaskLoss().probabilities(logits, CLASSES), difference.sigmoid())


def test_dice_loss_equals_hand_computed_value() -> None:
    logits = torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]]])
    targets = torch.tensor([[[True, False]], [[False, False]]])
    # All probabilities are 1/2: intersections 1/2 and 0, sums 1/2 + 1 and 1/2 + 0, two pixels per mask.
    expected = 2 * (1 - (1 + 1) / (1.5 + 1)) + 2 * (1 - (0 + 1) / (0.5 + 1))
    assert DiceMaskLoss()(logits, targets, CLASSES[:2]).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", MASK_LOSSES)
def test_mask_loss_is_lower_for_true_mask_and_summed_over_regions(name: str) -> None:
    loss = MASK_LOSSES.get(name)()
    targets = torch.rand((3, 8, 8), generator=torch.Generator().manual_seed(0)) < 0.5
    right = logits_of(targets, 2.0, maps_compete=loss.maps_compete)
    wrong = logits_of(~targets, 2.0, maps_compete=loss.maps_compete)
    assert loss(right, targets, CLASSES).shape == ()
    assert 0 <= loss(right, targets, CLASSES) < loss(wrong, targets, CLASSES)
    parts = sum(loss(right[i : i + 1], targets[i : i + 1], CLASSES[i : i + 1]) for i in range(3))
    assert loss(right, targets, CLASSES).item() == pytest.approx(float(parts), rel=1e-5)


@pytest.mark.parametrize("name", MASK_LOSSES)
def test_probabilities_agree_with_the_maps_of_low_loss(name: str) -> None:
    loss = MASK_LOSSES.get(name)()
    targets = torch.rand((3, 8, 8), generator=torch.Generator().manual_seed(0)) < 0.5
    probabilities = loss.probabilities(logits_of(targets, 5.0, maps_compete=loss.maps_compete), CLASSES)
    assert probabilities.shape == targets.shape
    assert torch.equal(probabilities > 0.9, targets)
    assert torch.equal(probabilities < 0.1, ~targets)


@pytest.mark.parametrize("name", MASK_LOSSES)
def test_gradient_descent_on_every_mask_loss_finds_the_mask(name: str) -> None:
    loss = MASK_LOSSES.get(name)()
    targets = torch.rand((3, 6, 6), generator=torch.Generator().manual_seed(0)) < 0.4
    logits = torch.zeros((3, 4, 6, 6) if loss.maps_compete else (3, 6, 6), requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.5)
    for _ in range(40):
        optimizer.zero_grad()
        loss(logits, targets, CLASSES).backward()
        optimizer.step()
    assert torch.equal(loss.probabilities(logits, CLASSES) > 0.5, targets)


@pytest.mark.parametrize("name", MASK_LOSSES)
def test_mask_loss_without_regions_is_zero_with_gradient(name: str) -> None:
    loss = MASK_LOSSES.get(name)()
    logits = torch.zeros((0, 4, 8, 8) if loss.maps_compete else (0, 8, 8), requires_grad=True)
    value = loss(logits, torch.zeros(0, 8, 8, dtype=torch.bool), CLASSES[:0])
    assert value.item() == 0
    value.backward()
    assert logits.grad is not None
    assert loss.probabilities(logits, CLASSES[:0]).shape == (0, 8, 8)
