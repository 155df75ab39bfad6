from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.losses.mask import sigmoid_mask_loss
from mrcnn_zoo.modeling.roi_heads import MaskRCNNConvUpsampleHead
from mrcnn_zoo.modeling.roi_heads import mask_head as module
from mrcnn_zoo.registries import MASK_HEADS
from mrcnn_zoo.structures import BoxedBitmaps, Detections, FeatureSpec, LabeledRegions, Targets

POOLED = FeatureSpec(channels=4, side=7)
SIZE = (40, 50)


def head(*, num_maps: int = 3) -> MaskRCNNConvUpsampleHead:
    torch.manual_seed(0)
    made = MaskRCNNConvUpsampleHead(
        POOLED, num_maps=num_maps, conv_channels=[6, 8], upsampled_channels=5, norm="", loss=sigmoid_mask_loss
    )
    torch.nn.init.normal_(made.predictor.weight)
    torch.nn.init.normal_(made.predictor.bias)
    return made


def foreground(classes: list[int], *, seed: int = 0) -> LabeledRegions:
    """Regions around the left and the right half of an image, each the mask of one object."""
    bitmaps = torch.zeros(2, *SIZE, dtype=torch.bool)
    bitmaps[0, :, :25], bitmaps[1, :, 25:] = True, True
    targets = Targets(
        SIZE,
        torch.tensor([[0.0, 0, 25, 40], [25, 0, 50, 40]]),
        torch.tensor([0, 1]),
        masks=BoxedBitmaps.from_full(bitmaps),
    )
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, 2, (len(classes),), generator=generator)
    boxes = torch.rand((len(classes), 4), generator=generator) * 20 + torch.tensor([0.0, 0, 25, 20])
    return LabeledRegions(SIZE, boxes, torch.tensor(classes, dtype=torch.int64), rows, targets)


def pooled(count: int) -> torch.Tensor:
    return torch.randn((count, 4, 7, 7), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("num_maps", [1, 3])
def test_class_logits_are_the_maps_of_the_classes(num_maps: int) -> None:
    made, classes = head(num_maps=num_maps), torch.tensor([2, 0, 1, 1])
    all_maps = made(pooled(4))
    assert all_maps.shape == (4, num_maps, 14, 14)
    expected = all_maps[torch.arange(4), classes if num_maps > 1 else 0]
    torch.testing.assert_close(made.class_logits(pooled(4), classes), expected)


def test_class_logits_have_the_gradients_of_the_maps() -> None:
    made, classes = head(), torch.tensor([2, 0, 0])
    made.class_logits(pooled(3), classes).square().sum().backward()
    gradients = [parameter.grad.clone() for parameter in made.parameters()]
    made.zero_grad()
    made(pooled(3))[torch.arange(3), classes].square().sum().backward()
    for gradient, parameter in zip(gradients, made.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-4)


def test_loss_is_the_mean_over_the_pixels_of_all_images() -> None:
    made, tables = head(), [foreground([0, 2]), foreground([1], seed=5)]
    output = made.losses(pooled(3), tables)
    logits = made(pooled(3))[torch.arange(3), torch.tensor([0, 2, 1])]
    targets = torch.cat([made.mask_targets(table) for table in tables])
    assert 0 < targets.float().mean() < 1
    expected = F.binary_cross_entropy_with_logits(logits, targets.float())
    assert output.losses["loss_mask"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert output.metrics["mask/accuracy"].item() == pytest.approx(((logits > 0) == targets).float().mean().item())


def test_targets_are_cut_out_of_the_matched_mask() -> None:
    table = foreground([0, 0])
    table.boxes = torch.tensor([[15.0, 10, 35, 30], [15.0, 10, 35, 30]])
    table.matches = torch.tensor([0, 1])
    left, right = head().mask_targets(table)
    assert left[:, :7].all()
    assert not left[:, 7:].any()
    assert torch.equal(right, ~left)


def test_without_foreground_the_loss_is_zero_and_keeps_the_graph() -> None:
    made = head()
    table = foreground([])
    table.targets = Targets(SIZE, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))  # no masks at all
    output = made.losses(pooled(0), [table])
    assert output.losses["loss_mask"].item() == 0
    output.losses["loss_mask"].backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in made.parameters())


