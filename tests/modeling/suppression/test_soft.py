"""Soft-NMS against a loop over figure 2 of the paper."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mrcnn_zoo.modeling.suppression import GaussianFactor, LinearFactor
from mrcnn_zoo.modeling.suppression import soft as module
from mrcnn_zoo.modeling.suppression.soft import soft_nms
from support.scenes import scored_boxes

Factor = Callable[[Tensor], Tensor]
FACTORS = [LinearFactor(0.3), GaussianFactor(0.5)]


def overlap(box: list[float], other: list[float]) -> float:
    width = max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
    height = max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return width * height / (sum(areas) - width * height)


def slow_soft_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, factor: Factor, min_score: float
) -> list[tuple[int, float]]:
    """(row, score) of the kept boxes, best first."""
    kept = []
    for group in set(groups.tolist()):
        remaining = {row: scores[row].item() for row in range(len(boxes)) if groups[row] == group}
        while remaining:
            best = max(remaining, key=lambda row: remaining[row])
            kept.append((best, remaining.pop(best)))
            for row in remaining:
                iou = overlap(boxes[best].tolist(), boxes[row].tolist())
                remaining[row] *= factor(torch.tensor(iou, dtype=torch.float64)).item()
    return sorted(((row, score) for row, score in kept if score >= min_score), key=lambda pair: -pair[1])


@pytest.mark.parametrize("factor", FACTORS, ids=lambda factor: type(factor).__name__)
@pytest.mark.parametrize("min_score", [0.0, 0.001, 0.2])
def test_soft_nms_equals_definition(factor: Factor, min_score: float) -> None:
    boxes, scores, groups = scored_boxes(90, 3, seed=1)
    groups[groups == 1] = 7  # group numbers may have gaps
    rows, lowered = soft_nms(boxes, scores, groups, factor=factor, min_score=min_score)
    expected = slow_soft_nms(boxes, scores, groups, factor, min_score)
    assert rows.tolist() == [row for row, _ in expected]
    assert lowered.tolist() == pytest.approx([score for _, score in expected], rel=1e-4)
    assert (lowered <= scores[rows]).all()
    assert (lowered < scores[rows]).any()


def test_scores_equal_hand_computed_values() -> None:
    # The second box has IoU 1/2 with the first, the third no overlap, the fourth another class.
    boxes = torch.tensor([[0.0, 0, 4, 1], [0, 0, 2, 1], [50, 0, 60, 1], [0, 0, 4, 1]])
    scores, groups = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0, 0, 0, 1])
    rows, lowered = soft_nms(boxes, scores, groups, factor=LinearFactor(0.5), min_score=0)
    assert rows.tolist() == [0, 2, 3, 1]
    assert lowered.tolist() == pytest.approx([0.9, 0.7, 0.6, 0.4])
    rows, lowered = soft_nms(boxes, scores, groups, factor=GaussianFactor(0.5), min_score=0.5)
    assert rows.tolist() == [0, 2, 3]
    _, lowered = soft_nms(boxes, scores, groups, factor=GaussianFactor(0.5), min_score=0)
    assert lowered[-1].item() == pytest.approx(0.8 * math.exp(-0.5))


def test_identical_boxes_are_removed_for_any_threshold() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 1]]).expand(3, 4)
    rows, lowered = soft_nms(boxes, torch.ones(3), torch.zeros(3), factor=LinearFactor(0.5), min_score=0)
    assert rows.tolist() == [0]
    assert lowered.tolist() == [1]


def test_splitting_groups_does_not_change_soft_nms(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores, groups = scored_boxes(200, 9, seed=2)
    expected = soft_nms(boxes, scores, groups, factor=FACTORS[1], min_score=0.01)
    monkeypatch.setattr(module, "MAX_PAIRS", 2000)
    monkeypatch.setattr(module, "STEPS_BETWEEN_CHECKS", 1)
    rows, lowered = soft_nms(boxes, scores, groups, factor=FACTORS[1], min_score=0.01)
    assert torch.equal(rows, expected[0])
    assert torch.equal(lowered, expected[1])


def test_half_precision_scores_are_accepted() -> None:
    boxes, scores, groups = scored_boxes(20, 2, seed=3)
    rows, lowered = soft_nms(boxes, scores.bfloat16(), groups, factor=FACTORS[0], min_score=0.1)
    assert lowered.dtype == torch.bfloat16
    assert len(rows) == len(lowered) > 0


@pytest.mark.parametrize("score", [[], [0.0, 0.0]])
def test_no_boxes_or_only_zero_scores_keep_no_rows(score: list[float]) -> None:
    count = len(score)
    rows, lowered = soft_nms(
        torch.rand(count, 4), torch.tensor(score), torch.zeros(count).long(), factor=FACTORS[0], min_score=0.0
    )
    assert rows.shape == lowered.shape == (0,)
    assert rows.dtype == torch.int64
