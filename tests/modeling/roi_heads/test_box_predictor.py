"""Losses and detections of the box branch, by hand and against torchvision."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads

from mrcnn_zoo.modeling.roi_heads.box_head import BoxPredictor, BoxRegression
from mrcnn_zoo.modeling.roi_heads.detection_selection import DetectionSelection, deltas_of_class
from mrcnn_zoo.modeling.roi_heads.region_classification import SigmoidClassification, SoftmaxClassification
from mrcnn_zoo.modeling.suppression import GreedySuppression
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.registries import BOX_LOSSES
from mrcnn_zoo.structures import FeatureSpec, LabeledRegions, Proposals, Targets

K = 3
SIZE = (100, 200)
WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def predictor(
    *, boxes_per_region: int = K, is_sigmoid: bool = False, loss_weight: float = 1.0, score_threshold: float = 0.05
) -> BoxPredictor:
    """A predictor with identity weights: its input vectors are K + 1 logits, then the deltas."""
    size = K + 1 + 4 * boxes_per_region
    made = BoxPredictor(
        FeatureSpec(channels=size, side=1),
        num_classes=K,
        boxes_per_region=boxes_per_region,
        classification=SigmoidClassification() if is_sigmoid else SoftmaxClassification(),
        regression=BoxRegression(BoxCoder(WEIGHTS), BOX_LOSSES.get("l1")(0.0), loss_weight=loss_weight),
        selection=DetectionSelection(GreedySuppression(0.5), score_threshold=score_threshold, max_detections=4),
    )
    with torch.no_grad():
        made.cls_score.weight.copy_(torch.eye(size)[: K + 1])
        made.bbox_pred.weight.copy_(torch.eye(size)[K + 1 :])
    return made


def regions(classes: list[int], matches: list[int] | None = None) -> LabeledRegions:
    """Regions of 20 x 10 pixels, and one ground-truth box: 2 pixels further right and twice as high."""
    boxes = torch.tensor([[10.0, 20.0, 30.0, 30.0]] * len(classes)).reshape(-1, 4)
    target = torch.tensor([[12.0, 15.0, 32.0, 35.0]])
    return LabeledRegions(
        image_size=SIZE,
        boxes=boxes,
        classes=torch.tensor(classes, dtype=torch.int64),
        matches=torch.tensor(matches if matches is not None else [0] * len(classes), dtype=torch.int64),
        targets=Targets(SIZE, target, torch.tensor([1])),
    )


def vectors(logits: list[list[float]], deltas: list[list[float]]) -> Tensor:
    return torch.cat((torch.tensor(logits), torch.tensor(deltas)), dim=1)


def test_losses_by_hand() -> None:
    # Region 0 is background, region 1 shows class 1: dx = 10 * 2 / 20 = 1, dh = 5 * ln 2, the rest 0.
    logits = [[0.0, 0.0, 0.0, 0.0], [0.0, math.log(5), 0.0, 0.0]]
    deltas = [[9.0] * 12, [9.0] * 4 + [0.5, 0.25, 0.0, 0.0] + [9.0] * 4]
    output = predictor().losses(vectors(logits, deltas), [regions([K]), regions([1])])
    assert output.losses["loss_cls"].item() == pytest.approx((math.log(4) + math.log(8 / 5)) / 2)
    assert output.losses["loss_box_reg"].item() == pytest.approx((0.5 + 0.25 + 5 * math.log(2)) / 2, rel=1e-5)


def test_class_agnostic_deltas_are_trained_for_all_classes() -> None:
    output = predictor(boxes_per_region=1).losses(
        vectors([[0.0] * 4] * 2, [[0.5, 0.25, 0.0, 0.0], [0.5, 0.25, 0.0, 0.0]]), [regions([2, K])]
    )
    assert output.losses["loss_box_reg"].item() == pytest.approx((0.5 + 0.25 + 5 * math.log(2)) / 2, rel=1e-5)


def test_box_loss_weight_is_a_factor() -> None:
    inputs = vectors([[0.0] * 4], [[0.0] * 12])
    plain = predictor().losses(inputs, [regions([0])]).losses["loss_box_reg"]
    weighted = predictor(loss_weight=2.5).losses(inputs, [regions([0])]).losses["loss_box_reg"]
    assert weighted.item() == pytest.approx(2.5 * plain.item())


def test_class_loss_weight_scales_only_the_class_loss() -> None:
    made, inputs = predictor(), vectors([[0.0] * 4], [[0.0] * 12])
    plain = made.losses(inputs, [regions([0])]).losses
    made.loss_weight = 2.5
    weighted = made.losses(inputs, [regions([0])]).losses
    assert weighted["loss_cls"].item() == pytest.approx(2.5 * plain["loss_cls"].item())
    assert weighted["loss_box_reg"].item() == plain["loss_box_reg"].item()


def test_refine_keeps_boxes_whose_deltas_are_not_finite() -> None:
    (table,) = predictor().refine(torch.tensor([[torch.nan, 0, 0, 0] * 3, [0, 0, torch.inf, 0] * 3]), [regions([1, 0])])
    assert torch.equal(table.boxes, regions([1, 0]).boxes)


def test_refine_moves_each_region_by_the_deltas_of_its_class() -> None:
    # dx = 10 is one width, 20 pixels; the image is 200 wide and nothing is clipped.
    deltas = torch.zeros(3, 12, requires_grad=True) + 0
    deltas[0, 4], deltas[2, 8] = 10.0, -20.0
    first, second = predictor().refine(deltas, [regions([1, 0]), regions([2])])
    assert first.boxes.tolist() == [[30, 20, 50, 30], [10, 20, 30, 30]]
    assert second.boxes.tolist() == [[-30, 20, -10, 30]]
    assert not first.boxes.requires_grad
    assert first.classes.tolist() == [1, 0]


@pytest.mark.parametrize("name", BOX_LOSSES.names())
def test_every_box_loss_is_zero_for_the_right_deltas(name: str) -> None:
    made = predictor()
    made.regression = BoxRegression(BoxCoder(WEIGHTS), BOX_LOSSES.get(name)(0.5))
    right = [0.0] * 8 + [1.0, 0.0, 0.0, 5 * math.log(2)]
    loss = made.losses(vectors([[0.0] * 4], [right]), [regions([2])]).losses["loss_box_reg"]
    assert loss.item() == pytest.approx(0, abs=1e-5)


def test_metrics_by_hand() -> None:
    winners = [0, 1, K, K, 2]  # of the logits
    logits = [[float(column == winner) for column in range(4)] for winner in winners]
    output = predictor().losses(vectors(logits, [[0.0] * 12] * 5), [regions([0, 2, 1, K]), regions([K])])
    assert {name: value.item() for name, value in output.metrics.items()} == pytest.approx(
        {"roi/cls_accuracy": 2 / 5, "roi/fg_cls_accuracy": 1 / 3, "roi/num_fg": 3, "roi/num_bg": 2}
    )
    assert not any(value.requires_grad for value in output.metrics.values())


def test_ignored_regions_have_no_loss_and_no_metric() -> None:
    inputs = vectors([[1.0, 0.0, 0.0, 0.0], [7.0, 0.0, 0.0, 0.0]], [[0.0] * 12, [5.0] * 12])
    with_ignored = predictor().losses(inputs, [regions([0, -1])])
    without = predictor().losses(inputs[:1], [regions([0])])
    for name, value in without.losses.items():
        assert with_ignored.losses[name].item() == pytest.approx(value.item())
    assert with_ignored.metrics["roi/num_bg"] == 0


@pytest.mark.parametrize("is_sigmoid", [False, True])
@pytest.mark.parametrize("classes", [[], [K, K], [-1]])
def test_without_foreground_the_losses_keep_the_graph(is_sigmoid: bool, classes: list[int]) -> None:
    made = predictor(is_sigmoid=is_sigmoid)
    table = regions(classes)
    table.targets = table.targets[:0]  # an image without any object, so that no row may be looked up
    output = made.losses(torch.zeros(len(classes), 16), [table])
    assert output.losses["loss_box_reg"].item() == 0
    assert (output.losses["loss_cls"].item() > 0) == (K in classes)
    output.total().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_sigmoid_loss_by_hand() -> None:
    logits = [[2.0, -1.0, 0.0, 50.0], [0.0, 0.0, 0.0, 50.0]]
    output = predictor(is_sigmoid=True).losses(vectors(logits, [[0.0] * 12] * 2), [regions([0, K])])
    first = math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1)) + math.log(2)
    assert output.losses["loss_cls"].item() == pytest.approx((first + 3 * math.log(2)) / 2)


def test_sums_and_counts_of_two_parts_add_up_to_those_of_the_whole() -> None:
    inputs = vectors([[1.0, 2.0, 3.0, 4.0]] * 4, [[0.5] * 12] * 4)
    tables = [regions([0, 1, K]), regions([2])]
    together = predictor().losses(inputs, tables)
    parts = [predictor().losses(inputs[:3], tables[:1]), predictor().losses(inputs[3:], tables[1:])]
    assert together.sums.keys() == {"loss_cls", "loss_box_reg"}
    for name, whole in together.sums.items():
        assert sum(part.sums[name].value.item() for part in parts) == pytest.approx(whole.value.item())
        assert sum(part.sums[name].count for part in parts) == whole.count == 4


def test_predict_decodes_clips_and_thresholds() -> None:
    proposals = Proposals(SIZE, torch.tensor([[10.0, 20, 30, 30], [150, 60, 190, 90]]), torch.zeros(2))
    logits = [[math.log(6), 0.0, 0.0, math.log(2)], [0.0, -9.0, math.log(3), 0.0]]
    shift = [5.0, 0.0, 0.0, 0.0]  # half a width to the right
    (found,) = predictor(score_threshold=0.2).predict(
        vectors(logits, [shift + [0.0] * 8, [0.0] * 8 + shift]), [proposals]
    )
    assert found.image_size == SIZE
    assert found.scores.tolist() == pytest.approx([0.6, 0.6], abs=1e-3)
    by_class = dict(zip(found.classes.tolist(), found.boxes.tolist(), strict=True))
    assert by_class[0] == pytest.approx([20, 20, 40, 30])
    assert by_class[2] == pytest.approx([170, 60, 200, 90])


def test_predict_applies_nms_per_class_and_the_limit() -> None:
    proposals = Proposals(
        SIZE,
        torch.tensor([[10.0, 20, 30, 30]] * 2 + [[i * 30.0, 50, i * 30 + 20, 80] for i in range(5)]),
        torch.zeros(7),
    )
    logits = [[3.0, 0.0, -9.0, 0.0], [2.0, 0.0, -9.0, 0.0]] + [[-9.0, -9.0, float(i), 0.0] for i in range(5)]
    (found,) = predictor(score_threshold=0.1).predict(vectors(logits, [[0.0] * 12] * 7), [proposals])
    assert len(found) == 4
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert found.classes.tolist() == [2, 2, 0, 2]


@pytest.mark.parametrize(
    ("column", "bad"), [(1, math.nan), (1, math.inf), (K + 6, math.nan), (K + 6, math.inf), (K + 6, -math.inf)]
)
def test_region_with_non_finite_outputs_gives_no_detection(column: int, bad: float) -> None:
    proposals = Proposals(SIZE, torch.tensor([[10.0, 20, 30, 30], [50, 60, 90, 90]]), torch.zeros(2))
    outputs = vectors([[3.0, 0.0, 0.0, 0.0]] * 2, [[0.0] * 12] * 2)
    outputs[0, column] = bad
    made = predictor(score_threshold=0.5)
    made.forward = lambda outputs: (outputs[:, : K + 1], outputs[:, K + 1 :])  # type: ignore[method-assign]
    (found,) = made.predict(outputs, [proposals])
    assert found.boxes.tolist() == [[50, 60, 90, 90]]


def test_images_are_independent_and_may_be_empty() -> None:
    tables = [
        Proposals(SIZE, torch.zeros(0, 4), torch.zeros(0)),
        Proposals(SIZE, torch.tensor([[10.0, 20, 30, 30]]), torch.zeros(1)),
        Proposals((50, 25), torch.tensor([[10.0, 20, 30, 30]]), torch.zeros(1)),
    ]
    found = predictor(score_threshold=0.5).predict(vectors([[9.0, 0, 0, 0]] * 2, [[0.0] * 12] * 2), tables)
    assert [table.boxes.tolist() for table in found] == [[], [[10, 20, 30, 30]], [[10, 20, 25, 30]]]
    assert found[2].image_size == (50, 25)


def test_no_score_above_the_threshold_gives_no_detection() -> None:
    proposals = Proposals(SIZE, torch.tensor([[10.0, 20, 30, 30]]), torch.zeros(1))
    (found,) = predictor(score_threshold=0.3).predict(torch.zeros(1, 16), [proposals])
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)


def test_deltas_of_class_selects_the_columns_of_the_class() -> None:
    deltas = torch.arange(24.0).reshape(2, 12)
    assert deltas_of_class(deltas, torch.tensor([2, 0])).tolist() == [[8, 9, 10, 11], [12, 13, 14, 15]]
    assert deltas_of_class(deltas[:, :4], torch.tensor([2, 0])).tolist() == [[0, 1, 2, 3], [12, 13, 14, 15]]


def test_predict_agrees_with_torchvision() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand((80, 2), generator=generator) * torch.tensor([150.0, 60.0])
    boxes = torch.cat((corners, corners + 10 + 40 * torch.rand((80, 2), generator=generator)), dim=1)
    logits = 2 * torch.randn((80, K + 1), generator=generator)
    deltas = torch.randn((80, 4 * K), generator=generator)
    made = predictor(score_threshold=0.2)
    made.selection.max_detections = 50
    (found,) = made.predict(torch.cat((logits, deltas), dim=1), [Proposals(SIZE, boxes, torch.zeros(80))])

    theirs = RoIHeads(None, None, None, 0.5, 0.5, 1, 0.25, WEIGHTS, 0.2, 0.5, 50)
    background_first = torch.cat((logits[:, K:], logits[:, :K]), dim=1)
    with_background = torch.cat((torch.zeros(80, 4), deltas), dim=1)
    expected_boxes, expected_scores, expected_classes = theirs.postprocess_detections(
        background_first, with_background, [boxes], [SIZE]
    )
    assert 10 < len(found) == len(expected_boxes[0])
    assert found.classes.tolist() == (expected_classes[0] - 1).tolist()
    torch.testing.assert_close(found.scores, expected_scores[0])
    torch.testing.assert_close(found.boxes, expected_boxes[0])


def test_map_of_a_box_head_is_flattened() -> None:
    made = BoxPredictor(
        FeatureSpec(channels=2, side=3),
        num_classes=K,
        boxes_per_region=1,
        classification=SoftmaxClassification(),
        regression=SimpleNamespace(),  # type: ignore[arg-type]
        selection=SimpleNamespace(),  # type: ignore[arg-type]
    )
    logits, deltas = made(torch.zeros(5, 2, 3, 3))
    assert logits.shape == (5, K + 1)
    assert deltas.shape == (5, 4)
