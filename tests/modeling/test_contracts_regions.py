"""Every registered component for regions fulfils its contract."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.modeling.contracts import LearnsFromClassCounts, LearnsToSuppress
from mrcnn_zoo.modeling.poolers import build_pyramid_pooler
from mrcnn_zoo.modeling.roi_heads.branch import PooledBranch, RegionBranch, pool_for
from mrcnn_zoo.registries import (
    BOX_HEADS,
    KEYPOINT_HEADS,
    MASK_HEADS,
    MASK_LOSSES,
    POINT_HEADS,
    POOLING_OPERATIONS,
    REGION_BRANCHES,
    REGION_CLASSIFICATIONS,
    ROI_HEADS,
    SUPPRESSIONS,
)
from mrcnn_zoo.structures import BoxedBitmaps, BranchSpec, Detections, FeatureSpec, LabeledRegions, Targets

# What region heads need beyond the small Mask R-CNN's settings.
SETTINGS_OF_HEADS: dict[str, tuple[Any, ...]] = {
    "CascadeROIHeads": ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
    "Res5ROIHeads": ("MODEL.ROI_HEADS.IN_FEATURES", ["p4"], "MODEL.RESNETS.RES2_OUT_CHANNELS", 2),
}
SETTINGS_OF_MASK_HEADS: dict[str, tuple[Any, ...]] = {
    "PointRendMaskHead": (
        *("MODEL.ROI_MASK_HEAD.NAME", "PointRendMaskHead", "MODEL.ROI_MASK_HEAD.POINT_HEAD_ON", True),
        *("MODEL.POINT_HEAD.FC_DIM", 16, "MODEL.POINT_HEAD.SUBDIVISION_STEPS", 1),
    )
}
MASK_HEADS_WITH_LOSSES = [
    (name, loss)
    for name in MASK_HEADS
    for loss in MASK_LOSSES
    if (name, loss) != ("PointRendMaskHead", "softmax")  # refused: its classes cannot compete
]
# What further branches need beyond it, or less of it.
SETTINGS_OF_BRANCHES: dict[str, tuple[Any, ...]] = {
    "MaskIoUHead": ("MODEL.ROI_MASKIOU_HEAD.CONV_DIM", 8, "MODEL.ROI_MASKIOU_HEAD.FC_DIM", 16),
}
POOLED = FeatureSpec(channels=4, side=7)
SIZE = (40, 50)


def pooled_maps(count: int) -> Tensor:
    return torch.randn((count, 4, 7, 7), generator=torch.Generator().manual_seed(1))


def feature_maps() -> dict[str, Tensor]:
    """Of one image; what is pooled of it differs from region to region."""
    return {"p2": torch.randn((1, 4, 10, 13), generator=torch.Generator().manual_seed(1))}


def mask_settings(name: str, loss: str) -> tuple[Any, ...]:
    return ("MODEL.ROI_MASK_HEAD.LOSS", loss, *SETTINGS_OF_MASK_HEADS.get(name, ()))


def mask_branch(name: str, cfg: CfgNode) -> RegionBranch:
    """The mask head as region heads have it; one that sees pooled maps pools them from p2."""
    maps = {"p2": FeatureSpec(channels=4, stride=4)}
    head = MASK_HEADS.get(name)(cfg, BranchSpec(channels=4, side=7, maps=maps))
    if isinstance(head, RegionBranch):
        return head
    return pool_for(head, build_pyramid_pooler("ROIAlignV2", maps, side=7, sampling_ratio=1))


def foreground(classes: list[int]) -> LabeledRegions:
    """Regions of one image that overlap the left or the right half of it, each half an object."""
    bitmaps = torch.zeros(2, *SIZE, dtype=torch.bool)
    bitmaps[0, :, :25], bitmaps[1, :, 25:] = True, True
    halves = torch.tensor([[0.0, 0, 25, 40], [25, 0, 50, 40]])
    targets = Targets(SIZE, halves, torch.tensor([0, 1]), masks=BoxedBitmaps.from_full(bitmaps))
    boxes = torch.tensor([[10.0, 5, 40, 30], [3, 3, 30, 33], [20, 0, 50, 40]])[: len(classes)]
    rows = torch.tensor([0, 1, 1])[: len(classes)]
    return LabeledRegions(SIZE, boxes, torch.tensor(classes, dtype=torch.int64), rows, targets)


def crowd(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes that overlap, scores and three classes."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand((count, 2), generator=generator) * 30
    boxes = torch.cat((corners, corners + 5 + torch.rand((count, 2), generator=generator) * 20), dim=1)
    return boxes, torch.rand(count, generator=generator), torch.randint(0, 3, (count,), generator=generator)


@pytest.mark.parametrize("name", POOLING_OPERATIONS)
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_pooling_operation_returns_one_map_per_region(name: str, sampling_ratio: int) -> None:
    features = torch.randn((2, 3, 6, 5), generator=torch.Generator().manual_seed(0), requires_grad=True)
    operation = POOLING_OPERATIONS.get(name)(4, 0.25, sampling_ratio)
    assert list(operation.parameters()) == []
    regions = torch.tensor([[1.0, 2, 3, 15, 17], [0.0, 1, 1, 17, 9], [1.0, 1, 1, 17, 9]])
    pooled = operation(features, regions)
    assert pooled.shape == (3, 3, 4, 4)
    assert not torch.equal(pooled[1], pooled[2])  # of different images
    torch.testing.assert_close(operation(features, regions[[1]]), pooled[[1]])
    # A mean or a selection of the features: a flat map gives its value everywhere inside.
    torch.testing.assert_close(operation(torch.full_like(features, 0.5), regions), torch.full_like(pooled, 0.5))


@pytest.mark.parametrize("name", POOLING_OPERATIONS)
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_pooling_operation_accepts_outside_empty_and_no_regions(name: str, sampling_ratio: int) -> None:
    features = torch.randn(2, 3, 6, 5, requires_grad=True)
    operation = POOLING_OPERATIONS.get(name)(2, 0.25, sampling_ratio)
    outside = operation(features, torch.tensor([[1.0, 500, 500, 600, 600], [0.0, -90, -90, -50, -50]]))
    assert not outside.any()
    for regions in (torch.tensor([[0.0, 4, 4, 4, 4], [1.0, 3, 8, 9, 8]]), torch.zeros(0, 5)):
        pooled = operation(features, regions)
        assert pooled.shape == (len(regions), 3, 2, 2)
        (gradient,) = torch.autograd.grad(pooled.sum(), features)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", POOLING_OPERATIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_pooling_operation_keeps_the_dtype_of_the_features(name: str, dtype: torch.dtype) -> None:
    regions = torch.tensor([[0.0, 2, 3, 15, 17]])
    assert POOLING_OPERATIONS.get(name)(2, 0.25, 0)(torch.ones(1, 3, 6, 5, dtype=dtype), regions).dtype == dtype


@pytest.mark.parametrize("name", BOX_HEADS)
def test_box_head_output_has_its_output_spec(name: str, small_cfg: Callable[..., CfgNode]) -> None:
    head = BOX_HEADS.get(name)(small_cfg("MODEL.ROI_BOX_HEAD.NUM_CONV", 1, "MODEL.ROI_BOX_HEAD.CONV_DIM", 8), POOLED)
    spec = head.output_spec
    shape = (spec.channels, spec.side, spec.side)
    for count in (3, 0):
        head.zero_grad()
        vectors = head(pooled_maps(count))
        assert vectors[0:].reshape(count, *shape).shape == (count, *shape)
        vectors.sum().backward()
        assert all(parameter.grad is not None for parameter in head.parameters())


@pytest.mark.parametrize(("name", "loss"), MASK_HEADS_WITH_LOSSES)
@pytest.mark.parametrize("is_class_agnostic", [False, True])
def test_mask_head_trains_and_predicts_with_every_loss(
    name: str, loss: str, is_class_agnostic: bool, small_cfg: Callable[..., CfgNode]
) -> None:
    cfg = small_cfg("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", is_class_agnostic, *mask_settings(name, loss))
    head = mask_branch(name, cfg)
    if isinstance(head, PooledBranch):
        num_maps = (1 if is_class_agnostic else 5) + MASK_LOSSES.get(loss)().maps_compete
        assert head(torch.randn(2, 4, 7, 7)).shape == (2, num_maps, 14, 14)
    for table in (foreground([4, 0, 1]), foreground([])):
        head.zero_grad()
        (region_table,), output = head.losses(feature_maps(), [table])
        assert torch.equal(region_table.boxes, table.boxes)
        assert all(loss.isfinite() and loss.dim() == 0 for loss in output.losses.values())
        assert "loss_mask" in output.losses
        assert not any(metric.requires_grad for metric in output.metrics.values())
        output.total().backward()
        assert all(parameter.grad is not None for parameter in head.parameters())
        assert any(parameter.grad.any() for parameter in head.parameters()) == (len(table) > 0)
        detections = Detections(SIZE, table.boxes, torch.ones(len(table)), table.classes)
        (found,) = head.predict(feature_maps(), [detections])
        assert found.masks is not None
        assert len(found.masks.rles()) == len(table)
        assert detections.masks is None


@pytest.mark.parametrize(("name", "loss"), MASK_HEADS_WITH_LOSSES)
def test_mask_head_learns_what_it_predicts(name: str, loss: str, small_cfg: Callable[..., CfgNode]) -> None:
    torch.manual_seed(0)
    head = mask_branch(name, small_cfg("MODEL.ROI_MASK_HEAD.FC_DIM", 64, *mask_settings(name, loss)))
    table, inputs = foreground([4, 0, 1]), feature_maps()
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        head.losses(inputs, [table])[1].total().backward()
        optimizer.step()
    (found,) = head.predict(inputs, [Detections(SIZE, table.boxes, torch.ones(3), table.classes)])
    assert found.masks is not None
    assert table.targets.masks is not None
    wanted = table.targets.masks[table.matches].crop_and_resize(table.boxes, 14)
    assert ((found.masks.probabilities > 0.5) == wanted).float().mean() > 0.9


@pytest.mark.parametrize("name", POINT_HEADS)
@pytest.mark.parametrize("is_class_agnostic", [False, True])
def test_point_head_predicts_points_independently(
    name: str, is_class_agnostic: bool, small_cfg: Callable[..., CfgNode]
) -> None:
    cfg = small_cfg(
        *SETTINGS_OF_MASK_HEADS["PointRendMaskHead"], "MODEL.POINT_HEAD.CLS_AGNOSTIC_MASK", is_class_agnostic
    )
    head = POINT_HEADS.get(name)(cfg, FeatureSpec(channels=4), 5)
    fine, coarse = torch.randn(3, 4, 6), torch.randn(3, 5, 6)
    logits = head(fine, coarse)
    assert logits.shape == (3, 1 if is_class_agnostic else 5, 6)
    torch.testing.assert_close(head(fine[:, :, 2:4], coarse[:, :, 2:4]), logits[:, :, 2:4])
    head(fine[:0], coarse[:0]).sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


@pytest.mark.parametrize("name", SUPPRESSIONS)
def test_suppression_returns_rows_best_first(name: str) -> None:
    boxes, scores, classes = crowd(50)
    suppression = SUPPRESSIONS.get(name)(load_config(), 0.5)
    rows, kept = suppression(boxes, scores, classes)
    assert rows.dtype == torch.int64
    assert 0 < len(rows) == len(kept) <= 50
    assert len(set(rows.tolist())) == len(rows)
    assert kept.tolist() == sorted(kept.tolist(), reverse=True)
    if isinstance(suppression, LearnsToSuppress):  # untrained, with scores of its own
        return
    assert (kept <= scores[rows]).all()
    assert rows[0] == scores.argmax()
    assert not torch.equal(kept, scores.sort(descending=True).values)  # something was suppressed


@pytest.mark.parametrize("name", SUPPRESSIONS)
def test_suppression_accepts_no_boxes(name: str) -> None:
    suppress = SUPPRESSIONS.get(name)(load_config(), 0.5)
    rows, scores = suppress(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert len(rows) == len(scores) == 0


@pytest.mark.parametrize("name", ROI_HEADS)
def test_roi_heads_train_and_predict(name: str, small_cfg: Callable[..., CfgNode], scene: Any) -> None:
    heads = ROI_HEADS.get(name)(small_cfg("MODEL.ROI_HEADS.NAME", name, *SETTINGS_OF_HEADS.get(name, ())), scene.specs)
    maps, proposals = scene.features(2), [scene.proposals(30), scene.proposals(20, seed=1)]
    output = heads.losses(maps, proposals, [scene.targets(), scene.targets()])
    output.total().backward()
    assert all(loss.isfinite() and loss.dim() == 0 for loss in output.losses.values())
    assert all(parameter.grad is not None for parameter in heads.parameters() if parameter.requires_grad)
    assert any(level.grad is not None and level.grad.any() for level in maps.values())
    assert not any(metric.requires_grad for metric in output.metrics.values())
    with torch.no_grad():
        found = heads.predict(maps, proposals)
    for table in found:
        assert 0 < len(table) <= 20
        assert table.scores.tolist() == sorted(table.scores.tolist(), reverse=True)
        assert (table.boxes >= 0).all()
        assert (table.boxes <= torch.tensor([96, 64, 96, 64])).all()
        assert table.masks is not None
        assert len(table.masks) == len(table)


@pytest.mark.parametrize("name", ROI_HEADS)
def test_roi_heads_accept_no_proposals_and_no_objects(name: str, small_cfg: Callable[..., CfgNode], scene: Any) -> None:
    heads = ROI_HEADS.get(name)(small_cfg("MODEL.ROI_HEADS.NAME", name, *SETTINGS_OF_HEADS.get(name, ())), scene.specs)
    maps, proposals = scene.features(2), [scene.proposals(0)] * 2
    nothing = replace(scene.targets(0), masks=None, keypoints=None)
    output = heads.losses(maps, proposals, [nothing, nothing])
    assert output.total().item() == 0
    output.total().backward()
    assert all(parameter.grad is not None for parameter in heads.parameters() if parameter.requires_grad)
    found = heads.predict(maps, proposals)
    assert [len(table) for table in found] == [0, 0]
    assert found[0].masks is not None


@pytest.mark.parametrize("heads_name", ROI_HEADS)
@pytest.mark.parametrize("name", REGION_BRANCHES)
def test_region_branch_trains_and_predicts_in_all_region_heads(
    name: str, heads_name: str, small_cfg: Callable[..., CfgNode], scene: Any
) -> None:
    settings = (*SETTINGS_OF_HEADS.get(heads_name, ()), *SETTINGS_OF_BRANCHES.get(name, ()))
    cfg = small_cfg("MODEL.ROI_HEADS.NAME", heads_name, "MODEL.ROI_HEADS.BRANCHES", [name], *settings)
    heads = ROI_HEADS.get(heads_name)(cfg, scene.specs)
    branch = heads.branches[-1]
    assert heads.get_submodule(branch.name) is branch
    maps, proposals = scene.features(2), [scene.proposals(30), scene.proposals(0)]
    plain = ROI_HEADS.get(heads_name)(small_cfg("MODEL.ROI_HEADS.NAME", heads_name, *settings), scene.specs)
    for targets in ([scene.targets(), scene.targets(0)], [scene.targets(0)] * 2):
        heads.zero_grad()
        output = heads.losses(maps, proposals, targets)
        assert output.losses.keys() > plain.losses(maps, proposals, targets).losses.keys()
        assert all(loss.isfinite() for loss in output.losses.values())
        assert not any(metric.requires_grad for metric in output.metrics.values())
        output.total().backward()
        assert all(parameter.grad is not None for parameter in branch.parameters())
        assert any(parameter.grad.any() for parameter in branch.parameters()) == (len(targets[0]) > 0)
    with torch.no_grad():
        found = heads.predict(maps, proposals)
    assert len(found[0]) > 0 == len(found[1])
    for table in found:
        assert table.scores.tolist() == sorted(table.scores.tolist(), reverse=True)
        assert table.masks is not None


@pytest.mark.parametrize("name", ROI_HEADS)
def test_roi_heads_detect_nothing_on_non_finite_features(
    name: str, small_cfg: Callable[..., CfgNode], scene: Any
) -> None:
    heads = ROI_HEADS.get(name)(
        small_cfg("MODEL.ROI_HEADS.NAME", name, *SETTINGS_OF_HEADS.get(name, ())), scene.specs
    ).eval()
    maps = {level: torch.full_like(values, torch.nan) for level, values in scene.features(1).items()}
    with torch.no_grad():
        assert [len(table) for table in heads.predict(maps, [scene.proposals(9)])] == [0]


@pytest.mark.parametrize("name", KEYPOINT_HEADS)
def test_keypoint_head_trains_and_predicts(name: str, small_cfg: Callable[..., CfgNode], scene: Any) -> None:
    head = KEYPOINT_HEADS.get(name)(small_cfg(*scene.keypoint_settings), POOLED)
    truth = scene.targets()
    for count in (2, 0):
        head.zero_grad()
        boxes = truth.boxes[:count] + 1
        classes = truth.classes[:count]
        assert head(pooled_maps(count)).shape[:2] == (count, 3)
        output = head.losses(pooled_maps(count), [LabeledRegions(SIZE, boxes, classes, torch.arange(count), truth)])
        assert output.losses["loss_keypoint"].isfinite()
        assert not any(metric.requires_grad for metric in output.metrics.values())
        output.losses["loss_keypoint"].backward()
        assert all(parameter.grad is not None for parameter in head.parameters())
        assert any(parameter.grad.any() for parameter in head.parameters()) == (count > 0)
        detections = Detections(SIZE, boxes, torch.ones(count), classes)
        (found,) = head.predict(pooled_maps(count), [detections])
        assert found.keypoints is not None
        assert found.keypoints.shape == (count, 3, 3)
        assert detections.keypoints is None


@pytest.mark.parametrize("name", KEYPOINT_HEADS)
def test_keypoint_head_learns_what_it_predicts(name: str, small_cfg: Callable[..., CfgNode], scene: Any) -> None:
    torch.manual_seed(0)
    head, truth = KEYPOINT_HEADS.get(name)(small_cfg(*scene.keypoint_settings), POOLED), scene.targets()
    regions = LabeledRegions(SIZE, truth.boxes, truth.classes, torch.arange(2), truth)
    inputs = pooled_maps(2)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        head.losses(inputs, [regions]).total().backward()
        optimizer.step()
    with torch.no_grad():
        (found,) = head.predict(inputs, [Detections(SIZE, truth.boxes, torch.ones(2), truth.classes)])
    assert found.keypoints is not None
    assert truth.keypoints is not None
    assert (found.keypoints[..., :2] - truth.keypoints[..., :2]).abs().max() < 3


@pytest.mark.parametrize("name", REGION_CLASSIFICATIONS)
def test_region_classification_loss_is_lower_for_the_true_class_and_ignores(
    name: str, small_cfg: Callable[..., CfgNode]
) -> None:
    classification = REGION_CLASSIFICATIONS.get(name)(small_cfg())
    if isinstance(classification, LearnsFromClassCounts):
        classification.set_class_counts(torch.arange(5))
    classes = torch.tensor([0, 4, 5, -1])  # 5 is background
    right = torch.full((4, 6), -9.0)
    right[torch.arange(3), classes[:3]] = 9.0
    assert classification.loss(right, classes) < 0.01
    assert classification.loss(right.flip(1), classes) > 1
    assert classification.scores(right).shape == (4, 5)
    assert classification.scores(right)[:2].argmax(dim=1).tolist() == [0, 4]
    assert classification.scores(right)[2].max() < 0.01
    nothing = torch.zeros(0, 6, requires_grad=True)
    loss = classification.loss(nothing, classes[:0])
    assert loss == 0
    assert loss.requires_grad
