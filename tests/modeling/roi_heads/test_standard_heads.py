from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.roi_heads import build_roi_heads
from mrcnn_zoo.registries import ROI_HEADS
from mrcnn_zoo.structures import BoxedBitmaps, FeatureSpec, Proposals, Targets

SIZE = (64, 96)
SPECS = {
    name: FeatureSpec(channels=8, stride=stride) for name, stride in (("p2", 4), ("p3", 8), ("p4", 16), ("p5", 32))
}
GROUND_TRUTH = torch.tensor([[10.0, 10, 40, 50], [50, 5, 90, 60]])


def features(images: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(
            (images, 8, SIZE[0] // spec.stride, SIZE[1] // spec.stride), generator=generator
        ).requires_grad_()
        for name, spec in SPECS.items()
    }


def targets(boxes: Tensor = GROUND_TRUTH) -> Targets:
    bitmaps = torch.zeros(len(boxes), *SIZE, dtype=torch.bool)
    for bitmap, (x0, y0, x1, y1) in zip(bitmaps, boxes.int().tolist(), strict=True):
        bitmap[y0:y1, x0:x1] = True
    return Targets(SIZE, boxes, torch.arange(len(boxes)) + 3, masks=BoxedBitmaps.from_full(bitmaps))


def proposals(count: int, *, seed: int = 0) -> Proposals:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand((count, 2), generator=generator) * torch.tensor([60.0, 30.0])
    sides = 5 + torch.rand((count, 2), generator=generator) * 29
    return Proposals(SIZE, torch.cat((corners, corners + sides), dim=1), torch.zeros(count))


@pytest.mark.parametrize("name", ROI_HEADS.names())
def test_every_roi_heads_trains_and_predicts(name: str, small_cfg: Callable[..., CfgNode]) -> None:
    heads = ROI_HEADS.get(name)(small_cfg("MODEL.ROI_HEADS.NAME", name), SPECS)
    output = heads.losses(features(2), [proposals(30), proposals(20, seed=1)], [targets(), targets()])
    output.total().backward()
    assert all(loss.isfinite() and loss.dim() == 0 for loss in output.losses.values())
    assert all(parameter.grad is not None for parameter in heads.parameters() if parameter.requires_grad)
    assert not any(metric.requires_grad for metric in output.metrics.values())
    with torch.no_grad():
        found = heads.predict(features(2), [proposals(30), proposals(20, seed=1)])
    for table in found:
        assert 0 < len(table) <= 20
        assert table.scores.tolist() == sorted(table.scores.tolist(), reverse=True)
        assert (table.boxes >= 0).all()
        assert (table.boxes <= torch.tensor([SIZE[1], SIZE[0]] * 2)).all()
        assert table.masks is not None
        assert len(table.masks) == len(table)


@pytest.mark.parametrize("name", ROI_HEADS.names())
def test_every_roi_heads_takes_no_proposals_and_no_objects(name: str, small_cfg: Callable[..., CfgNode]) -> None:
    heads = ROI_HEADS.get(name)(small_cfg("MODEL.ROI_HEADS.NAME", name), SPECS)
    maps = features(2)
    nothing = replace(targets(GROUND_TRUTH[:0]), masks=None)
    output = heads.losses(maps, [proposals(0), proposals(0)], [nothing, nothing])
    assert output.total().item() == 0
    output.total().backward()
    assert all(parameter.grad is not None for parameter in heads.parameters() if parameter.requires_grad)
    found = heads.predict(maps, [proposals(0), proposals(0)])
    assert [len(table) for table in found] == [0, 0]
    assert found[0].masks is not None


def test_image_without_objects_trains_on_background(small_cfg: Callable[..., CfgNode]) -> None:
    heads = build_roi_heads(small_cfg(), SPECS)
    output = heads.losses(features(1), [proposals(30)], [targets(GROUND_TRUTH[:0])])
    assert output.metrics["roi/num_fg"] == 0
    assert output.metrics["roi/num_bg"] == 30
    assert output.losses["loss_cls"] > 0
    assert output.losses["loss_box_reg"] == output.losses["loss_mask"] == 0
    output.total().backward()
    assert all(parameter.grad is not None for parameter in heads.parameters())


def test_ground_truth_becomes_foreground(small_cfg: Callable[..., CfgNode]) -> None:
    heads = build_roi_heads(small_cfg(), SPECS)
    output = heads.losses(features(1), [proposals(0)], [targets()])
    assert output.metrics["roi/num_fg"] == 2
    assert output.metrics["roi/num_bg"] == 0


def test_losses_have_detectron2s_names(small_cfg: Callable[..., CfgNode]) -> None:
    with_masks = build_roi_heads(small_cfg(), SPECS).losses(features(1), [proposals(5)], [targets()])
    assert set(with_masks.losses) == {"loss_cls", "loss_box_reg", "loss_mask"}
    without = build_roi_heads(small_cfg("MODEL.MASK_ON", False), SPECS)
    assert set(without.losses(features(1), [proposals(5)], [targets()]).losses) == {"loss_cls", "loss_box_reg"}
    assert without.predict(features(1), [proposals(5)])[0].masks is None


def test_masks_are_made_of_the_boxes_given(small_cfg: Callable[..., CfgNode]) -> None:
    heads = build_roi_heads(small_cfg(), SPECS).eval()
    maps = features(1)
    with torch.no_grad():
        (found,) = heads.predict(maps, [proposals(30)])
        (again,) = heads.predict_masks(maps, [replace(found, masks=None)])
    assert found.masks is not None
    assert again.masks is not None
    assert torch.equal(again.masks.bitmaps(), found.masks.bitmaps())


def test_class_agnostic_heads_have_one_box_and_one_mask(small_cfg: Callable[..., CfgNode]) -> None:
    cfg = small_cfg("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True, "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True)
    state = build_roi_heads(cfg, SPECS).state_dict()
    assert state["box_predictor.bbox_pred.weight"].shape == (4, 16)
    assert state["mask_head.predictor.weight"].shape == (1, 8, 1, 1)


@pytest.mark.parametrize("names", [["p2", "p7"], []])
def test_maps_that_the_backbone_does_not_return_are_refused(
    names: list[str], small_cfg: Callable[..., CfgNode]
) -> None:
    with pytest.raises(UserError, match=r"MODEL\.ROI_HEADS\.IN_FEATURES.*p2, p3, p4, p5"):
        build_roi_heads(small_cfg("MODEL.ROI_HEADS.IN_FEATURES", names), SPECS)
