from typing import Any

import torch
from torch import Tensor

from mrcnn_zoo.modeling.proposal_generators.selection import ProposalSelection, rank_by_logit, rank_by_probability
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.structures import Proposals

SIZE = (20, 100)


def selection(**changes: Any) -> ProposalSelection:
    settings = {"pre_nms_topk": 10, "post_nms_topk": 10, "iou_threshold": 0.7} | changes
    return ProposalSelection(BoxCoder((1.0, 1.0, 1.0, 1.0)), **settings)


def select(*levels: tuple[list[list[float]], list[float]], **changes: Any) -> Proposals:
    """The proposals of one image from the boxes and logits of each level."""
    logits = [torch.tensor([logits]) for _, logits in levels]
    anchors = [torch.tensor(boxes, dtype=torch.float32) for boxes, _ in levels]
    deltas = [torch.zeros(1, len(boxes), 4) for boxes in anchors]
    (proposals,) = selection(**changes).select(logits, deltas, anchors, [SIZE])
    return proposals


def row_of_anchors(count: int) -> Tensor:
    x = torch.arange(count) * 10.0
    return torch.stack((x, torch.zeros(count), x + 10, torch.full((count,), 10.0)), dim=1)


def test_each_level_keeps_its_own_best_in_each_image() -> None:
    logits = [torch.tensor([[1.0, 3.0, 2.0], [9.0, 8.0, 7.0]]), torch.tensor([[0.5], [10.0]])]
    deltas = [torch.zeros(2, 3, 4), torch.zeros(2, 1, 4)]
    anchors = [row_of_anchors(3), row_of_anchors(1)]
    first, second = selection(pre_nms_topk=2).select(logits, deltas, anchors, [SIZE, SIZE])
    assert first.objectness.tolist() == [3.0, 2.0, 0.5]
    assert first.boxes[:, 0].tolist() == [10.0, 20.0, 0.0]
    assert second.objectness.tolist() == [10.0, 9.0, 8.0]
    assert second.boxes[:, 0].tolist() == [0.0, 0.0, 10.0]


def test_candidates_are_moved_by_their_own_deltas() -> None:
    deltas = torch.zeros(1, 3, 4)
    deltas[0, 2, 0] = 0.5
    (proposals,) = selection(pre_nms_topk=1).select(
        [torch.tensor([[1.0, 2.0, 3.0]])], [deltas], [row_of_anchors(3)], [SIZE]
    )
    assert proposals.boxes.tolist() == [[25.0, 0.0, 35.0, 10.0]]


def test_proposals_are_clipped_and_sorted() -> None:
    proposals = select(([[0, 0, 5, 5], [90, 10, 120, 30]], [1.0, 2.0]))
    assert proposals.boxes.tolist() == [[90, 10, 100, 20], [0, 0, 5, 5]]
    assert proposals.objectness.tolist() == [2.0, 1.0]


def test_boxes_are_clipped_before_nms() -> None:
    # Inside the image both are the same; outside one is much larger.
    assert len(select(([[90, 0, 100, 10], [90, 0, 300, 10]], [2.0, 1.0]))) == 1


def test_suppression_stays_within_a_level() -> None:
    proposals = select(([[0, 0, 10, 10], [0, 0, 10, 9]], [3.0, 2.0]), ([[0, 0, 10, 9]], [1.0]))
    assert proposals.objectness.tolist() == [3.0, 1.0]


def test_only_the_best_of_all_levels_stay() -> None:
    levels = ([[0, 0, 10, 10], [40, 0, 50, 10]], [1.0, 2.0]), ([[20, 0, 30, 10]], [3.0])
    assert select(*levels, post_nms_topk=2).objectness.tolist() == [3.0, 2.0]


def test_small_and_empty_boxes_are_dropped() -> None:
    boxes: list[list[float]] = [[0, 0, 4, 10], [20, 0, 25, 10], [150, 0, 160, 10]]
    assert select((boxes, [3.0, 2.0, 1.0])).objectness.tolist() == [3.0, 2.0]
    assert select((boxes, [3.0, 2.0, 1.0]), min_size=4).objectness.tolist() == [2.0]


def test_predictions_that_are_not_finite_are_dropped() -> None:
    nan, inf = float("nan"), float("inf")
    boxes = [[0, 0, nan, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, -inf, 70, inf]]
    assert select((boxes, [3.0, 2.0, nan, 1.0])).objectness.tolist() == [2.0]


def test_each_image_is_clipped_to_its_own_size() -> None:
    first, second = selection().select(
        [torch.ones(2, 1)], [torch.zeros(2, 1, 4)], [torch.tensor([[0.0, 0, 50, 50]])], [(10, 20), (30, 40)]
    )
    assert first.boxes.tolist() == [[0, 0, 20, 10]]
    assert second.boxes.tolist() == [[0, 0, 40, 30]]
    assert (first.image_size, second.image_size) == ((10, 20), (30, 40))


def test_image_without_usable_boxes_has_no_proposals() -> None:
    proposals = select(([[0, 0, 0, 0]], [1.0]))
    assert proposals.boxes.shape == (0, 4)
    assert proposals.objectness.shape == (0,)


def test_joined_levels_compete_for_the_top_k() -> None:
    levels = (row_of_anchors(3).tolist(), [1.0, 3.0, 2.0]), ([[50.0, 0, 60, 10], [70.0, 0, 80, 10]], [2.5, 0.1])
    assert select(*levels, pre_nms_topk=2, joins_levels=True).objectness.tolist() == [3.0, 2.5]
    assert select(*levels, pre_nms_topk=2).objectness.tolist() == [3.0, 2.5, 2.0, torch.tensor(0.1).item()]


def test_joined_levels_suppress_each_other() -> None:
    levels = ([[0.0, 0, 10, 10]], [1.0]), ([[0.0, 0, 10, 10]], [2.0])
    assert select(*levels, joins_levels=True).objectness.tolist() == [2.0]


def test_rank_by_logit_returns_rows_and_logits_best_first() -> None:
    rows, scores = rank_by_logit(torch.tensor([[0.0, 3.0, 1.0], [5.0, -1.0, 2.0]]), 2)
    assert rows.tolist() == [[1, 2], [0, 2]]
    assert scores.tolist() == [[3.0, 1.0], [5.0, 2.0]]


def test_rank_by_probability_returns_rows_and_probabilities_best_first() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, -1.0, 2.0]])
    rows, scores = rank_by_probability(logits, 2)
    assert rows.tolist() == [[1, 2], [0, 2]]
    torch.testing.assert_close(scores, logits.gather(1, rows).sigmoid())


def test_rank_by_probability_keeps_the_order_of_equal_probabilities() -> None:
    # Both probabilities are 1 in float32, so the second logit is no better than the first.
    proposals = select((row_of_anchors(3).tolist(), [20.0, 30.0, 2.0]), rank=rank_by_probability)
    assert proposals.objectness.tolist() == [20.0, 30.0, 2.0]
