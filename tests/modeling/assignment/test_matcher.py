import pytest
import torch

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.assignment import matching as matcher_module
from mrcnn_zoo.modeling.assignment.matching import Matches, MaxIoUMatcher, matched_classes

GROUND_TRUTH = torch.tensor([[0.0, 0.0, 10.0, 1.0], [20.0, 0.0, 30.0, 1.0]])
# IoU with their ground truth: 1 with the first, 0.6 with the second, 0.5 with the second, none.
BOXES = torch.tensor([[0.0, 0, 10, 1], [20.0, 0, 26, 1], [20.0, 0, 25, 1], [50.0, 0, 60, 1]])


def rpn_matcher(*, allow_low_quality: bool = False) -> MaxIoUMatcher:
    return MaxIoUMatcher((0.3, 0.7), (0, -1, 1), allow_low_quality=allow_low_quality)


def test_each_box_is_matched_to_the_ground_truth_it_overlaps_best() -> None:
    assert rpn_matcher().match(BOXES, GROUND_TRUTH).rows[:3].tolist() == [0, 1, 1]


def test_boxes_between_the_thresholds_are_ignored() -> None:
    assert rpn_matcher().match(BOXES, GROUND_TRUTH).labels.tolist() == [1, -1, -1, 0]


def test_overlap_equal_to_a_threshold_gets_the_label_above() -> None:
    matcher = MaxIoUMatcher((0.5,), (0, 1), allow_low_quality=False)
    assert matcher.match(BOXES, GROUND_TRUTH).labels.tolist() == [1, 1, 1, 0]


def test_low_quality_makes_the_best_box_of_each_ground_truth_positive() -> None:
    labels = rpn_matcher(allow_low_quality=True).match(BOXES, GROUND_TRUTH).labels
    assert labels.tolist() == [1, 1, -1, 0]


def test_low_quality_matches_include_ties() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 1], [6.0, 0, 10, 1], [0.0, 0, 1, 1]])
    labels = rpn_matcher(allow_low_quality=True).match(boxes, GROUND_TRUTH[:1]).labels
    assert labels.tolist() == [1, 1, 0]


def test_low_quality_match_is_the_ground_truth_of_highest_overlap() -> None:
    # The only box overlaps the second object more, but is also the best box of the first.
    ground_truth = torch.tensor([[0.0, 0, 2, 1], [2.0, 0, 10, 1]])
    matches = rpn_matcher(allow_low_quality=True).match(torch.tensor([[0.0, 0, 10, 1]]), ground_truth)
    assert matches.rows.tolist() == [1]
    assert matches.labels.tolist() == [1]


def test_object_without_overlapping_box_has_no_positive() -> None:
    far_away = torch.tensor([[900.0, 0, 910, 1]])
    assert rpn_matcher(allow_low_quality=True).match(BOXES, far_away).labels.tolist() == [0, 0, 0, 0]


def test_first_ground_truth_is_matched_among_equal_overlaps(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = GROUND_TRUTH[:1].repeat(3, 1)
    assert rpn_matcher().match(BOXES[:1], twice).rows.tolist() == [0]
    monkeypatch.setattr(matcher_module, "MAX_PAIRS", 1)  # one ground truth at a time
    assert rpn_matcher().match(BOXES[:1], twice).rows.tolist() == [0]


def test_matching_in_blocks_equals_matching_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(220, 2, generator=generator) * 50
    boxes = torch.cat((corners, corners + 5 + torch.rand(220, 2, generator=generator) * 30), dim=1)
    matcher = rpn_matcher(allow_low_quality=True)
    at_once = matcher.match(boxes[20:], boxes[:20])
    monkeypatch.setattr(matcher_module, "MAX_PAIRS", 600)  # three ground truths at a time
    in_blocks = matcher.match(boxes[20:], boxes[:20])
    assert torch.equal(at_once.rows, in_blocks.rows)
    assert torch.equal(at_once.labels, in_blocks.labels)
    assert set(at_once.labels.tolist()) == {-1, 0, 1}


def test_without_ground_truth_every_box_is_negative() -> None:
    matches = rpn_matcher(allow_low_quality=True).match(BOXES, torch.zeros(0, 4))
    assert matches.labels.tolist() == [0, 0, 0, 0]
    assert matches.rows.tolist() == [0, 0, 0, 0]


def test_without_boxes_there_are_no_matches() -> None:
    matches = rpn_matcher(allow_low_quality=True).match(torch.zeros(0, 4), GROUND_TRUTH)
    assert len(matches.rows) == len(matches.labels) == 0


@pytest.mark.parametrize(
    ("thresholds", "labels", "message"),
    [
        ((0.7, 0.3), (0, -1, 1), "should rise"),
        ((0.0, 0.3), (0, -1, 1), "should rise"),
        ((0.3, 0.7), (0, 1), "3 labels"),
        ((0.5,), (0, 2), "1, 0 or -1|1 \\(object\\)"),
    ],
)
def test_inconsistent_thresholds_and_labels_are_refused(thresholds, labels, message: str) -> None:
    with pytest.raises(UserError, match=message):
        MaxIoUMatcher(thresholds, labels, allow_low_quality=False)


def test_matched_classes_are_those_of_the_ground_truth_background_or_ignored() -> None:
    matches = Matches(torch.tensor([1, 0, 0, 1]), torch.tensor([1, 0, -1, 1], dtype=torch.int8))
    assert matched_classes(matches, torch.tensor([4, 2]), 7).tolist() == [2, 7, -1, 2]
    nothing = Matches(torch.zeros(2, dtype=torch.int64), torch.tensor([0, -1], dtype=torch.int8))
    assert matched_classes(nothing, torch.zeros(0, dtype=torch.int64), 7).tolist() == [7, -1]


def test_blocks_grow_with_the_free_memory_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    corners = torch.rand((207, 2), generator=torch.Generator().manual_seed(0)) * 30
    boxes, objects = torch.cat((corners, corners + 10), dim=1).split([200, 7])
    matcher = rpn_matcher(allow_low_quality=True)
    monkeypatch.setattr(matcher_module, "MAX_PAIRS", 1)
    expected = matcher.match(boxes, objects)
    blocks = []
    compute_iou = matcher_module.box_ops.iou
    monkeypatch.setattr(matcher_module.box_ops, "iou", lambda a, b: blocks.append(len(a)) or compute_iou(a, b))
    for free, sizes in ((0, [1] * 7), (16 * 650 * 10, [3, 3, 1]), (10**9, [7])):
        blocks.clear()
        monkeypatch.setattr(matcher_module, "free_memory", lambda _, free=free: free)
        found = matcher.match(boxes, objects)
        assert blocks == sizes
        assert torch.equal(found.rows, expected.rows)
        assert torch.equal(found.labels, expected.labels)
