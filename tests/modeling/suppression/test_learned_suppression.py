"""A suppression with weights that sees features: what `contracts.LearnsToSuppress` is for."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dev.generated_samples import generated_samples
from mrcnn_zoo.checkpoint import load_weights
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.modeling.contracts import Candidates
from mrcnn_zoo.modeling.roi_heads import build_roi_heads
from mrcnn_zoo.modeling.suppression import GreedySuppression, Suppression
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.structures import LossSum, Targets, TrainingOutput

SIZE = (100, 100)
DIM = 4


class PairSuppression(Suppression):
    """Removes boxes that overlap a better box of their class and have similar features, by a learned function."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.embed = nn.Linear(dim, 8)
        self.decide = nn.Linear(2, 1)

    def logits(self, candidates: Candidates) -> Tensor:
        """(R,) above 0 for boxes that stay."""
        assert candidates.vectors is not None
        embedded = F.normalize(self.embed(candidates.vectors), dim=1)
        overlaps = box_ops.iou(candidates.boxes, candidates.boxes)
        is_better = candidates.scores > candidates.scores[:, None]
        is_rival = is_better & (candidates.images == candidates.images[:, None])
        is_rival &= candidates.classes == candidates.classes[:, None]
        pairs = torch.stack((overlaps, overlaps * (embedded @ embedded.T)), dim=-1) * is_rival[..., None]
        if len(pairs) == 0:
            return self.decide(pairs.flatten(0, 1)).squeeze(1)
        return self.decide(pairs).squeeze(2).amin(dim=1)

    def suppress(self, candidates: Candidates) -> tuple[Tensor, Tensor]:
        rows = (self.logits(candidates) > 0).nonzero().flatten()
        rows = rows[candidates.scores[rows].argsort(descending=True, stable=True)]
        rows = rows[candidates.images[rows].argsort(stable=True)]
        return rows, candidates.scores[rows]

    def losses(self, candidates: Candidates, targets: list[Targets]) -> TrainingOutput:
        wanted = torch.zeros_like(candidates.scores)
        for image, truth in enumerate(targets):
            for box in truth.boxes:
                overlaps = box_ops.iou(candidates.boxes, box[None]).squeeze(1) * (candidates.images == image)
                if len(overlaps) and overlaps.max() > 0:
                    shows = overlaps >= overlaps.max() - 0.1
                    wanted[candidates.scores.masked_fill(~shows, -1).argmax()] = 1
        loss = F.binary_cross_entropy_with_logits(self.logits(candidates), wanted, reduction="sum")
        return TrainingOutput({"loss_suppression": LossSum(loss, len(wanted))})


def build_pair_suppression(cfg: CfgNode, iou_threshold: float) -> PairSuppression:  # noqa: ARG001
    return PairSuppression(cfg.MODEL.ROI_BOX_HEAD.FC_DIM)


def two_scenes(seed: int) -> tuple[Candidates, list[Targets]]:
    """Two images; in each, two objects that cover each other by 0.6 and look different, and three boxes of each."""
    generator = torch.Generator().manual_seed(seed)
    boxes, vectors, targets = [], [], []
    for _ in range(2):
        corner = torch.rand(2, generator=generator) * 40
        objects = torch.stack([torch.cat((corner + shift, corner + shift + 40)) for shift in (0.0, 6.0)])
        looks = torch.eye(DIM)[torch.randperm(DIM, generator=generator)[:2]]
        targets.append(Targets(SIZE, objects, torch.zeros(2, dtype=torch.int64)))
        boxes.append(objects.repeat_interleave(3, dim=0) + torch.randn((6, 1), generator=generator) * 0.5)
        vectors.append(looks.repeat_interleave(3, dim=0) + torch.randn((6, DIM), generator=generator) * 0.05)
    candidates = Candidates(
        boxes=torch.cat(boxes),
        scores=torch.rand(12, generator=generator),
        classes=torch.zeros(12, dtype=torch.int64),
        images=torch.arange(2).repeat_interleave(6),
        image_sizes=[SIZE, SIZE],
        counts=[6, 6],
        num_classes=1,
        vectors=torch.cat(vectors),
    )
    return candidates, targets


