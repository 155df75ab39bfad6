"""MultiBox: matching and losses worked out by hand, and what a tiny one learns."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.proposal_generators import MultiBox, build_proposal_generator
from mrcnn_zoo.modeling.proposal_generators.multibox import (
    MultiBoxCriterion,
    cost_of_predictions,
    cost_of_priors,
)
from mrcnn_zoo.modeling.recording import Recording
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.ops.box_coding import CornerOffsetCoder
from mrcnn_zoo.structures import Batch, FeatureSpec, Targets

SIZE = (50, 200)
CODER = CornerOffsetCoder((1.0, 1.0, 1.0, 1.0))
# Boxes that differ in x1 only: 0.2, 0.5 and 0.9 of the width; the objects begin at 0.3 and at 0.1.
PRIORS = torch.tensor([[40.0, 0, 200, 50], [100.0, 0, 200, 50], [180.0, 0, 200, 50]])
OBJECTS = torch.tensor([[60.0, 0, 200, 50], [20.0, 0, 200, 50]])
LOGITS = torch.tensor([[-1.0, 2.0, 3.0]])
AT_PRIORS = torch.zeros(1, 3, 4)
SOFTPLUS = {value: math.log(1 + math.exp(value)) for value in (-2, -1, 1, 2, 3)}


def criterion(matching: Any = cost_of_priors, alpha: float = 0.3) -> MultiBoxCriterion:
    return MultiBoxCriterion(CODER, matching_cost=matching, alpha=alpha)


def targets(boxes: Tensor = OBJECTS, size: tuple[int, int] = SIZE) -> Targets:
    return Targets(size, boxes, torch.zeros(len(boxes), dtype=torch.int64))


def matches_of(*arguments: Any, **settings: Any) -> list[tuple[int, int]]:
    ((objects, predictions),) = criterion(**settings).match(*arguments)
    return list(zip(objects.tolist(), predictions.tolist(), strict=True))


def losses_of(*arguments: Any, **settings: Any) -> dict[str, float]:
    return {name: loss.item() for name, loss in criterion(**settings).losses(*arguments).losses.items()}


def test_matching_with_priors_is_that_of_the_hand_made_case() -> None:
    # 1/2 d^2: 0.005, 0.02, 0.18 for the first object, 0.005, 0.08, 0.32 for the second. Both are nearest to prior 0;
    # 0.005 + 0.08 is more than 0.02 + 0.005.
    cost = cost_of_priors(LOGITS[0], AT_PRIORS[0], PRIORS / 200, OBJECTS / 200, 0.3)
    assert cost.flatten().tolist() == pytest.approx([0.005, 0.02, 0.18, 0.005, 0.08, 0.32])
    assert matches_of(LOGITS, AT_PRIORS, PRIORS, [targets()]) == [(0, 1), (1, 0)]


def test_matching_with_predictions_is_that_of_the_hand_made_case() -> None:
    # Costs: 1.0015, -1.994, -2.946 and 1.0015, -1.976, -2.904. The confident 1 and 2: -4.898 as they come, -4.922
    # exchanged.
    assert matches_of(LOGITS, AT_PRIORS, PRIORS, [targets()], matching=cost_of_predictions) == [(0, 2), (1, 1)]
    # With a larger alpha, 10,000, the distances decide.
    far = matches_of(LOGITS, AT_PRIORS, PRIORS, [targets()], matching=cost_of_predictions, alpha=1e4)
    assert far == [(0, 1), (1, 0)]


def test_losses_of_the_hand_made_case() -> None:
    # Prediction 1 is for the first object, 0.2 from it, prediction 0 for the second, 0.1 from it.
    confidence = SOFTPLUS[-2] + SOFTPLUS[1] + SOFTPLUS[3]
    losses = losses_of(LOGITS, AT_PRIORS, PRIORS, [targets()])
    assert losses["loss_multibox_loc"] == pytest.approx(0.3 * 0.5 * (0.04 + 0.01))
    assert losses["loss_multibox_conf"] == pytest.approx(confidence)
    # x1 of prediction 1 moved by -0.4 of the prior's 100 pixels: at the object's 60.
    moved = AT_PRIORS.clone()
    moved[0, 1, 0] = -0.4
    assert losses_of(LOGITS, moved, PRIORS, [targets()])["loss_multibox_loc"] == pytest.approx(0.3 * 0.5 * 0.01)


def test_matching_with_predictions_minimises_the_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(20, 2, generator=generator) * torch.tensor([150.0, 30])
    priors = torch.cat((corners, corners + 10 + torch.rand(20, 2, generator=generator) * 20), dim=1)
    logits, offsets = torch.randn(1, 20, generator=generator), 0.2 * torch.randn(1, 20, 4, generator=generator)
    found = matches_of(logits, offsets, priors, [targets(priors[:6] + 3)], matching=cost_of_predictions, alpha=50.0)
    # The whole F for each pair, less that without matches, in numpy and float64.
    sides, scale = (priors[:, 2:] - priors[:, :2]).repeat(1, 2).double().numpy(), np.array([200.0, 50, 200, 50])
    predicted = (priors.double().numpy() + offsets[0].double().numpy() * sides) / scale
    truth, confidences = (priors[:6] + 3).double().numpy() / scale, 1 / (1 + np.exp(-logits[0].double().numpy()))
    distance = 0.5 * ((truth[:, None] - predicted[None]) ** 2).sum(axis=2)
    cost = 50 * distance - np.log(confidences) + np.log(1 - confidences)
    rows, columns = linear_sum_assignment(cost)
    assert found == list(zip(rows.tolist(), columns.tolist(), strict=True))
    losses = losses_of(logits, offsets, priors, [targets(priors[:6] + 3)], matching=cost_of_predictions, alpha=50.0)
    assert sum(losses.values()) == pytest.approx(cost[rows, columns].sum() - np.log(1 - confidences).sum(), rel=1e-5)


def test_losses_of_a_batch_are_the_means_over_its_images() -> None:
    images = [targets(), targets(OBJECTS[:0]), targets(OBJECTS[1:] / 2, (25, 100))]
    generator = torch.Generator().manual_seed(0)
    logits, offsets = torch.randn(3, 3, generator=generator), torch.randn(3, 3, 4, generator=generator)
    each = [losses_of(logits[i : i + 1], offsets[i : i + 1], PRIORS, images[i : i + 1]) for i in range(3)]
    for name, value in losses_of(logits, offsets, PRIORS, images).items():
        assert value == pytest.approx(sum(losses[name] for losses in each) / 3)


def test_distances_are_relative_to_the_image() -> None:
    half = losses_of(LOGITS, AT_PRIORS, PRIORS / 2, [targets(OBJECTS / 2, (25, 100))])
    assert half == pytest.approx(losses_of(LOGITS, AT_PRIORS, PRIORS, [targets()]))


def test_image_without_objects_has_confidence_losses_of_all_predictions_only() -> None:
    losses = losses_of(LOGITS, AT_PRIORS, PRIORS, [targets(OBJECTS[:0])])
    assert losses["loss_multibox_loc"] == 0
    assert losses["loss_multibox_conf"] == pytest.approx(SOFTPLUS[-1] + SOFTPLUS[2] + SOFTPLUS[3])


def test_each_prediction_has_one_of_more_objects_than_predictions() -> None:
    many = torch.cat((OBJECTS, OBJECTS + 1, OBJECTS - 1))
    found = matches_of(LOGITS, AT_PRIORS, PRIORS, [targets(many)])
    assert sorted(prediction for _, prediction in found) == [0, 1, 2]
    assert len({row for row, _ in found}) == 3


def test_predictions_that_are_not_finite_make_the_losses_not_finite() -> None:
    broken = torch.full_like(LOGITS, math.nan)
    losses = losses_of(broken, AT_PRIORS, PRIORS, [targets()], matching=cost_of_predictions)
    assert math.isnan(losses["loss_multibox_conf"])


SPECS = {"fine": FeatureSpec(16, stride=8), "coarse": FeatureSpec(12, stride=16)}


def build(**settings: Any) -> MultiBox:
    values: dict[str, Any] = {"MODEL.PROPOSAL_GENERATOR.NAME": "MultiBox", "MODEL.ANCHOR_GENERATOR.OFFSET": 0.5}
    values |= {"MODEL.ANCHOR_GENERATOR.SIZES": [[12, 16], [32]], "MODEL.MULTIBOX.IN_FEATURES": ["fine", "coarse"]}
    values |= {f"MODEL.MULTIBOX.{key}": value for key, value in settings.items()}
    generator = build_proposal_generator(load_config(None, [part for item in values.items() for part in item]), SPECS)
    assert isinstance(generator, MultiBox)
    return generator


def inputs(*boxes: Tensor) -> tuple[dict[str, Tensor], Batch]:
    generator = torch.Generator().manual_seed(0)
    features = {
        name: torch.rand((len(boxes), spec.channels, 64 // spec.stride, 64 // spec.stride), generator=generator)
        for name, spec in SPECS.items()
    }
    tables = [targets(image, (64, 64)) for image in boxes]
    return features, Batch(torch.zeros(len(boxes), 3, 64, 64), [(64, 64)] * len(boxes), tables, None)


TWO = torch.tensor([[6.0, 8, 22, 20], [30.0, 20, 60, 56]])


def test_maps_may_differ_in_channels_and_in_priors_per_cell() -> None:
    logits, offsets = build()(inputs(TWO)[0])
    assert [level.shape for level in logits] == [(1, 64 * 6), (1, 16 * 3)]
    assert [level.shape for level in offsets] == [(1, 64 * 6, 4), (1, 16 * 3, 4)]


@pytest.mark.parametrize("conv_dims", [[], [-1], [5, -1]])
def test_every_parameter_has_a_gradient_also_without_objects(conv_dims: list[int]) -> None:
    torch.manual_seed(0)
    model = build(CONV_DIMS=conv_dims, ALPHA=10.0)
    model.losses(*inputs(TWO))[1].total().backward()
    without = {name for name, parameter in model.named_parameters() if not parameter.grad.any()}
    # One object is matched on each map, so that both location layers have a loss.
    assert without == set()
    model.zero_grad(set_to_none=True)
    output = model.losses(*inputs(TWO[:0]))[1]
    output.total().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert output.metrics["multibox/num_matched"] == 0


@pytest.mark.parametrize("matching", ["priors", "predictions"])
def test_few_steps_teach_the_two_objects_of_an_image(matching: str) -> None:
    torch.manual_seed(0)
    model, (features, batch) = build(MATCHING=matching, ALPHA=100.0), inputs(TWO)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(80):
        optimizer.zero_grad()
        model.losses(features, batch)[1].total().backward()
        optimizer.step()
    (table,) = model.predict(features, batch)
    overlaps = box_ops.iou(TWO, table.boxes[:2])
    assert (overlaps.amax(dim=1) > 0.8).all()
    confidences = table.objectness.sigmoid()
    assert (confidences[:2] > 0.8).all()
    assert (confidences[2:] < 0.2).all()


def test_proposals_are_those_of_the_priors_with_the_highest_confidence() -> None:
    model = build(NMS_THRESH=1.0, POST_NMS_TOPK_TEST=5)
    for predictor in model.predictors:
        torch.nn.init.zeros_(predictor.location.weight)
    features, batch = inputs(TWO)
    recording = Recording()
    (table,) = model.predict(features, batch, recorder=recording)
    logits = torch.cat(model(features)[0], dim=1)[0]
    best, rows = logits.topk(5)
    priors = torch.cat(model.anchor_generator(list(features.values())))
    assert torch.equal(table.objectness, best)
    torch.testing.assert_close(table.boxes, priors[rows].clamp(0, 64))
    (report,) = recording.reports
    assert report.sources[report.kept].tolist() == rows.tolist()
    assert len(report.boxes) == len(priors)


def test_suppression_compares_proposals_of_all_maps() -> None:
    features, batch = inputs(TWO)
    (table,) = build(NMS_THRESH=0.3).predict(features, batch)
    overlaps = box_ops.iou(table.boxes, table.boxes)
    assert len(table) > 10
    assert (overlaps - torch.eye(len(table)) <= 0.3 + 1e-6).all()


def test_unknown_maps_are_refused_with_the_key() -> None:
    with pytest.raises(UserError, match=r"MODEL\.MULTIBOX\.IN_FEATURES = \['p3'\].*fine, coarse"):
        build(IN_FEATURES=["p3"])