def test_two_processes_average_to_the_loss_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made, tables = head(), [foreground([0, 2]), foreground([1], seed=5)]
    together = made.losses(pooled(3), tables).losses["loss_mask"].item()
    monkeypatch.setattr(module, "mean_over_processes", lambda _count: torch.tensor(3 * 14 * 14 / 2))
    first = made.losses(pooled(3)[:2], tables[:1]).losses["loss_mask"].item()
    second = made.losses(pooled(3)[2:], tables[1:]).losses["loss_mask"].item()
    assert (first + second) / 2 == pytest.approx(together, rel=1e-5)


def test_objects_without_masks_are_the_users_mistake() -> None:
    table = foreground([0])
    table.targets.masks = None
    with pytest.raises(UserError, match=r"MODEL\.MASK_ON False"):
        head().losses(pooled(1), [table])


def test_predicted_masks_lie_over_their_boxes() -> None:
    boxes = torch.tensor([[5.0, 5, 25, 25], [10, 0, 40, 30]])
    tables = [
        Detections(SIZE, boxes, torch.tensor([0.9, 0.8]), torch.tensor([2, 0])),
        Detections(SIZE, boxes[:0], torch.zeros(0), torch.zeros(0, dtype=torch.int64)),
        Detections((20, 20), boxes[:1], torch.tensor([0.7]), torch.tensor([1])),
    ]
    made = head()
    first, second, third = made.predict(pooled(3), tables)
    expected = made(pooled(3))[torch.arange(3), torch.tensor([2, 0, 1])].sigmoid()
    assert first.masks is not None
    assert third.masks is not None
    torch.testing.assert_close(torch.cat((first.masks.probabilities, third.masks.probabilities)), expected)
    assert torch.equal(first.masks.boxes, boxes)
    assert second.masks is not None
    assert second.masks.rles() == []
    assert third.masks.bitmaps().shape == (1, 20, 20)
    assert tables[0].masks is None


def test_initial_masks_are_undecided() -> None:
    made = MaskRCNNConvUpsampleHead(
        POOLED, num_maps=80, conv_channels=[64], upsampled_channels=64, norm="", loss=sigmoid_mask_loss
    )
    assert made.predictor.weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert made.deconv.weight.std().item() == pytest.approx((2 / (64 * 4)) ** 0.5, rel=0.05)
    assert not any(module.bias.any() for module in (made.predictor, made.deconv, made.get_submodule("mask_fcn1")))


def test_norm_replaces_the_bias() -> None:
    made = MaskRCNNConvUpsampleHead(
        POOLED, num_maps=1, conv_channels=[32], upsampled_channels=8, norm="GN", loss=sigmoid_mask_loss
    )
    names = set(made.state_dict())
    assert {"mask_fcn1.norm.weight", "mask_fcn1.norm.bias"} < names
    assert "mask_fcn1.bias" not in names


@pytest.mark.parametrize("name", MASK_HEADS.names())
@pytest.mark.parametrize("is_class_agnostic", [False, True])
def test_every_mask_head_does_its_verbs(name: str, is_class_agnostic: bool, small_cfg: Callable[..., CfgNode]) -> None:
    made = MASK_HEADS.get(name)(small_cfg("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", is_class_agnostic), POOLED)
    assert made(pooled(2)).shape[:2] == (2, 1 if is_class_agnostic else 5)
    for table in (foreground([4, 0]), foreground([])):
        output = made.losses(pooled(len(table)), [table])
        assert output.losses["loss_mask"].requires_grad
        detections = Detections(SIZE, table.boxes, torch.ones(len(table)), table.classes)
        (found,) = made.predict(pooled(len(table)), [detections])
        assert found.masks is not None
        assert len(found.masks.rles()) == len(table)
