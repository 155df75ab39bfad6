import math

import pytest
import torch

from mrcnn_zoo.losses.mask import sigmoid_mask_loss
from mrcnn_zoo.registries import MASK_LOSSES


def test_sigmoid_loss_by_hand() -> None:
    logits = torch.tensor([[[0.0, 2.0]], [[-1.0, 0.0]]])
    targets = torch.tensor([[[True, False]], [[False, False]]])
    expected = math.log(2) + math.log(1 + math.exp(2)) + math.log(1 + math.exp(-1)) + math.log(2)
    assert sigmoid_mask_loss(logits, targets).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", MASK_LOSSES.names())
def test_every_mask_loss_prefers_the_right_mask_and_is_a_sum(name: str) -> None:
    loss = MASK_LOSSES.get(name)()
    targets = torch.rand((3, 8, 8), generator=torch.Generator().manual_seed(0)) < 0.5
    right, wrong = targets.float() * 4 - 2, 2 - targets.float() * 4
    assert loss(right, targets).shape == ()
    assert 0 <= loss(right, targets) < loss(wrong, targets)
    parts = sum(loss(right[i : i + 1], targets[i : i + 1]) for i in range(3))
    assert loss(right, targets).item() == pytest.approx(float(parts), rel=1e-5)


@pytest.mark.parametrize("name", MASK_LOSSES.names())
def test_every_mask_loss_of_no_masks_is_zero_with_a_gradient(name: str) -> None:
    logits = torch.zeros(0, 8, 8, requires_grad=True)
    loss = MASK_LOSSES.get(name)()(logits, torch.zeros(0, 8, 8, dtype=torch.bool))
    assert loss.item() == 0
    loss.backward()
    assert logits.grad is not None
