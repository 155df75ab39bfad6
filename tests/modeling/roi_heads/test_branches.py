"""Branches of users: a pooled head as ever, and a branch that samples the features itself."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.contracts import Features
from mrcnn_zoo.modeling.roi_heads import PooledBranch, RegionBranch, build_roi_heads
from mrcnn_zoo.structures import (
    BranchSpec,
    Detections,
    FeatureSpec,
    LabeledRegions,
    LossSum,
    ProbabilityMasks,
    TrainingOutput,
)

HERE = __name__


class FlatMaskHead(nn.Module):
    """A pooled head: the same probability everywhere in the box."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Linear(channels, 1)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, pooled: Tensor) -> Tensor:
        self.seen.append(tuple(pooled.shape))
        return self.layer(pooled.mean(dim=(2, 3))).squeeze(1).sigmoid()

    def losses(self, pooled: Tensor, foreground: list[LabeledRegions]) -> TrainingOutput:
        assert sum(map(len, foreground)) == len(pooled)
        return TrainingOutput({"loss_flat": self(pooled).sum()})

    def predict(self, pooled: Tensor, detections: list[Detections]) -> list[Detections]:
        parts = self(pooled).split([len(table) for table in detections])
        return [
            replace(table, masks=ProbabilityMasks(part[:, None, None].expand(-1, 4, 4), table.boxes, table.image_size))
            for part, table in zip(parts, detections, strict=True)
        ]


def build_flat_mask_head(cfg: CfgNode, spec: FeatureSpec) -> FlatMaskHead:
    assert spec.side == cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION
    return FlatMaskHead(spec.channels)


class HalvedScores(RegionBranch):
    """Halves the score of every second detection, and learns one number from a map."""

    name = "halved"
    corrects_scores = True

    def __init__(self, map_name: str) -> None:
        super().__init__()
        self.map_name = map_name
        self.weight = nn.Parameter(torch.ones(()))

    def losses(self, features: Features, regions: list[LabeledRegions]) -> tuple[list[LabeledRegions], TrainingOutput]:
        count = sum(map(len, regions))
        assert all((table.classes < 5).all() for table in regions)  # the foreground alone
        return regions, TrainingOutput({"loss_halved": LossSum(self.weight * features[self.map_name].mean(), count)})

    def predict(self, features: Features, detections: list[Detections]) -> list[Detections]:  # noqa: ARG002
        halves = [1 - 0.5 * (torch.arange(len(table)) % 2) for table in detections]
        return [replace(table, scores=table.scores * half) for table, half in zip(detections, halves, strict=True)]


def build_halved_scores(cfg: CfgNode, spec: BranchSpec) -> HalvedScores:  # noqa: ARG001
    return HalvedScores(next(iter(spec.maps)))


@pytest.fixture
def flat(small_cfg: Callable[..., CfgNode], scene: Any) -> nn.Module:
    cfg = small_cfg("MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NAME", f"{HERE}:build_flat_mask_head")
    return build_roi_heads(cfg, scene.specs)  # type: ignore[return-value]


def test_pooled_head_of_a_user_becomes_a_branch_under_its_names(flat: nn.Module) -> None:
    assert isinstance(flat.mask_head, PooledBranch)
    assert isinstance(flat.mask_head, FlatMaskHead)
    assert {name for name in flat.state_dict() if name.startswith("mask_head")} == {
        "mask_head.layer.weight",
        "mask_head.layer.bias",
    }


def test_pooled_head_of_a_user_trains_and_predicts(flat: nn.Module, scene: Any) -> None:
    output = flat.losses(scene.features(2), [scene.proposals(30), scene.proposals(20)], [scene.targets()] * 2)
    output.total().backward()
    assert output.losses["loss_flat"] > 0
    assert flat.mask_head.layer.weight.grad.any()
    (found,) = flat.eval().predict(scene.features(1), [scene.proposals(30)])
    assert found.masks.probabilities.shape == (len(found), 4, 4)
    assert all(shape[2:] == (14, 14) for shape in flat.mask_head.seen)


def test_copy_of_an_adapted_head_is_independent(flat: nn.Module) -> None:
    other = copy.deepcopy(flat)
    with torch.no_grad():
        other.mask_head.layer.weight.add_(1)
    assert not torch.equal(other.mask_head.layer.weight, flat.mask_head.layer.weight)
    assert other.mask_head.pooler is not flat.mask_head.pooler


def test_branches_of_the_config_come_after_masks_and_keypoints(small_cfg: Callable[..., CfgNode], scene: Any) -> None:
    settings = ("MODEL.ROI_HEADS.BRANCHES", [f"{HERE}:build_halved_scores"])
    heads = build_roi_heads(small_cfg(*scene.keypoint_settings, *settings), scene.specs)
    assert heads.branch_names == ("mask_head", "keypoint_head", "halved")  # type: ignore[attr-defined]
    output = heads.losses(scene.features(2), [scene.proposals(30)] * 2, [scene.targets(), scene.targets(0)])
    output.total().backward()
    assert heads.halved.weight.grad is not None  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["StandardROIHeads", "CascadeROIHeads"])
def test_corrected_scores_are_sorted_again(name: str, small_cfg: Callable[..., CfgNode], scene: Any) -> None:
    settings = ("MODEL.ROI_HEADS.NAME", name, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)
    plain = build_roi_heads(small_cfg(*settings), scene.specs).eval()
    branches = ("MODEL.ROI_HEADS.BRANCHES", [f"{HERE}:build_halved_scores"])
    corrected = build_roi_heads(small_cfg(*settings, *branches), scene.specs).eval()
    corrected.load_state_dict(plain.state_dict(), strict=False)
    (before,) = plain.predict(scene.features(1), [scene.proposals(30)])
    (after,) = corrected.predict(scene.features(1), [scene.proposals(30)])
    wanted = before.scores * (1 - 0.5 * (torch.arange(len(before)) % 2))
    assert torch.equal(after.scores, wanted.sort(descending=True, stable=True).values)
    assert torch.equal(after.boxes, before.boxes[wanted.argsort(descending=True, stable=True)])


def test_head_without_a_verb_is_refused_when_built(small_cfg: Callable[..., CfgNode], scene: Any) -> None:
    cfg = small_cfg("MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NAME", "torch.nn:Bilinear")
    with pytest.raises(UserError, match=r"MODEL\.ROI_MASK_HEAD\.NAME = 'torch\.nn:Bilinear'"):
        build_roi_heads(cfg, scene.specs)
