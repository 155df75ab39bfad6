import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.layers import Conv2d, DeformConv2d, relu_
from mrcnn_zoo.modeling.proposal_generators import RPN, StandardRPNHead, build_proposal_generator
from mrcnn_zoo.modeling.proposal_generators.rpn_patches import can_use_patches
from mrcnn_zoo.ops.boxes import iou
from mrcnn_zoo.structures import Batch, FeatureSpec, Targets

SETTINGS = {
    "MODEL.DEVICE": "cpu",
    "MODEL.ANCHOR_GENERATOR.SIZES": [[16], [32]],
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[1.0]],
    "MODEL.RPN.IN_FEATURES": ["p3", "p4"],
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 10,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 12,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 7,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 6,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 4,
}
SPECS = {"p3": FeatureSpec(4, stride=8), "p4": FeatureSpec(4, stride=16)}


def build(**changes: Any) -> RPN:
    torch.manual_seed(0)
    values = SETTINGS | {f"MODEL.{name.replace('__', '.')}": value for name, value in changes.items()}
    cfg = load_config(None, [part for item in values.items() for part in item])
    generator = build_proposal_generator(cfg, SPECS)
    assert isinstance(generator, RPN)
    return generator


def features(images: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "p3": torch.randn(images, 4, 8, 8, generator=generator),
        "p4": torch.randn(images, 4, 4, 4, generator=generator),
    }


def batch(*boxes_of_images: list[list[float]]) -> Batch:
    targets = [
        Targets((64, 64), torch.tensor(boxes).reshape(-1, 4), torch.zeros(len(boxes), dtype=torch.int64))
        for boxes in boxes_of_images
    ]
    sizes = [(64, 64)] * len(targets)
    return Batch(torch.zeros(len(targets), 3, 64, 64), sizes, targets, None)


def zero_predictions(rpn: RPN) -> RPN:
    """Set all weights to 0, so that all logits and deltas are 0."""
    for parameter in rpn.parameters():
        torch.nn.init.zeros_(parameter)
    return rpn


def test_losses_of_zero_predictions_by_hand() -> None:
    # Anchors of side 16 are centred at multiples of 8 and those of side 32 at multiples of 16. The object is the anchor
    # at (16, 16) moved by 1 pixel: IoU 15 / 17 is above 0.7, the next best 112 / 400. One positive, 9 negatives.
    rpn = zero_predictions(build())
    _, output = rpn.losses(features(1), batch([[9.0, 8.0, 25.0, 24.0]]))
    assert output.metrics["rpn/num_pos_anchors"] == 1
    assert output.metrics["rpn/num_neg_anchors"] == 9
    torch.testing.assert_close(output.losses["loss_rpn_cls"], torch.tensor(math.log(2)))
    torch.testing.assert_close(output.losses["loss_rpn_loc"], torch.tensor(1 / 16 / 10))


def test_weights_multiply_the_losses() -> None:
    rpn = zero_predictions(build(RPN__LOSS_WEIGHT=2.0, RPN__BBOX_REG_LOSS_WEIGHT=3.0))
    _, output = rpn.losses(features(1), batch([[9.0, 8.0, 25.0, 24.0]]))
    torch.testing.assert_close(output.losses["loss_rpn_cls"], torch.tensor(2 * math.log(2)))
    torch.testing.assert_close(output.losses["loss_rpn_loc"], torch.tensor(6 / 16 / 10))


def test_objectness_loss_has_a_separate_weight() -> None:
    rpn = zero_predictions(build(RPN__CLS_LOSS_WEIGHT=3.0, RPN__LOSS_WEIGHT=2.0))
    _, output = rpn.losses(features(1), batch([[9.0, 8.0, 25.0, 24.0]]))
    torch.testing.assert_close(output.losses["loss_rpn_cls"], torch.tensor(6 * math.log(2)))
    torch.testing.assert_close(output.losses["loss_rpn_loc"], torch.tensor(2 / 16 / 10))


