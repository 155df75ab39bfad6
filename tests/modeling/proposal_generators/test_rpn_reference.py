"""Backbone and RPN against what Detectron2 has computed with the same weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mrcnn_zoo.config import load_config
from mrcnn_zoo.modeling.backbones import build_backbone
from mrcnn_zoo.modeling.proposal_generators import build_proposal_generator
from mrcnn_zoo.structures import Batch, Targets

CASES = ("mask_rcnn_R_50_FPN", "mask_rcnn_R_50_FPN_roipool_agnostic", "faster_rcnn_R_50_FPN")


@dataclass
class Case:
    """One recorded model, with our backbone and RPN in its state."""

    backbone: Any
    rpn: Any
    recorded: dict[str, Tensor]
    batch: Batch

    def losses(self) -> dict[str, Tensor]:
        return self.rpn.losses(self.backbone(self.batch.pixels), self.batch)[1].losses


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, shared_dir: Path) -> Case:
    folder = shared_dir / "reference/detectron2/fixtures" / request.param
    recorded = {name: torch.from_numpy(value) for name, value in np.load(folder / "io.npz").items()}
    state = torch.load(folder / "model.pth", weights_only=True)["model"]
    cfg = load_config(folder / "config.yaml")
    backbone = build_backbone(cfg, 3)
    rpn = build_proposal_generator(cfg, backbone.output_specs)
    for prefix, part in (("backbone.", backbone), ("proposal_generator.", rpn)):
        assert isinstance(part, nn.Module)
        part.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    sizes = [(len(recorded[f"image{i}"]), len(recorded[f"image{i}"][0])) for i in range(2)]
    targets = [Targets(sizes[i], recorded[f"gt{i}_boxes"], recorded[f"gt{i}_classes"]) for i in range(2)]
    return Case(backbone, rpn, recorded, Batch(recorded["input_tensor"], sizes, targets, None))


def assert_equal_to_scale(actual: Tensor, expected: Tensor, *, tolerance: float) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


def test_features_agree(case: Case) -> None:
    features = case.backbone(case.batch.pixels)
    names = [name for name in features if f"feature_{name}" in case.recorded]
    assert names == ["p3", "p4", "p5", "p6"]
    for name in names:
        assert_equal_to_scale(features[name], case.recorded[f"feature_{name}"], tolerance=1e-4)


def test_proposals_agree_in_the_same_order(case: Case) -> None:
    proposals = case.rpn.predict(case.backbone(case.batch.pixels), case.batch)
    for image, table in enumerate(proposals):
        assert_equal_to_scale(table.boxes, case.recorded[f"proposals{image}_boxes"], tolerance=1e-4)
        assert_equal_to_scale(table.objectness, case.recorded[f"proposals{image}_logits"], tolerance=1e-4)


def test_losses_agree(case: Case) -> None:
    for name, loss in case.losses().items():
        torch.testing.assert_close(loss, case.recorded[f"loss_{name}"], rtol=1e-4, atol=0)
