"""Branches of users: a pooled head as ever, and a branch that samples the features itself."""

import copy
import pickle
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
from mrcnn_zoo.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead, build_mask_rcnn_conv_upsample_head
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


def test_user_defined_pooled_head_becomes_a_branch_with_the_same_names(flat: nn.Module) -> None:
    assert isinstance(flat.mask_head, PooledBranch)
    assert isinstance(flat.mask_head, FlatMaskHead)
    assert {name for name in flat.state_dict() if name.startswith("mask_head")} == {
        "mask_head.layer.weight",
        "mask_head.layer.bias",
    }


def test_user_defined_pooled_head_trains_and_predicts(flat: nn.Module, scene: Any) -> None:
    output = flat.losses(scene.features(2), [scene.proposals(30), scene.proposals(20)], [scene.targets()] * 2)
    output.total().backward()
    assert output.losses["loss_flat"] > 0
    assert flat.mask_head.layer.weight.grad.any()
    (found,) = flat.eval().predict(scene.features(1), [scene.proposals(30)])
    assert found.masks.probabilities.shape == (len(found), 4, 4)
    assert all(shape[2:] == (14, 14) for shape in flat.mask_head.seen)


def test_copy_of_a_pooled_branch_is_independent(flat: nn.Module) -> None:
    other = copy.deepcopy(flat)
    with torch.no_grad():
        other.mask_head.layer.weight.add_(1)
    assert not torch.equal(other.mask_head.layer.weight, flat.mask_head.layer.weight)
    assert other.mask_head.region_pooler is not flat.mask_head.region_pooler


def test_listed_branches_run_after_masks_and_keypoints(small_cfg: Callable[..., CfgNode], scene: Any) -> None:
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


class TripledLoss(MaskRCNNConvUpsampleHead):
    """Changes the losses of a head that also has `supervise`, and nothing else."""

    def losses(self, pooled: Tensor, foreground: list[LabeledRegions]) -> TrainingOutput:
        return TrainingOutput({"loss_tripled": 3 * super().losses(pooled, foreground).losses["loss_mask"]})


def build_tripled_loss(cfg: CfgNode, spec: FeatureSpec) -> TripledLoss:
    head = build_mask_rcnn_conv_upsample_head(cfg, spec)
    head.__class__ = TripledLoss
    return head  # type: ignore[return-value]


def test_overridden_losses_of_a_subclass_are_used(small_cfg: Callable[..., CfgNode], scene: Any) -> None:
    outputs = []
    for name in ("MaskRCNNConvUpsampleHead", f"{HERE}:build_tripled_loss"):
        torch.manual_seed(0)
        heads = build_roi_heads(small_cfg("MODEL.ROI_MASK_HEAD.NAME", name), scene.specs)
        outputs.append(heads.losses(scene.features(1), [scene.proposals(30)], [scene.targets()]))
    assert outputs[1].losses["loss_tripled"].item() == pytest.approx(3 * outputs[0].losses["loss_mask"].item())


class HeadWithPooler(FlatMaskHead):
    """Pools once more, by a module under the name that the heads might use."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.pooler = nn.AvgPool2d(2)

    def forward(self, pooled: Tensor) -> Tensor:
        return super().forward(self.pooler(pooled))


def build_head_with_pooler(cfg: CfgNode, spec: FeatureSpec) -> HeadWithPooler:  # noqa: ARG001
    return HeadWithPooler(spec.channels)


def test_head_may_have_an_attribute_named_pooler(small_cfg: Callable[..., CfgNode], scene: Any) -> None:
    heads = build_roi_heads(small_cfg("MODEL.ROI_MASK_HEAD.NAME", f"{HERE}:build_head_with_pooler"), scene.specs)
    (found,) = heads.eval().predict(scene.features(1), [scene.proposals(30)])  # type: ignore[attr-defined]
    assert found.masks.probabilities.shape == (len(found), 4, 4)
    assert heads.mask_head.seen == [(len(found), 8, 7, 7)]  # type: ignore[attr-defined]


def test_pooled_branch_can_be_pickled(flat: nn.Module, scene: Any) -> None:
    other = pickle.loads(pickle.dumps(flat))
    assert isinstance(other.mask_head, FlatMaskHead)
    assert isinstance(other.mask_head, PooledBranch)
    (found,), (expected,) = (heads.eval().predict(scene.features(1), [scene.proposals(30)]) for heads in (other, flat))
    assert torch.equal(found.masks.probabilities, expected.masks.probabilities)


def changed_branch(**members: Any) -> Callable[..., HalvedScores]:
    """A builder of `HalvedScores` with other methods or another name."""
    return lambda _cfg, _spec: type("Changed", (HalvedScores,), members)("p2")


build_order = changed_branch(losses=lambda _branch, _features, regions: (TrainingOutput(), regions))
build_alone = changed_branch(losses=lambda _branch, _features, _regions: TrainingOutput())
build_dict = changed_branch(losses=lambda branch, _features, regions: (regions, {"loss": branch.weight}))
build_nothing = changed_branch(predict=lambda _branch, _features, _detections: None)
build_too_few = changed_branch(predict=lambda _branch, _features, detections: detections[:1])
build_taken = changed_branch(name="box_head")
build_dotted = changed_branch(name="a.b")
build_twice = changed_branch(name="mask_head")


@pytest.mark.parametrize("heads_name", ["StandardROIHeads", "CascadeROIHeads"])
@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (
            "build_order",
            r"of Changed must return \(regions, TrainingOutput\).*\(TrainingOutput, a list of 2\)",
        ),
        (
            "build_alone",
            r"\(regions, TrainingOutput\), but it returned TrainingOutput: see RegionBranch in",
        ),
        ("build_dict", r"must return TrainingOutput\(losses=\{name: scalar\}\), but it returned dict"),
        ("build_nothing", "`predict` of Changed must return a list of 2 Detections.*returned None"),
        ("build_too_few", "returned a list of 1"),
        ("build_taken", r"Changed \(MODEL.ROI_HEADS.BRANCHES\) has the name 'box_head'"),
        ("build_dotted", "has the name 'a.b'; it must be one word"),
        ("build_twice", "two branches have the name 'mask_head'"),
    ],
)
def test_branch_that_violates_the_contract_is_reported(
    heads_name: str, builder: str, message: str, small_cfg: Callable[..., CfgNode], scene: Any
) -> None:
    settings = ("MODEL.ROI_HEADS.NAME", heads_name, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)
    cfg = small_cfg(*settings, "MODEL.ROI_HEADS.BRANCHES", [f"{HERE}:{builder}"])

    def build_train_and_predict() -> None:
        heads = build_roi_heads(cfg, scene.specs)
        heads.losses(scene.features(2), [scene.proposals(30)] * 2, [scene.targets()] * 2)
        heads.eval().predict(scene.features(2), [scene.proposals(30)] * 2)  # type: ignore[attr-defined]

    with pytest.raises(UserError, match=message):
        build_train_and_predict()


def test_head_without_a_required_method_is_refused(small_cfg: Callable[..., CfgNode], scene: Any) -> None:
    cfg = small_cfg("MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NAME", "torch.nn:Bilinear")
    with pytest.raises(UserError, match=r"MODEL\.ROI_MASK_HEAD\.NAME = 'torch\.nn:Bilinear'"):
        build_roi_heads(cfg, scene.specs)