def test_focal_objectness_by_hand() -> None:
    # 1 positive and 9 negatives at a probability of one half: (alpha + 9 (1 - alpha)) / 10 of (1/2)^gamma ln 2.
    rpn = zero_predictions(build(RPN__CLS_LOSS_TYPE="focal", RPN__FOCAL_LOSS_ALPHA=0.75, RPN__FOCAL_LOSS_GAMMA=1.0))
    _, output = rpn.losses(features(1), batch([[9.0, 8.0, 25.0, 24.0]]))
    torch.testing.assert_close(output.losses["loss_rpn_cls"], torch.tensor(0.3 * 0.5 * math.log(2)))
    with pytest.raises(UserError, match=r"MODEL\.RPN\.FOCAL_LOSS_ALPHA = 2"):
        build(RPN__CLS_LOSS_TYPE="focal", RPN__FOCAL_LOSS_ALPHA=2.0)


@pytest.mark.parametrize(("is_allowed", "num_positives"), [(True, 1), (False, 0)])
def test_low_quality_matches_can_be_disabled(is_allowed: bool, num_positives: int) -> None:
    # A box of 10 x 10 in the middle of an anchor of 16 x 16: an IoU of 0.39, the best that any anchor has.
    rpn = build(RPN__ALLOW_LOW_QUALITY_MATCHES=is_allowed)
    _, output = rpn.losses(features(1), batch([[11.0, 11.0, 21.0, 21.0]]))
    assert output.metrics["rpn/num_pos_anchors"] == num_positives


def test_positive_fraction_bounds_the_positives() -> None:
    rpn = build(RPN__BATCH_SIZE_PER_IMAGE=8, RPN__POSITIVE_FRACTION=0.25, RPN__IOU_THRESHOLDS=[0.05, 0.05])
    _, output = rpn.losses(features(1), batch([[9.0, 8.0, 25.0, 24.0]]))
    assert (output.metrics["rpn/num_pos_anchors"], output.metrics["rpn/num_neg_anchors"]) == (2, 6)


def test_label_thresholds_and_labels_are_those_of_the_config() -> None:
    truth = batch([[9.0, 8.0, 25.0, 24.0]])  # IoUs of its anchors: 0.88 once, 0.28 and less
    counts = []
    for thresholds, labels in (([0.3, 0.7], [0, -1, 1]), ([0.2, 0.9], [0, 1, 1]), ([0.9, 0.95], [-1, 0, 1])):
        rpn = build(
            RPN__IOU_THRESHOLDS=thresholds,
            RPN__IOU_LABELS=labels,
            RPN__BATCH_SIZE_PER_IMAGE=1000,
            RPN__ALLOW_LOW_QUALITY_MATCHES=False,
        )
        metrics = rpn.losses(features(1), truth)[1].metrics
        counts.append((int(metrics["rpn/num_pos_anchors"]), int(metrics["rpn/num_neg_anchors"])))
    overlaps = iou(truth.targets[0].boxes, torch.cat(rpn.anchor_generator(list(features(1).values()))))[0]
    expected = [((overlaps >= 0.7).sum(), (overlaps < 0.3).sum()), ((overlaps >= 0.2).sum(), (overlaps < 0.2).sum())]
    assert counts == [tuple(map(int, pair)) for pair in expected] + [(0, 0)]


def test_anchors_across_the_border_are_left_out_in_training_only() -> None:
    rpn = zero_predictions(build(RPN__BOUNDARY_THRESH=0, RPN__BATCH_SIZE_PER_IMAGE=1000, RPN__NMS_THRESH=1.0))
    _, output = rpn.losses(features(1), batch([]))
    # Of sides 16 and 32 at multiples of 8 and 16 in 64 x 64: centres from 8 to 56, and from 16 to 48.
    assert output.metrics["rpn/num_neg_anchors"] == 7 * 7 + 3 * 3
    (table,) = rpn.predict(features(1), batch([]))
    assert (table.boxes[:, :2] == 0).any()  # clipped ones are among the proposals


def large_features() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    sides = {"p3": 16, "p4": 8}
    return {name: torch.randn(2, 4, side, side, generator=generator).requires_grad_() for name, side in sides.items()}


def test_large_maps_are_not_saved_for_the_gradient() -> None:
    kept: list[torch.Size] = []

    def remember(tensor: Tensor) -> Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        build().losses(large_features(), batch([[9.0, 8.0, 25.0, 24.0]], []))
    assert kept
    assert not any(shape[-2:] == (16, 16) for shape in kept)


def plain(_rpn: RPN) -> None:
    pass


def with_group_norm(rpn: RPN) -> None:
    conv = rpn.rpn_head.conv
    rpn.rpn_head.conv = torch.nn.Sequential(conv, torch.nn.GroupNorm(2, 4))


