"""A suppression that is trained alone: on what it gets at inference, with everything else unchanged."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dev.generated_samples import generated_samples
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.modeling.contracts import Candidates
from mrcnn_zoo.modeling.suppression import GossipNet
from mrcnn_zoo.training.optimizer import build_optimizer

GOSSIP = (
    *("MODEL.GOSSIP_NET.NUM_BLOCKS", 1, "MODEL.GOSSIP_NET.DIM", 16, "MODEL.GOSSIP_NET.REDUCED_DIM", 8),
    *("MODEL.GOSSIP_NET.MAX_CANDIDATES", 100, "MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", 0),
    *("MODEL.ROI_BOX_HEAD.DROPOUT", 0.5, "MODEL.RPN.POST_NMS_TOPK_TEST", 30),
)
HEADS = "MODEL.ROI_HEADS.SUPPRESSION"
SETTINGS: dict[str, tuple[Any, ...]] = {
    "StandardROIHeads": (HEADS, "GossipNet"),
    "CascadeROIHeads": (
        *(HEADS, "GossipNet", "MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
        *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
    ),
    "Res5ROIHeads": (
        *(HEADS, "GossipNet", "MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "MODEL.ROI_HEADS.IN_FEATURES", ["p4"]),
        *("MODEL.ROI_BOX_HEAD.DROPOUT", 0.0, "MODEL.RESNETS.RES2_OUT_CHANNELS", 2, "MODEL.RESNETS.DEPTH", 18),
    ),
    "RetinaNet": (
        *("MODEL.RETINANET.SUPPRESSION", "GossipNet", "MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.MASK_ON", False),
        *("MODEL.RETINANET.IN_FEATURES", ["p2", "p3", "p4"], "MODEL.RETINANET.NUM_CLASSES", 5),
        *("MODEL.ANCHOR_GENERATOR.SIZES", [[16], [32], [64]]),
        *("MODEL.RETINANET.NUM_CONVS", 1, "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0),
        *("MODEL.RETINANET.TOPK_CANDIDATES_TEST", 30, "MODEL.RETINANET.NORM", "BN"),
    ),
}
SAMPLES = generated_samples(2, image_size=(64, 96), num_classes=5)


def built(small_cfg: Callable[..., CfgNode], *overrides: Any) -> Any:
    torch.manual_seed(0)
    return build_model(small_cfg(*GOSSIP, *overrides))


def recorded_candidates(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[Candidates]:
    """What the suppression of a model is called with from now on."""
    seen: list[Candidates] = []
    logits = GossipNet.logits

    def record(self: GossipNet, candidates: Candidates) -> torch.Tensor:
        seen.append(candidates)
        return logits(self, candidates)

    monkeypatch.setattr(type(model.suppression), "logits", record)
    return seen


@pytest.mark.parametrize("name", SETTINGS)
def test_suppression_is_trained_on_what_it_gets_at_inference(
    name: str, small_cfg: Callable[..., CfgNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built(small_cfg, *SETTINGS[name], "SOLVER.TRAIN", ["suppression"])
    seen = recorded_candidates(model, monkeypatch)
    output = model.train()(SAMPLES)
    model.eval().predict(SAMPLES)
    trained, predicted = seen
    assert set(output.losses) == {"loss_suppression_pos", "loss_suppression_neg"}
    assert len(trained.boxes) > 20
    assert torch.equal(trained.boxes, predicted.boxes)
    assert torch.equal(trained.scores, predicted.scores)
    assert torch.equal(trained.classes, predicted.classes)
    assert not trained.boxes.requires_grad


@pytest.mark.parametrize("name", SETTINGS)
def test_all_but_the_suppression_stays_equal_bit_for_bit(name: str, small_cfg: Callable[..., CfgNode]) -> None:
    cfg = small_cfg(*GOSSIP, *SETTINGS[name], "SOLVER.TRAIN", ["suppression"], "SOLVER.OPTIMIZER", "AdamW")
    torch.manual_seed(0)
    model: nn.Module = build_model(cfg)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = build_optimizer(cfg, model)
    for _ in range(2):
        optimizer.zero_grad()
        model.train()(SAMPLES).total().backward()
        optimizer.step()
    changed = {
        key for key, value in model.state_dict().items() if key in before and not torch.equal(value, before[key])
    }
    assert changed
    assert all("suppression" in key.split(".") for key in changed)
    assert {"suppression" in key.split(".") for key in before} == {True, False}


def test_weights_have_the_names_of_the_ordinary_detector_and_predict_alone(small_cfg: Callable[..., CfgNode]) -> None:
    alone = built(small_cfg, *SETTINGS["StandardROIHeads"], "SOLVER.TRAIN", ["suppression"])
    ordinary = built(small_cfg, *SETTINGS["StandardROIHeads"])
    assert list(alone.state_dict()) == list(ordinary.state_dict())
    for weight in ordinary.parameters():
        weight.data += torch.randn_like(weight) * 0.01
    alone.load_state_dict(ordinary.state_dict())
    (found, _), (expected, _) = (model.eval().predict(SAMPLES) for model in (alone, ordinary))
    assert len(found) > 0
    assert torch.equal(found.boxes, expected.boxes)
    assert torch.equal(found.scores, expected.scores)


def test_ordinary_training_adds_the_losses_of_the_suppression(small_cfg: Callable[..., CfgNode]) -> None:
    model = built(small_cfg, *SETTINGS["StandardROIHeads"])
    losses = model.train()(SAMPLES).losses
    assert {"loss_cls", "loss_mask", "loss_rpn_cls", "loss_suppression_pos", "loss_suppression_neg"} <= set(losses)


def test_suppression_without_losses_cannot_be_trained_alone(small_cfg: Callable[..., CfgNode]) -> None:
    model = built(small_cfg, "SOLVER.TRAIN", ["suppression"])
    assert len(model.eval().predict(SAMPLES)) == 2
    with pytest.raises(UserError, match=r"SOLVER.TRAIN = \[suppression\], but GreedySuppression has no losses"):
        model.train()(SAMPLES)