def shown_objects(rows: Tensor) -> list[int]:
    """The object, 0 to 3, that each kept row is of."""
    return sorted((rows // 3).tolist())


@pytest.fixture(scope="module")
def trained() -> PairSuppression:
    torch.manual_seed(0)
    suppression = PairSuppression(DIM)
    optimizer = torch.optim.Adam(suppression.parameters(), lr=0.05)
    for step in range(150):
        optimizer.zero_grad()
        suppression.losses(*two_scenes(step)).total().backward()
        optimizer.step()
    return suppression


def test_learned_suppression_removes_duplicates_and_keeps_objects(trained: PairSuppression) -> None:
    for seed in range(1000, 1020):
        candidates, _ = two_scenes(seed)
        assert shown_objects(trained.suppress(candidates)[0]) == [0, 1, 2, 3]
        # The boxes alone do not distinguish two objects from duplicates.
        assert shown_objects(GreedySuppression(0.5).suppress(candidates)[0]) != [0, 1, 2, 3]


def test_untrained_suppression_cannot_separate_duplicates() -> None:
    torch.manual_seed(0)
    candidates, _ = two_scenes(1000)
    assert shown_objects(PairSuppression(DIM).suppress(candidates)[0]) != [0, 1, 2, 3]


class Doubter(Suppression):
    """Keeps all of what it sees, and learns one number from the maps and the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def suppress(self, candidates: Candidates) -> tuple[Tensor, Tensor]:
        assert candidates.features is not None
        return torch.arange(len(candidates.scores)), candidates.scores

    def losses(self, candidates: Candidates, targets: list[Targets]) -> TrainingOutput:
        assert candidates.features is not None
        assert not candidates.scores.requires_grad
        assert not candidates.boxes.requires_grad
        assert len(targets) == len(candidates.counts)
        loss = self.weight * (candidates.scores.sum() + candidates.features["p3"].sum())
        return TrainingOutput({"loss_doubt": LossSum(loss, len(candidates.scores))})


def build_doubter(cfg: CfgNode, iou_threshold: float) -> Doubter:  # noqa: ARG001
    return Doubter()


def test_retinanet_trains_a_learned_suppression(small_cfg: Callable[..., CfgNode]) -> None:
    key = ("MODEL.RETINANET.SUPPRESSION", f"{__name__}:build_doubter")
    backbone = ("MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone")
    settings = ("MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.RETINANET.NUM_CLASSES", 5, "MODEL.MASK_ON", False)
    anchors = ("MODEL.ANCHOR_GENERATOR.SIZES", [[16], [32], [64], [128], [256]], "MODEL.RETINANET.NUM_CONVS", 1)
    levels = ("MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"], "MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"])
    score = ("MODEL.RETINANET.SCORE_THRESH_TEST", 0.0)
    model: Any = build_model(small_cfg(*settings, *backbone, *anchors, *levels, *score, *key))
    samples = generated_samples(2, image_size=(64, 96), num_classes=5)
    output = model.losses(samples)
    output.total().backward()
    assert output.losses["loss_doubt"].isfinite()
    assert model.selection.suppression.weight.grad.abs() > 0
    assert all(len(table) > 0 for table in model.eval().predict(samples))


def build_forgetful(cfg: CfgNode, iou_threshold: float) -> nn.Module:  # noqa: ARG001
    return type("Forgetful", (nn.Module,), {"losses": Doubter.losses, "forward": GreedySuppression.forward})()


def build_of_no_module(cfg: CfgNode, iou_threshold: float) -> object:  # noqa: ARG001
    return type("Plain", (), {"suppress": Doubter.suppress, "__call__": GreedySuppression.forward})()


def build_of_rows(cfg: CfgNode, iou_threshold: float) -> object:  # noqa: ARG001
    def rows(boxes: Tensor, scores: Tensor, classes: Tensor) -> Tensor:  # noqa: ARG001
        return scores.argsort(descending=True)

    return rows


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (
            "build_forgetful",
            "SUPPRESSION = '.*:build_forgetful' makes a Forgetful without suppress.*LearnsToSuppress",
        ),
        ("build_of_no_module", "makes a Plain with a method `suppress`, which is no torch.nn.Module"),
        ("build_of_rows", r"the suppression rows must return \(kept rows, their scores\).*returned Tensor"),
    ],
)
def test_invalid_suppression_is_refused(
    builder: str, message: str, small_cfg: Callable[..., CfgNode], scene: Any
) -> None:
    cfg = small_cfg("MODEL.ROI_HEADS.SUPPRESSION", f"{__name__}:{builder}")
    with pytest.raises(UserError, match=message):
        build_roi_heads(cfg, scene.specs).eval().predict(scene.features(1), [scene.proposals(30)])  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["StandardROIHeads", "CascadeROIHeads"])
def test_region_heads_train_a_learned_suppression_and_save_its_weights(
    name: str, small_cfg: Callable[..., CfgNode], scene: Any, tmp_path: Any
) -> None:
    settings = ("MODEL.ROI_HEADS.NAME", name, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)
    cfg = small_cfg("MODEL.ROI_HEADS.SUPPRESSION", f"{__name__}:build_pair_suppression", *settings)
    heads = build_roi_heads(cfg, scene.specs)
    output = heads.losses(scene.features(2), [scene.proposals(30), scene.proposals(20)], [scene.targets()] * 2)
    suffix = "_stage2" if name == "CascadeROIHeads" else ""
    assert f"loss_suppression{suffix}" in output.losses
    output.total().backward()
    saved = {key: value for key, value in heads.state_dict().items() if "suppression" in key}  # type: ignore[attr-defined]
    assert {key.rsplit("suppression.")[1] for key in saved} == {
        f"{layer}.{part}" for layer in ("embed", "decide") for part in ("weight", "bias")
    }
    parameters = dict(heads.named_parameters())  # type: ignore[attr-defined]
    assert all(parameters[key].grad.any() for key in saved if key.endswith("decide.bias"))
    torch.save({"model": heads.state_dict()}, tmp_path / "model.pth")  # type: ignore[attr-defined]
    other = build_roi_heads(cfg, scene.specs)
    load_weights(other, tmp_path / "model.pth")  # type: ignore[arg-type]
    proposals = [scene.proposals(30)]
    (found,), (again,) = (part.eval().predict(scene.features(1), proposals) for part in (heads, other))  # type: ignore[attr-defined]
    assert torch.equal(found.boxes, again.boxes)
