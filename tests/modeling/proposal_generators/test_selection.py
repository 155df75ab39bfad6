import torch
from torch import Tensor

from mrcnn_zoo.modeling.proposal_generators.selection import (
    Candidates,
    JointSelection,
    ProbabilityRanking,
    ProposalSelection,
)
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.structures import Proposals

CODER = BoxCoder((1.0, 1.0, 1.0, 1.0))


def selection(**changes: float) -> ProposalSelection:
    settings = {"pre_nms_topk": 10, "post_nms_topk": 10, "iou_threshold": 0.7, "min_size": 0.0} | changes
    return ProposalSelection(**settings)  # type: ignore[arg-type]


def suppress(boxes: list[list[float]], logits: list[float], levels: list[int], **changes: float) -> Proposals:
    candidates = Candidates(torch.tensor([boxes]), torch.tensor([logits]), torch.tensor(levels), max(levels) + 1)
    (proposals,) = selection(**changes).suppress(candidates, [(20, 100)])
    return proposals


def row_of_anchors(count: int) -> Tensor:
    x = torch.arange(count) * 10.0
    return torch.stack((x, torch.zeros(count), x + 10, torch.full((count,), 10.0)), dim=1)


def test_each_level_keeps_its_own_best_in_each_image() -> None:
    logits = [torch.tensor([[1.0, 3.0, 2.0], [9.0, 8.0, 7.0]]), torch.tensor([[0.5], [0.1]])]
    deltas = [torch.zeros(2, 3, 4), torch.zeros(2, 1, 4)]
    candidates = selection(pre_nms_topk=2).candidates(logits, deltas, [row_of_anchors(3), row_of_anchors(1)], CODER)
    assert candidates.logits.tolist() == [[3.0, 2.0, 0.5], [9.0, 8.0, torch.tensor(0.1).item()]]
    assert candidates.levels.tolist() == [0, 0, 1]
    assert candidates.boxes[:, :, 0].tolist() == [[10.0, 20.0, 0.0], [0.0, 10.0, 0.0]]


def test_candidates_are_moved_by_their_own_deltas() -> None:
    deltas = torch.zeros(1, 3, 4)
    deltas[0, 2, 0] = 0.5
    candidates = selection(pre_nms_topk=1).candidates(
        [torch.tensor([[1.0, 2.0, 3.0]])], [deltas], [row_of_anchors(3)], CODER
    )
    assert candidates.boxes.tolist() == [[[25.0, 0.0, 35.0, 10.0]]]


def test_proposals_are_clipped_and_sorted() -> None:
    proposals = suppress([[0, 0, 5, 5], [90, 10, 120, 30]], [1.0, 2.0], [0, 0])
    assert proposals.boxes.tolist() == [[90, 10, 100, 20], [0, 0, 5, 5]]
    assert proposals.objectness.tolist() == [2.0, 1.0]


def test_boxes_are_clipped_before_they_are_compared() -> None:
    # Inside the image both are the same; outside one is much larger.
    proposals = suppress([[90, 0, 100, 10], [90, 0, 300, 10]], [2.0, 1.0], [0, 0])
    assert len(proposals) == 1


def test_suppression_stays_within_a_level() -> None:
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9]]
    assert suppress(boxes, [3.0, 2.0, 1.0], [0, 0, 1]).objectness.tolist() == [3.0, 1.0]


def test_only_the_best_of_all_levels_stay() -> None:
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]
    assert suppress(boxes, [1.0, 3.0, 2.0], [0, 1, 0], post_nms_topk=2).objectness.tolist() == [3.0, 2.0]


def test_small_and_empty_boxes_are_dropped() -> None:
    boxes = [[0, 0, 4, 10], [20, 0, 25, 10], [150, 0, 160, 10]]
    assert suppress(boxes, [3.0, 2.0, 1.0], [0, 0, 0]).objectness.tolist() == [3.0, 2.0]
    assert suppress(boxes, [3.0, 2.0, 1.0], [0, 0, 0], min_size=4).objectness.tolist() == [2.0]


def test_candidates_that_are_not_finite_are_dropped() -> None:
    nan, inf = float("nan"), float("inf")
    boxes = [[0, 0, nan, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, -inf, 70, inf]]
    assert suppress(boxes, [3.0, 2.0, nan, 1.0], [0, 0, 0, 0]).objectness.tolist() == [2.0]


def test_images_have_their_own_size() -> None:
    candidates = Candidates(torch.tensor([[[0.0, 0, 50, 50]]] * 2), torch.ones(2, 1), torch.tensor([0]), 1)
    first, second = selection().suppress(candidates, [(10, 20), (30, 40)])
    assert first.boxes.tolist() == [[0, 0, 20, 10]]
    assert second.boxes.tolist() == [[0, 0, 40, 30]]
    assert (first.image_size, second.image_size) == ((10, 20), (30, 40))


def test_an_image_where_nothing_is_left_has_no_proposals() -> None:
    proposals = suppress([[0, 0, 0, 0]], [1.0], [0])
    assert proposals.boxes.shape == (0, 4)
    assert proposals.objectness.shape == (0,)


def test_levels_selected_together_compete_for_places() -> None:
    logits = [torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[2.5, 0.1]])]
    deltas = [torch.zeros(1, 3, 4), torch.zeros(1, 2, 4)]
    joint = JointSelection(selection(pre_nms_topk=2))
    candidates = joint.candidates(logits, deltas, [row_of_anchors(3), row_of_anchors(2)], CODER)
    assert candidates.logits.tolist() == [[3.0, 2.5]]
    assert candidates.levels.tolist() == [0, 0]


def test_levels_selected_together_suppress_each_other() -> None:
    logits = [torch.tensor([[1.0]]), torch.tensor([[2.0]])]
    deltas = [torch.zeros(1, 1, 4)] * 2
    joint = JointSelection(selection())
    candidates = joint.candidates(logits, deltas, [row_of_anchors(1)] * 2, CODER)
    (proposals,) = joint.suppress(candidates, [(20, 100)])
    assert proposals.objectness.tolist() == [2.0]


def test_logits_whose_probabilities_are_equal_are_not_told_apart() -> None:
    # Both probabilities are 1 in float32, so the second logit is no better than the first.
    logits = torch.tensor([[20.0, 30.0, 2.0]])
    by_probability = selection(ranking=ProbabilityRanking())  # type: ignore[arg-type]
    candidates = by_probability.candidates([logits], [torch.zeros(1, 3, 4)], [row_of_anchors(3)], CODER)
    (proposals,) = by_probability.suppress(candidates, [(20, 100)])
    assert proposals.objectness.tolist() == [20.0, 30.0, 2.0]


def test_the_best_probabilities_of_each_image_are_kept() -> None:
    rows = ProbabilityRanking().best(torch.tensor([[0.0, 3.0, 1.0], [5.0, -1.0, 2.0]]), 2)
    assert rows.tolist() == [[1, 2], [0, 2]]
