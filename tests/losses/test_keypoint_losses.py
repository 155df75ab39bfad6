import math

import pytest
import torch
from torchvision.models.detection.roi_heads import keypointrcnn_loss

from mrcnn_zoo.losses.classification import heatmap_cross_entropy
from mrcnn_zoo.ops.keypoints import heatmap_cells


def test_uniform_heatmap_has_the_loss_log_of_its_cells() -> None:
    loss = heatmap_cross_entropy(torch.zeros(2, 3, 4, 4), torch.tensor([[0, 5, -1], [-1, -1, 15]]))
    assert loss.item() == pytest.approx(3 * math.log(16))


def test_cells_are_numbered_row_by_row() -> None:
    logits = torch.zeros(1, 1, 4, 4)
    logits[0, 0, 1, 2] = 50
    assert heatmap_cross_entropy(logits, torch.tensor([[6]])).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shape", [(2, 3), (0, 3)])
def test_loss_without_keypoints_is_zero_with_gradient(shape: tuple[int, int]) -> None:
    logits = torch.randn(*shape, 4, 4, requires_grad=True)
    loss = heatmap_cross_entropy(logits, torch.full(shape, -1))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_mean_loss_and_gradient_equal_torchvision() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[0.0, 0.0, 40.0, 30.0], [10.0, 5.0, 35.0, 60.0]])
    keypoints = torch.rand((2, 5, 3), generator=generator) * torch.tensor([40.0, 60.0, 2.0])
    keypoints[..., 2].round_()
    logits = torch.randn((2, 5, 14, 14), generator=generator).requires_grad_()
    expected = keypointrcnn_loss(logits, [boxes], [keypoints], [torch.tensor([0, 1])])

    cells = heatmap_cells(keypoints, boxes, 14)
    ours = heatmap_cross_entropy(logits, cells) / (cells >= 0).sum()
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (ours, expected)]
    torch.testing.assert_close(*gradients)
