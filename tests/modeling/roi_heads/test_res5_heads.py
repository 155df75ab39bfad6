from collections.abc import Callable
from typing import Any

import pytest
import torch

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.roi_heads import Res5ROIHeads, build_roi_heads

# res4 of a ResNet-18 has 4 times the channels of res2: 8, as many as the maps of the scene.
C4 = (
    *("MODEL.ROI_HEADS.NAME", "Res5ROIHeads"),
    *("MODEL.ROI_HEADS.IN_FEATURES", ["p4"]),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 2),
    *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 14),
)


@pytest.fixture
def heads(small_cfg: Callable[..., CfgNode], scene: Any) -> Res5ROIHeads:
    torch.manual_seed(0)
    return build_roi_heads(small_cfg(*C4), scene.specs)


def test_box_and_mask_branch_share_res5(heads: Res5ROIHeads, scene: Any) -> None:
    for name in ("loss_cls", "loss_mask"):
        heads.zero_grad()
        heads.losses(scene.features(1), [scene.proposals(9)], [scene.targets()]).losses[name].backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in heads.res5.parameters())


def test_res5_runs_once_in_training(heads: Res5ROIHeads, scene: Any) -> None:
    calls = []
    heads.res5.register_forward_hook(lambda _module, inputs, _output: calls.append(len(inputs[0])))
    heads.losses(scene.features(1), [scene.proposals(9)], [scene.targets()])
    assert calls == [11]


def test_masks_have_the_side_of_the_pooled_map(heads: Res5ROIHeads, scene: Any) -> None:
    # 14 cells are pooled, res5 makes 7 of them, and the mask head 14 again.
    assert heads.region_maps(scene.features(1), [scene.boxes]).shape == (2, 16, 7, 7)
    with torch.no_grad():
        (found,) = heads.predict(scene.features(1), [scene.proposals(9)])
    assert found.masks is not None
    assert found.masks.probabilities.shape[1:] == (14, 14)


def test_without_masks(small_cfg: Callable[..., CfgNode], scene: Any) -> None:
    heads = build_roi_heads(small_cfg(*C4, "MODEL.MASK_ON", False), scene.specs)
    output = heads.losses(scene.features(1), [scene.proposals(3)], [scene.targets()])
    assert set(output.losses) == {"loss_cls", "loss_box_reg"}
    assert heads.predict(scene.features(1), [scene.proposals(3)])[0].masks is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("MODEL.ROI_HEADS.IN_FEATURES", ["p3", "p4"]), "pools from one map"),
        (("MODEL.ROI_HEADS.IN_FEATURES", ["res9"]), "should name maps of the backbone: p2, p3, p4, p5"),
        (("MODEL.RESNETS.RES2_OUT_CHANNELS", 64), r"must have the 256 channels .* p4 has 8"),
        (("MODEL.KEYPOINT_ON", True), r"MODEL\.KEYPOINT_ON True"),
        (("MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True), "TRAIN_ON_PRED_BOXES True"),
    ],
)
def test_unsupported_settings_are_refused(
    settings: tuple[Any, ...], message: str, small_cfg: Callable[..., CfgNode], scene: Any
) -> None:
    with pytest.raises(UserError, match=message):
        build_roi_heads(small_cfg(*C4, *settings), scene.specs)