def with_norm_in_the_layer(rpn: RPN) -> None:
    rpn.rpn_head.conv.norm = torch.nn.GroupNorm(2, 4)


def with_batch_norm(rpn: RPN) -> None:
    rpn.rpn_head.conv.norm = torch.nn.BatchNorm2d(4)


def with_dilation(rpn: RPN) -> None:
    rpn.rpn_head.conv = Conv2d(4, 4, 3, dilation=2, activation=relu_)


class Deformable(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.offsets = Conv2d(4, 18, 1)
        self.conv = DeformConv2d(4, 4, 3)

    def forward(self, level: Tensor) -> Tensor:
        return self.conv(level, self.offsets(level))


def with_deformation(rpn: RPN) -> None:
    rpn.rpn_head.conv = Deformable()


def with_another_forward(rpn: RPN) -> None:
    class GlobalContext(StandardRPNHead):
        def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            return super().forward([level + level.mean(dim=(2, 3), keepdim=True) for level in features])

    rpn.rpn_head = GlobalContext(4, num_anchors=1, hidden_channels=[4])


def with_another_objectness(rpn: RPN) -> None:
    rpn.rpn_head.objectness_logits = torch.nn.Conv2d(4, 1, 3, padding=1)


def with_two_convolutions(rpn: RPN) -> None:
    rpn.rpn_head = StandardRPNHead(4, num_anchors=1, hidden_channels=[4, 4])


@pytest.mark.parametrize(
    "change",
    [
        plain,
        with_group_norm,
        with_norm_in_the_layer,
        with_batch_norm,
        with_dilation,
        with_deformation,
        with_another_forward,
        with_another_objectness,
        with_two_convolutions,
    ],
)
def test_large_maps_give_the_losses_and_gradients_of_the_dense_computation(change: Callable[[RPN], None]) -> None:
    # 10 anchors of 640 cells: the plain head runs on patches, all others must not.
    rpn = build()
    change(rpn)
    maps = large_features()
    inputs = (*maps.values(), *rpn.parameters())
    images = batch([[9.0, 8.0, 25.0, 24.0], [60.0, 60.0, 90.0, 95.0]], [])
    torch.manual_seed(5)
    _, output = rpn.losses(maps, images)
    torch.manual_seed(5)
    anchors = torch.cat(rpn.anchor_generator(list(maps.values())))
    sample = rpn.labeler.sample(anchors, images.require_targets(), images.image_sizes)
    logits, deltas = (torch.cat(levels, dim=1).flatten(0, 1)[sample.rows] for levels in rpn(maps))
    dense = rpn.sampled_losses(logits, deltas, sample, num_images=2)
    torch.testing.assert_close(output.losses, dense.losses, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(
        torch.autograd.grad(output.total(), inputs),
        torch.autograd.grad(dense.total(), inputs),
        rtol=1e-4,
        atol=1e-6,
    )


def test_patches_are_used_on_the_cpu_only() -> None:
    levels = list(large_features().values())
    assert can_use_patches(build().rpn_head, levels, 10)
    assert not can_use_patches(build().rpn_head, [level.to("meta") for level in levels], 10)


def test_patches_are_not_used_where_they_have_more_cells_than_the_maps() -> None:
    levels = list(large_features().values())  # 2 x (16 x 16 + 8 x 8) = 640 cells; a patch has 9
    assert can_use_patches(build().rpn_head, levels, 71)
    assert not can_use_patches(build().rpn_head, levels, 72)


def test_images_without_objects_have_only_negatives() -> None:
    rpn = zero_predictions(build())
    proposals, output = rpn.losses(features(), batch([], []))
    assert output.metrics["rpn/num_pos_anchors"] == 0
    assert output.metrics["rpn/num_neg_anchors"] == 10
    torch.testing.assert_close(output.losses["loss_rpn_cls"], torch.tensor(math.log(2)))
    assert output.losses["loss_rpn_loc"] == 0
    output.total().backward()
    assert len(proposals) == 2


def test_losses_reach_every_parameter() -> None:
    rpn = build()
    _, output = rpn.losses(features(), batch([[9.0, 8.0, 25.0, 24.0]], []))
    output.total().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in rpn.parameters())


def test_loss_of_an_image_repeated_in_the_batch_is_that_of_the_image() -> None:
    rpn = build(RPN__BATCH_SIZE_PER_IMAGE=1000)
    alone = features(1)
    repeated = {name: level.repeat(2, 1, 1, 1) for name, level in alone.items()}
    boxes = [[9.0, 8.0, 25.0, 24.0]]
    _, single = rpn.losses(alone, batch(boxes))
    _, double = rpn.losses(repeated, batch(boxes, boxes))
    assert single.losses.keys() == {"loss_rpn_cls", "loss_rpn_loc"}
    for name, loss in single.losses.items():
        torch.testing.assert_close(double.losses[name], loss)


@pytest.mark.parametrize("loss_type", ["smooth_l1", "giou", "diou", "ciou"])
def test_each_box_loss_can_be_selected(loss_type: str) -> None:
    _, output = build(RPN__BBOX_REG_LOSS_TYPE=loss_type).losses(features(1), batch([[9.0, 8.0, 25.0, 24.0]]))
    assert output.losses["loss_rpn_loc"] > 0


def test_training_and_inference_have_separate_top_k() -> None:
    rpn = zero_predictions(build(RPN__NMS_THRESH=1.0))
    training, _ = rpn.losses(features(1), batch([]))
    assert len(training[0]) == 7
    assert len(rpn.predict(features(1), batch([]))[0]) == 4


def test_proposals_have_no_gradient() -> None:
    proposals, _ = build().losses(features(), batch([], []))
    assert not any(table.boxes.requires_grad or table.objectness.requires_grad for table in proposals)


def test_predictions_have_the_order_of_the_anchors() -> None:
    rpn = zero_predictions(build())
    rpn.rpn_head.objectness_logits.weight.data[0, 0] = 1
    rpn.rpn_head.conv.weight.data[0, 0, 1, 1] = 1  # the logit is the first channel, where positive
    maps = {"p3": torch.zeros(1, 4, 8, 8), "p4": torch.zeros(1, 4, 4, 4)}
    maps["p3"][0, 0, 5, 2] = 3.0
    logits, deltas = rpn(maps)
    assert [tuple(level.shape) for level in (*logits, *deltas)] == [(1, 64), (1, 16), (1, 64, 4), (1, 16, 4)]
    row = int(logits[0].argmax())
    assert row == 5 * 8 + 2
    assert rpn.anchor_generator(list(maps.values()))[0][row].tolist() == [2 * 8 - 8, 5 * 8 - 8, 2 * 8 + 8, 5 * 8 + 8]


def test_channels_last_features_give_the_same_proposals() -> None:
    rpn = build()
    expected = rpn.predict(features(), batch([], []))
    maps = {name: level.to(memory_format=torch.channels_last) for name, level in features().items()}
    for ours, theirs in zip(rpn.predict(maps, batch([], [])), expected, strict=True):
        torch.testing.assert_close(ours.boxes, theirs.boxes)


@pytest.mark.parametrize(
    ("parameter", "loss"), [("objectness_logits", "loss_rpn_cls"), ("anchor_deltas", "loss_rpn_loc")]
)
def test_non_finite_predictions_give_no_proposals_and_a_non_finite_loss(parameter: str, loss: str) -> None:
    rpn = build()
    rpn.rpn_head.get_submodule(parameter).bias.data.fill_(float("nan"))
    images = batch([[9.0, 8.0, 25.0, 24.0]], [])
    proposals, output = rpn.losses(features(), images)
    assert output.losses[loss].isnan()
    assert [len(table) for table in proposals] == [0, 0]
    assert [len(table) for table in rpn.predict(features(), images)] == [0, 0]


def test_missing_levels_are_refused() -> None:
    with pytest.raises(UserError, match=r"MODEL\.RPN\.IN_FEATURES = \['p9'\].*p3, p4"):
        build(RPN__IN_FEATURES=["p9"])


def test_levels_with_different_numbers_of_anchors_are_refused() -> None:
    with pytest.raises(UserError, match=r"\[1, 2\] anchors per cell"):
        build(ANCHOR_GENERATOR__SIZES=[[16], [32, 64]])


@pytest.mark.parametrize("key", ["MATCHER", "SAMPLER", "BOX_CODER", "BBOX_REG_LOSS_TYPE", "HEAD_NAME"])
def test_an_unknown_name_is_refused_with_its_key(key: str) -> None:
    with pytest.raises(UserError, match=rf"MODEL\.RPN\.{key} = 'nothing'"):
        build(**{f"RPN__{key}": "nothing"})
