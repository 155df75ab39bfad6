import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.roi_heads import build_roi_heads


def test_image_without_objects_trains_on_background(small_cfg: Callable[..., CfgNode], scene: Any) -> None:
    heads = build_roi_heads(small_cfg(), scene.specs)
    output = heads.losses(scene.features(1), [scene.proposals(30)], [scene.targets(0)])
    assert output.metrics["roi/num_fg"] == 0
    assert output.metrics["roi/num_bg"] == 30
    assert output.losses["loss_cls"] > 0
    assert output.losses["loss_box_reg"] == output.losses["loss_mask"] == 0
    output.total().backward()
    assert all(parameter.grad is not None for parameter in heads.parameters())


def test_ground_truth_boxes_become_foreground(small_cfg: Callable[..., CfgNode], scene: Any) -> None:
    heads = build_roi_heads(small_cfg(), scene.specs)
    output = heads.losses(scene.features(1), [scene.proposals(0)], [scene.targets()])
    assert output.metrics["roi/num_fg"] == 2
    assert output.metrics["roi/num_bg"] == 0


def test_losses_have_detectron2_names(small_cfg: Callable[..., CfgNode], scene: Any) -> None:
    with_masks = build_roi_heads(small_cfg(), scene.specs).losses(
        scene.features(1), [scene.proposals(5)], [scene.targets()]
    )
    assert set(with_masks.losses) == {"loss_cls", "loss_box_reg", "loss_mask"}
    without = build_roi_heads(small_cfg("MODEL.MASK_ON", False), scene.specs)
    assert set(without.losses(scene.features(1), [scene.proposals(5)], [scene.targets()]).losses) == {
        "loss_cls",
        "loss_box_reg",
    }
    assert without.predict(scene.features(1), [scene.proposals(5)])[0].masks is None


def test_masks_and_keypoints_are_predicted_in_the_detected_boxes(small_cfg: Callable[..., CfgNode], scene: Any) -> None:
    heads = build_roi_heads(small_cfg(*scene.keypoint_settings), scene.specs).eval()
    maps = scene.features(1)
    with torch.no_grad():
        (found,) = heads.predict(maps, [scene.proposals(30)])
        (again,) = heads.branch_predictions(maps, [replace(found, masks=None, keypoints=None)])
    assert found.masks is not None
    assert again.masks is not None
    assert torch.equal(again.masks.bitmaps(), found.masks.bitmaps())
    assert found.keypoints is not None
    assert found.keypoints.shape == (len(found), 3, 3)
    assert torch.equal(again.keypoints, found.keypoints)


def test_masks_and_keypoints_train_together(small_cfg: Callable[..., CfgNode], scene: Any) -> None:
    heads = build_roi_heads(small_cfg(*scene.keypoint_settings), scene.specs)
    output = heads.losses(
        scene.features(2), [scene.proposals(30), scene.proposals(20)], [scene.targets(), scene.targets(0)]
    )
    assert set(output.losses) == {"loss_cls", "loss_box_reg", "loss_mask", "loss_keypoint"}
    output.total().backward()
    assert all(parameter.grad is not None for parameter in heads.parameters())
    assert output.metrics["keypoint/num_labelled"] > 0


def test_keypoints_work_without_masks(small_cfg: Callable[..., CfgNode], scene: Any) -> None:
    heads = build_roi_heads(small_cfg(*scene.keypoint_settings, "MODEL.MASK_ON", False), scene.specs)
    truth = replace(scene.targets(), masks=None)
    assert set(heads.losses(scene.features(1), [scene.proposals(9)], [truth]).losses) == {
        "loss_cls",
        "loss_box_reg",
        "loss_keypoint",
    }
    assert heads.predict(scene.features(1), [scene.proposals(9)])[0].masks is None


@pytest.mark.parametrize("is_agnostic", [False, True])
def test_masks_are_trained_on_predicted_boxes(
    is_agnostic: bool, small_cfg: Callable[..., CfgNode], scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zero weights and a bias of the deltas: every box moves right by a tenth of its width, and doubles its height."""
    keys = ("MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", is_agnostic)
    heads = build_roi_heads(small_cfg(*keys), scene.specs)
    layer = heads.box_predictor.bbox_pred
    with torch.no_grad():
        layer.weight.zero_()
        # Objects have classes 3 and 4; other classes would move the boxes by something else.
        layer.bias.fill_(0.7).unflatten(0, (-1, 4))[-2:] = torch.tensor([1.0, 0.0, 0.0, 5 * math.log(2)])
    seen = []
    losses = heads.mask_head.losses
    monkeypatch.setattr(heads.mask_head, "losses", lambda pooled, tables: seen.extend(tables) or losses(pooled, tables))
    heads.losses(scene.features(1), [scene.proposals(0)], [scene.targets()]).total().backward()
    assert seen[0].classes.tolist() == [3, 4]
    expected = torch.tensor([[13.0, -10, 43, 70], [54, -22.5, 94, 87.5]])
    torch.testing.assert_close(seen[0].boxes, expected)
    assert not seen[0].boxes.requires_grad


def test_class_agnostic_heads_have_one_box_and_one_mask(small_cfg: Callable[..., CfgNode], scene: Any) -> None:
    cfg = small_cfg("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True, "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True)
    state = build_roi_heads(cfg, scene.specs).state_dict()
    assert state["box_predictor.bbox_pred.weight"].shape == (4, 16)
    assert state["mask_head.predictor.weight"].shape == (1, 8, 1, 1)


@pytest.mark.parametrize("names", [["p2", "p7"], []])
def test_maps_that_the_backbone_does_not_return_are_refused(
    names: list[str], small_cfg: Callable[..., CfgNode], scene: Any
) -> None:
    with pytest.raises(UserError, match=r"MODEL\.ROI_HEADS\.IN_FEATURES.*p2, p3, p4, p5"):
        build_roi_heads(small_cfg("MODEL.ROI_HEADS.IN_FEATURES", names), scene.specs)
