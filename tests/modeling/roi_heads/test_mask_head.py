from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.losses.mask import MaskLoss, SigmoidMaskLoss, SoftmaxMaskLoss
from mrcnn_zoo.modeling.roi_heads import MaskCriterion, MaskRCNNConvUpsampleHead, MaskRCNNMLPHead
from mrcnn_zoo.modeling.roi_heads.mask_head import bilinear_resizing, mask_targets
from mrcnn_zoo.registries import MASK_HEADS
from mrcnn_zoo.structures import BoxedBitmaps, Detections, FeatureSpec, LabeledRegions, Targets

POOLED = FeatureSpec(channels=4, side=7)
SIZE = (40, 50)


SIGMOID = MaskCriterion(SigmoidMaskLoss())


def head(*, num_maps: int = 3, loss: MaskLoss | None = None, weight: float = 1.0) -> MaskRCNNConvUpsampleHead:
    torch.manual_seed(0)
    made = MaskRCNNConvUpsampleHead(
        POOLED,
        num_maps=num_maps,
        conv_channels=[6, 8],
        upsampled_channels=[5],
        norm="",
        criterion=MaskCriterion(loss or SigmoidMaskLoss(), weight=weight),
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
def test_class_logits_equal_the_maps_of_the_classes(num_maps: int) -> None:
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
    targets = mask_targets(tables, 14)
    assert 0 < targets.float().mean() < 1
    expected = F.binary_cross_entropy_with_logits(logits, targets.float())
    assert output.losses["loss_mask"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert output.metrics["mask/accuracy"].item() == pytest.approx(((logits > 0) == targets).float().mean().item())


def test_mask_targets_are_crops_of_the_matched_mask() -> None:
    table = foreground([0, 0])
    table.boxes = torch.tensor([[15.0, 10, 35, 30], [15.0, 10, 35, 30]])
    table.matches = torch.tensor([0, 1])
    left, right = mask_targets([table], 14)
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


def test_sums_and_counts_of_two_parts_add_up_to_those_of_the_whole() -> None:
    made, tables = head(), [foreground([0, 2]), foreground([1], seed=5)]
    together = made.losses(pooled(3), tables).sums["loss_mask"]
    parts = [
        made.losses(pooled(3)[:2], tables[:1]).sums["loss_mask"],
        made.losses(pooled(3)[2:], tables[1:]).sums["loss_mask"],
    ]
    assert sum(part.value.item() for part in parts) == pytest.approx(together.value.item(), rel=1e-5)
    assert sum(part.count for part in parts) == together.count == 3 * 14 * 14


def test_objects_without_masks_raise_a_user_error() -> None:
    table = foreground([0])
    table.targets.masks = None
    with pytest.raises(UserError, match=r"MODEL\.MASK_ON False"):
        head().losses(pooled(1), [table])


def test_predicted_masks_cover_their_boxes() -> None:
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


def test_initial_mask_probabilities_are_one_half() -> None:
    made = MaskRCNNConvUpsampleHead(
        POOLED, num_maps=80, conv_channels=[64], upsampled_channels=[64], norm="", criterion=SIGMOID
    )
    assert made.predictor.weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert made.deconv.weight.std().item() == pytest.approx((2 / (64 * 4)) ** 0.5, rel=0.05)
    assert not any(module.bias.any() for module in (made.predictor, made.deconv, made.get_submodule("mask_fcn1")))


def test_norm_replaces_the_bias() -> None:
    made = MaskRCNNConvUpsampleHead(
        POOLED, num_maps=1, conv_channels=[32], upsampled_channels=[8], norm="GN", criterion=SIGMOID
    )
    names = set(made.state_dict())
    assert {"mask_fcn1.norm.weight", "mask_fcn1.norm.bias"} < names
    assert "mask_fcn1.bias" not in names


def test_mask_loss_weight_is_a_factor(small_cfg: Callable[..., CfgNode]) -> None:
    tables = [foreground([0, 2])]
    plain, weighted = (head(weight=weight).losses(pooled(2), tables).losses["loss_mask"].item() for weight in (1, 0.25))
    assert weighted == pytest.approx(0.25 * plain)
    made = MASK_HEADS.get("MaskRCNNConvUpsampleHead")(small_cfg("MODEL.ROI_MASK_HEAD.LOSS_WEIGHT", 0.25), POOLED)
    assert made.criterion.weight == 0.25


def test_competing_maps_include_the_background() -> None:
    made, tables = head(loss=SoftmaxMaskLoss()), [foreground([0, 2]), foreground([1], seed=5)]
    logits = made(pooled(3))
    assert logits.shape == (3, 4, 14, 14)
    targets = mask_targets(tables, 14)
    labels = torch.where(targets, torch.tensor([0, 2, 1])[:, None, None], 3)
    output = made.losses(pooled(3), tables)
    assert output.losses["loss_mask"].item() == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    own = logits.softmax(dim=1)[torch.arange(3), torch.tensor([0, 2, 1])]
    assert output.metrics["mask/accuracy"].item() == pytest.approx(((own > 0.5) == targets).float().mean().item())
    detections = Detections(SIZE, tables[0].boxes, torch.ones(2), tables[0].classes)
    (found,) = made.predict(pooled(3)[:2], [detections])
    assert found.masks is not None
    torch.testing.assert_close(found.masks.probabilities, own[:2])


def test_class_logits_exclude_the_background() -> None:
    made = head(loss=SoftmaxMaskLoss(), num_maps=1)
    assert made(pooled(2)).shape == (2, 2, 14, 14)
    torch.testing.assert_close(made.class_logits(pooled(2), torch.tensor([4, 0])), made(pooled(2))[:, 0])


@pytest.mark.parametrize(("num_upsample", "side"), [(0, 7), (1, 14), (2, 28)])
@pytest.mark.parametrize("upsampling", ["deconv", "bilinear"])
@pytest.mark.parametrize("num_conv", [0, 2])
def test_each_up_sampling_doubles_the_side(
    upsampling: str, num_upsample: int, side: int, num_conv: int, small_cfg: Callable[..., CfgNode]
) -> None:
    keys = {"UPSAMPLE": upsampling, "NUM_UPSAMPLE": num_upsample, "NUM_CONV": num_conv}
    overrides = [part for key, value in keys.items() for part in (f"MODEL.ROI_MASK_HEAD.{key}", value)]
    made = MASK_HEADS.get("MaskRCNNConvUpsampleHead")(small_cfg(*overrides), POOLED)
    assert made(pooled(2)).shape == (2, 5, side, side)
    output = made.losses(pooled(2), [foreground([3, 1])])
    output.total().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())
    names = {name.split(".")[0] for name in made.state_dict()} - {"predictor", "mask_fcn1", "mask_fcn2"}
    assert names == {f"{upsampling}{number}" for number in ("", 2)[:num_upsample]}


def test_bilinear_up_sampling_of_a_flat_map_is_flat() -> None:
    resize = bilinear_resizing(1, 1).get_submodule("resize")
    assert torch.equal(resize(torch.full((1, 2, 3, 3), 0.5)), torch.full((1, 2, 6, 6), 0.5))
    ramp = torch.arange(3.0).expand(1, 1, 3, 3)
    assert resize(ramp)[0, 0, 0].tolist() == [0, 0.25, 0.75, 1.25, 1.75, 2]


def test_resolution_below_zero_is_refused(small_cfg: Callable[..., CfgNode]) -> None:
    for name in MASK_HEADS:
        with pytest.raises(UserError, match=r"NUM_UPSAMPLE = -1"):
            MASK_HEADS.get(name)(small_cfg("MODEL.ROI_MASK_HEAD.NUM_UPSAMPLE", -1), POOLED)


def test_mlp_head_has_the_layers_of_the_paper() -> None:
    made = MaskRCNNMLPHead(
        FeatureSpec(channels=2, side=14), num_maps=3, fc_channels=[10, 12], mask_side=28, criterion=SIGMOID
    )
    shapes = {name: tuple(parameter.shape) for name, parameter in made.named_parameters() if "weight" in name}
    assert shapes == {"fc1.weight": (10, 2 * 14 * 14), "fc2.weight": (12, 10), "predictor.weight": (3 * 28 * 28, 12)}
    inputs = torch.randn(4, 2, 14, 14)
    hidden = made.fc2(made.fc1(inputs.flatten(1)).relu()).relu()
    torch.testing.assert_close(made(inputs), made.predictor(hidden).view(4, 3, 28, 28))
    classes = torch.tensor([2, 0, 1, 1])
    torch.testing.assert_close(made.class_logits(inputs, classes), made(inputs)[torch.arange(4), classes])
