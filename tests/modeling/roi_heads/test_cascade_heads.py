from collections.abc import Callable
from typing import Any

import pytest
import torch

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.roi_heads import CascadeROIHeads, build_roi_heads
from mrcnn_zoo.modeling.roi_heads.cascade_heads import moved_boxes
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.structures import Proposals

CASCADE = ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)
SECTION = "MODEL.ROI_BOX_CASCADE_HEAD"


@pytest.fixture
def heads(small_cfg: Callable[..., CfgNode], scene: Any) -> CascadeROIHeads:
    torch.manual_seed(0)
    return build_roi_heads(small_cfg(*CASCADE), scene.specs)


def shift_right(heads: CascadeROIHeads, shares: list[float]) -> None:
    """Make each stage move all boxes to the right by a share of their width."""
    for predictor, share in zip(heads.box_predictor, shares, strict=True):
        torch.nn.init.zeros_(predictor.bbox_pred.weight)
        with torch.no_grad():
            predictor.bbox_pred.bias.copy_(torch.tensor([share * predictor.regression.coder.weights[0], 0.0, 0.0, 0.0]))


def test_losses_are_named_by_stage(heads: CascadeROIHeads, scene: Any) -> None:
    output = heads.losses(scene.features(1), [scene.proposals(20)], [scene.targets()])
    stages = {f"{name}_stage{stage}" for name in ("loss_cls", "loss_box_reg") for stage in range(3)}
    assert set(output.losses) == stages | {"loss_mask"}
    assert output.metrics["roi/num_fg_stage0"] >= 2


def test_each_stage_labels_regions_with_its_own_iou_threshold(heads: CascadeROIHeads, scene: Any) -> None:
    # The two objects themselves are the regions. After a shift of 0.2 the IoU is 0.8 / 1.2 = 0.67, and 0.8 / 1.15 = 0.7
    # where the image ends: enough for the second stage at 0.6 and not for the third at 0.7.
    shift_right(heads, [0.2, 0.0, 0.0])
    output = heads.losses(scene.features(1), [scene.proposals(0)], [scene.targets()])
    assert [output.metrics[f"roi/num_fg_stage{stage}"].item() for stage in range(3)] == [2, 2, 0]
    assert [output.metrics[f"roi/num_bg_stage{stage}"].item() for stage in range(3)] == [0, 0, 2]


def test_boxes_outside_the_image_are_not_trained(heads: CascadeROIHeads, scene: Any) -> None:
    shift_right(heads, [3.0, 0.0, 0.0])
    output = heads.losses(scene.features(1), [scene.proposals(0)], [scene.targets()])
    for stage in (1, 2):
        assert output.metrics[f"roi/num_fg_stage{stage}"] + output.metrics[f"roi/num_bg_stage{stage}"] == 0
    output.total().backward()
    assert all(parameter.grad is not None for parameter in heads.parameters())


def test_masks_are_trained_on_the_regions_of_the_first_stage(heads: CascadeROIHeads, scene: Any) -> None:
    shift_right(heads, [3.0, 0.0, 0.0])
    assert heads.losses(scene.features(1), [scene.proposals(0)], [scene.targets()]).losses["loss_mask"] > 0


def test_feature_gradient_of_each_stage_is_scaled_by_one_third(heads: CascadeROIHeads, scene: Any) -> None:
    before, after = [], []
    heads.box_pooler.register_forward_hook(lambda _module, _inputs, pooled: before.append(pooled))
    for head in heads.box_head:
        head.register_forward_pre_hook(lambda _module, inputs: after.append(inputs[0]))
    output = heads.losses(scene.features(1), [scene.proposals(9)], [scene.targets()])
    for pooled in (*before, *after):
        pooled.retain_grad()
    output.total().backward()
    assert len(before) == len(after) == 3
    for pooled, scaled in zip(before, after, strict=True):
        assert torch.equal(pooled, scaled)
        assert scaled.grad.any()
        torch.testing.assert_close(pooled.grad, scaled.grad / 3)


def test_scores_are_averaged_and_boxes_are_of_the_last_stage(heads: CascadeROIHeads, scene: Any) -> None:
    shift_right(heads, [0.1, 0.1, 0.1])
    logits = torch.tensor([[2.0, 0, 0, 0, 0, 0], [0, 2.0, 0, 0, 0, 0], [0, 2.0, 0, 0, 0, 0]])
    for predictor, bias in zip(heads.box_predictor, logits, strict=True):
        torch.nn.init.zeros_(predictor.cls_score.weight)
        with torch.no_grad():
            predictor.cls_score.bias.copy_(bias)
    box = torch.tensor([[10.0, 10, 20, 30]])
    with torch.no_grad():
        (found,) = heads.predict(scene.features(1), [Proposals(scene.size, box, torch.zeros(1))])
    expected = logits.softmax(dim=1).mean(dim=0)[:-1].sort(descending=True)
    torch.testing.assert_close(found.scores, expected.values)
    assert found.classes[0] == 1
    torch.testing.assert_close(found.boxes, torch.tensor([[13.0, 10, 23, 30]]).expand(5, 4))


def test_moved_boxes_are_clipped_and_unchanged_for_non_finite_deltas() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [80, 0, 90, 10]])
    deltas = torch.tensor([[0.5, 0, 0, 0], [torch.nan, 0, 0, 0], [2.0, 0, 0, 0]])
    (moved,) = moved_boxes(deltas, [Proposals((50, 100), boxes, torch.zeros(3))], BoxCoder((1, 1, 1, 1)))
    assert moved.tolist() == [[5, 0, 15, 10], [0, 0, 10, 10], [100, 0, 100, 10]]


def test_keypoints_work_with_a_cascade(small_cfg: Callable[..., CfgNode], scene: Any) -> None:
    heads = build_roi_heads(small_cfg(*CASCADE, *scene.keypoint_settings), scene.specs)
    assert "loss_keypoint" in heads.losses(scene.features(1), [scene.proposals(3)], [scene.targets()]).losses
    assert heads.predict(scene.features(1), [scene.proposals(3)])[0].keypoints is not None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", False), "CLS_AGNOSTIC_BBOX_REG True"),
        ((f"{SECTION}.IOUS", [0.5, 0.6]), "2 stages and .* has 3"),
        ((f"{SECTION}.IOUS", [0.4, 0.6, 0.7]), r"IOU_THRESHOLDS = \[0.5\] should be \[0.4\]"),
        (("MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True), "TRAIN_ON_PRED_BOXES False"),
    ],
)
def test_contradictory_settings_are_refused(
    settings: tuple[Any, ...], message: str, small_cfg: Callable[..., CfgNode], scene: Any
) -> None:
    with pytest.raises(UserError, match=message):
        build_roi_heads(small_cfg(*CASCADE, *settings), scene.specs)


def test_cascade_of_one_stage_works(small_cfg: Callable[..., CfgNode], scene: Any) -> None:
    cfg = small_cfg(*CASCADE, f"{SECTION}.IOUS", [0.5], f"{SECTION}.BBOX_REG_WEIGHTS", [[10.0, 10, 5, 5]])
    output = build_roi_heads(cfg, scene.specs).losses(scene.features(1), [scene.proposals(3)], [scene.targets()])
    assert set(output.losses) == {"loss_cls_stage0", "loss_box_reg_stage0", "loss_mask"}
