"""Backbone and RPN against what Detectron2 has computed with the same weights."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mrcnn_zoo.config import load_config
from mrcnn_zoo.modeling.backbones import build_backbone
from mrcnn_zoo.modeling.proposal_generators import build_proposal_generator
from mrcnn_zoo.modeling.proposal_generators.rpn_patches import predict_on_patches
from mrcnn_zoo.structures import Batch, Targets
from support.references import find_case, relative_error

# All recorded models with an RPN.
CASES = (
    "cascade_mask_rcnn_R_50_FPN",
    "faster_rcnn_R_50_FPN",
    "keypoint_rcnn_R_50_FPN",
    "mask_rcnn_R_50_C4",
    "mask_rcnn_R_50_DC5",
    "mask_rcnn_R_50_FPN",
    "mask_rcnn_R_50_FPN_gn",
    "mask_rcnn_R_50_FPN_roipool_agnostic",
    "mask_rcnn_X_101_FPN",
    "rpn_R_50_FPN",
)
LOSSES = {"loss_rpn_cls", "loss_rpn_loc"}
SAME_LOGIT = 1e-5  # of the largest: candidates with closer ones may stand in either order


@dataclass
class Case:
    """One recorded model: our RPN in its state, and the features of our backbone."""

    rpn: Any
    recorded: dict[str, Tensor]
    features: dict[str, Tensor]
    batch: Batch


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    source = find_case(request.param)
    recorded = {name: source.tensor(name) for name in source.arrays}
    cfg = load_config(source.config)
    backbone = build_backbone(cfg, 3)
    rpn = build_proposal_generator(cfg, backbone.output_specs)
    for prefix, part in (("backbone.", backbone), ("proposal_generator.", rpn)):
        assert isinstance(part, nn.Module)
        part.load_state_dict({k.removeprefix(prefix): v for k, v in source.weights.items() if k.startswith(prefix)})
    sizes = [(len(recorded[f"image{i}"]), len(recorded[f"image{i}"][0])) for i in range(2)]
    targets = [Targets(sizes[i], recorded[f"gt{i}_boxes"], recorded[f"gt{i}_classes"]) for i in range(2)]
    batch = Batch(recorded["input_tensor"], sizes, targets, None)
    with torch.no_grad():
        return Case(rpn, recorded, backbone(batch.pixels), batch)


def test_features_agree(case: Case) -> None:
    names = [name for name in case.features if f"feature_{name}" in case.recorded]
    assert names
    for name in names:
        assert relative_error(case.features[name], case.recorded[f"feature_{name}"]) < 1e-4


def test_proposals_agree_in_the_same_order(case: Case) -> None:
    proposals = case.rpn.predict(case.features, case.batch)
    assert len(proposals) == 2
    for image, table in enumerate(proposals):
        boxes, logits = case.recorded[f"proposals{image}_boxes"], case.recorded[f"proposals{image}_logits"]
        assert relative_error(table.objectness, logits) < 1e-4
        assert relative_error(table.boxes[order_of_recorded(table.boxes, boxes, logits)], boxes) < 1e-4


def order_of_recorded(ours: Tensor, recorded: Tensor, logits: Tensor) -> Tensor:
    """Rows of `ours`, those of two neighbours exchanged where their recorded logits are as good as the same."""
    rows = torch.arange(len(ours))
    tolerance = SAME_LOGIT * logits.abs().max()
    for row in (logits[:-1] - logits[1:] <= tolerance).nonzero().flatten().tolist():
        distances = [(ours[rows[row]] - recorded[place]).abs().max() for place in (row, row + 1)]
        if distances[1] < distances[0]:
            rows[[row, row + 1]] = rows[[row + 1, row]]
    return rows


def test_losses_agree(case: Case) -> None:
    losses = case.rpn.losses(case.features, case.batch)[1].losses
    assert losses.keys() == LOSSES
    for name, loss in losses.items():
        torch.testing.assert_close(loss, case.recorded[f"loss_{name}"], rtol=1e-4, atol=0)


def test_losses_agree_when_the_head_runs_around_the_sampled_anchors_only(case: Case) -> None:
    # Every anchor is sampled here.
    levels = [case.features[name] for name in case.rpn.in_features]
    anchors = torch.cat(case.rpn.anchor_generator(levels))
    sample = case.rpn.labeler.sample(anchors, case.batch.targets, case.batch.image_sizes)
    anchors_per_cell = case.rpn.anchor_generator.anchors_per_cell[0]
    logits, deltas = predict_on_patches(case.rpn.rpn_head, levels, anchors_per_cell, sample.rows)
    losses = case.rpn.sampled_losses(logits, deltas, sample, num_images=2).losses
    assert losses.keys() == LOSSES
    for name, loss in losses.items():
        torch.testing.assert_close(loss, case.recorded[f"loss_{name}"], rtol=1e-4, atol=0)
