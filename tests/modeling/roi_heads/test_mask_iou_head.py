"""Mask Scoring R-CNN: what the mask-IoU head is trained on, what trains with it, and what masks are ranked by."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.modeling.roi_heads.mask_iou_head import MaskIoUHead, mask_iou_targets
from mrcnn_zoo.registries import REGION_BRANCHES
from mrcnn_zoo.structures import BoxedBitmaps, BranchSpec, Detections, LabeledRegions, ProbabilityMasks, Targets

SIZE = (64, 96)
SCORING = (
    *("MODEL.ROI_HEADS.BRANCHES", ["MaskIoUHead"]),
    *("MODEL.ROI_MASKIOU_HEAD.CONV_DIM", 8, "MODEL.ROI_MASKIOU_HEAD.FC_DIM", 16),
)
SQUARE = (10, 10, 30, 30)  # 400 pixels
SQUARE_BOX, LEFT_HALF, AROUND = (10.0, 10, 30, 30), (10.0, 10, 20, 30), (0.0, 0, 40, 40)


def regions_of_square(*boxes: tuple[float, ...], probabilities: Tensor, empty: bool = False) -> LabeledRegions:
    """Regions matched to a square object, or to one without a mask pixel, with their predicted masks."""
    bitmaps = torch.zeros(1, *SIZE, dtype=torch.bool)
    if not empty:
        x0, y0, x1, y1 = SQUARE
        bitmaps[0, y0:y1, x0:x1] = True
    targets = Targets(SIZE, torch.tensor([SQUARE]).float(), torch.tensor([3]), masks=BoxedBitmaps.from_full(bitmaps))
    return LabeledRegions(
        SIZE,
        torch.tensor(boxes).reshape(-1, 4),
        torch.full((len(boxes),), 3),
        torch.zeros(len(boxes), dtype=torch.int64),
        targets,
        mask_probabilities=probabilities,
    )


def columns(*filled: int) -> Tensor:
    """4 x 4 masks whose first columns are filled, one for each number."""
    masks = torch.full((len(filled), 4, 4), 0.1)
    for mask, count in zip(masks, filled, strict=True):
        mask[:, :count] = 0.9
    return masks


def targets_of(regions: LabeledRegions) -> tuple[Tensor, Tensor]:
    assert regions.mask_probabilities is not None
    return mask_iou_targets(regions.mask_probabilities, [regions])


@pytest.fixture
def head(small_cfg: Callable[..., CfgNode], scene: Any) -> MaskIoUHead:
    torch.manual_seed(0)
    return REGION_BRANCHES.get("MaskIoUHead")(small_cfg(*SCORING), BranchSpec(8, maps=scene.specs))


def test_iou_target_includes_the_object_outside_the_region() -> None:
    boxes = (SQUARE_BOX, SQUARE_BOX, SQUARE_BOX, LEFT_HALF, LEFT_HALF, LEFT_HALF, AROUND)
    regions = regions_of_square(*boxes, probabilities=columns(4, 2, 0, 4, 2, 0, 2))
    ious, is_counted = targets_of(regions)
    # The left half has 16 cells of the object and the whole would have 32: all of the half is an IoU of 16 / 32, half
    # of it 8 / 32. Around the object it fills 4 of 16 cells; two columns are 8 cells, 2 of which are the object's.
    assert ious.tolist() == [1.0, 0.5, 0.0, 0.5, 0.25, 0.0, pytest.approx(2 / (8 + 4 - 2))]
    assert is_counted.all()


def test_iou_target_of_a_region_beside_the_object_is_zero() -> None:
    regions = regions_of_square((50.0, 40, 90, 60), (10.0, 10, 10, 10), probabilities=columns(4, 0))
    ious, _ = targets_of(regions)
    assert ious.tolist() == [0.0, 0.0]


def test_regions_with_an_empty_object_mask_are_ignored(head: MaskIoUHead, scene: Any) -> None:
    empty = regions_of_square(SQUARE_BOX, probabilities=columns(4), empty=True)
    assert not targets_of(empty)[1].any()
    full = regions_of_square(SQUARE_BOX, LEFT_HALF, probabilities=columns(4, 4))
    features = scene.features(2)
    _, output = head.losses(features, [full, empty])
    assert int(output.sums["loss_mask_iou"].count) == 2
    _, alone = head.losses({name: level[:1] for name, level in features.items()}, [full])
    torch.testing.assert_close(output.sums["loss_mask_iou"].value, alone.sums["loss_mask_iou"].value)
    _, nothing = head.losses({name: level[:1] for name, level in features.items()}, [empty])
    assert nothing.total().item() == 0


def test_mask_iou_loss_is_half_the_mean_squared_error_of_the_true_class(head: MaskIoUHead, scene: Any) -> None:
    torch.nn.init.zeros_(head.predictor.weight)
    with torch.no_grad():
        head.predictor.bias.copy_(torch.tensor([9.0, 9, 9, 0.75, 9]))  # the objects are of class 3
    regions = regions_of_square(SQUARE_BOX, LEFT_HALF, probabilities=columns(4, 4))  # IoU 1 and 0.5
    same, output = head.losses(scene.features(1), [regions])
    assert same[0] is regions
    assert output.losses["loss_mask_iou"].item() == pytest.approx(0.5 * (0.25**2 + 0.25**2) / 2)
    assert output.metrics["mask_iou/error"].item() == pytest.approx(0.25)
    output.total().backward()
    assert head.predictor.bias.grad is not None
    assert head.predictor.bias.grad.nonzero().flatten().tolist() == []  # -0.25 and 0.25 cancel
    head.zero_grad()
    head.losses(scene.features(1), [regions[:1]])[1].total().backward()
    assert head.predictor.bias.grad.nonzero().flatten().tolist() == [3]


def test_mask_iou_loss_has_a_gradient_for_the_mask_head(small_cfg: Callable[..., CfgNode], scene: Any) -> None:
    torch.manual_seed(0)
    model = build_model(small_cfg(*SCORING))
    heads = model.roi_heads
    maps, proposals, targets = scene.features(1), [scene.proposals(30)], [scene.targets()]
    output = heads.losses(maps, proposals, targets)
    output.losses["loss_mask_iou"].backward()
    assert heads.mask_head.predictor.weight.grad.any()
    assert all(parameter.grad is not None for parameter in heads.mask_iou_head.parameters())
    assert heads.box_predictor.cls_score.weight.grad is None
    assert maps["p2"].grad.any()


def test_names_in_the_state_dict(small_cfg: Callable[..., CfgNode]) -> None:
    own = {
        name: tuple(value.shape)
        for name, value in build_model(small_cfg(*SCORING)).state_dict().items()
        if "mask_iou" in name
    }
    prefix = "roi_heads.mask_iou_head"
    layers = {"conv1": (8, 9, 3, 3), **{f"conv{n}": (8, 8, 3, 3) for n in (2, 3, 4)}}
    layers |= {"fc1": (16, 8 * 7 * 7), "fc2": (16, 16), "predictor": (5, 16)}
    expected = {f"{prefix}.{layer}.weight": shape for layer, shape in layers.items()}
    assert own == expected | {f"{prefix}.{layer}.bias": shape[:1] for layer, shape in layers.items()}


@pytest.mark.parametrize("is_class_agnostic", [False, True])
def test_mask_scores_are_scores_times_class_iou(
    is_class_agnostic: bool, small_cfg: Callable[..., CfgNode], scene: Any
) -> None:
    torch.manual_seed(0)
    heads = build_model(small_cfg(*SCORING, "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", is_class_agnostic)).roi_heads
    torch.nn.init.zeros_(heads.mask_iou_head.predictor.weight)
    ious = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
    with torch.no_grad():
        heads.mask_iou_head.predictor.bias.copy_(ious)
        found = heads.predict(scene.features(2), [scene.proposals(30), scene.proposals(0)])
    assert len(found[0]) > 0 == len(found[1])
    assert found[0].scores.tolist() == sorted(found[0].scores.tolist(), reverse=True)  # boxes keep their order
    torch.testing.assert_close(found[0].mask_scores, found[0].scores * ious[found[0].classes])
    assert found[1].mask_scores is not None


def test_mask_iou_head_learns_the_iou(head: MaskIoUHead, scene: Any) -> None:
    features = {name: level.detach() for name, level in scene.features(1).items()}
    boxes = (SQUARE_BOX, SQUARE_BOX, LEFT_HALF, AROUND)
    regions = regions_of_square(*boxes, probabilities=columns(4, 2, 4, 2))
    targets, _ = targets_of(regions)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.005)
    for _ in range(100):
        optimizer.zero_grad()
        head.losses(features, [regions])[1].total().backward()
        optimizer.step()
    assert regions.mask_probabilities is not None
    masks = ProbabilityMasks(regions.mask_probabilities, regions.boxes, SIZE)
    detections = Detections(SIZE, regions.boxes, torch.full((4,), 0.5), regions.classes, masks=masks)
    with torch.no_grad():
        (found,) = head.predict(features, [detections])
    assert (found.mask_scores / 0.5 - targets).abs().max() < 0.1
    assert targets.std() > 0.2


def test_masks_are_pooled_to_the_side_of_the_features(head: MaskIoUHead) -> None:
    pooled = torch.randn(2, 8, 14, 14)
    masks = torch.zeros(2, 28, 28)
    masks[:, 3, 5] = 1.0
    small = torch.zeros(2, 14, 14)
    small[:, 1, 2] = 1.0
    torch.testing.assert_close(head(pooled, masks), head(pooled, small))
    assert head(pooled, torch.zeros(2, 7, 7)).shape == (2, 5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("MODEL.MASK_ON", False), r"MaskIoUHead in MODEL\.ROI_HEADS\.BRANCHES .*MODEL\.MASK_ON is False"),
        (("MODEL.ROI_MASK_HEAD.NAME", "PointRendMaskHead"), "'PointRendMaskHead' predicts only points"),
    ],
)
def test_unsupported_settings_are_refused(
    settings: tuple[Any, ...], message: str, small_cfg: Callable[..., CfgNode]
) -> None:
    with pytest.raises(UserError, match=message):
        build_model(small_cfg(*SCORING, *settings))


def test_branch_listed_twice_is_refused(small_cfg: Callable[..., CfgNode]) -> None:
    cfg = small_cfg(*SCORING, "MODEL.ROI_HEADS.BRANCHES", ["MaskIoUHead", "MaskIoUHead"])
    with pytest.raises(UserError, match=r"MODEL\.ROI_HEADS\.BRANCHES = .*: two branches have the name 'mask_iou_head'"):
        build_model(cfg)


def test_missing_mask_probabilities_are_reported(head: MaskIoUHead, scene: Any) -> None:
    regions = replace(regions_of_square(SQUARE_BOX, probabilities=columns(4)), mask_probabilities=None)
    with pytest.raises(UserError, match=r"MODEL\.ROI_MASK_HEAD\.NAME has no `supervise`"):
        head.losses(scene.features(1), [regions])
    detections = Detections(SIZE, regions.boxes, torch.ones(1), regions.classes, masks=regions.targets.masks)
    with pytest.raises(UserError, match="they are BoxedBitmaps"):
        head.predict(scene.features(1), [detections])
