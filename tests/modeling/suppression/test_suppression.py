import math

import pytest
import torch
import torchvision
from torch import Tensor

from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.suppression import ClassAgnosticSuppression, GreedySuppression
from mrcnn_zoo.ops.boxes import iou
from mrcnn_zoo.registries import SUPPRESSIONS
from support.scenes import scored_boxes


def slow_greedy(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> list[int]:
    kept: list[int] = []
    for row in scores.argsort(descending=True).tolist():
        rivals = [other for other in kept if groups[other] == groups[row]]
        if not (iou(boxes[[row]], boxes[rivals]) > threshold).any():
            kept.append(row)
    return kept


def test_greedy_follows_its_definition_and_torchvision() -> None:
    boxes, scores, classes = scored_boxes(120, 3)
    rows, _ = GreedySuppression(0.4)(boxes, scores, classes)
    assert rows.tolist() == slow_greedy(boxes, scores, classes, 0.4)
    assert torch.equal(rows, torchvision.ops.batched_nms(boxes, scores, classes, 0.4))
    assert len(rows) < 120


def test_class_agnostic_suppression_ignores_classes() -> None:
    boxes, scores, classes = scored_boxes(120, 3)
    rows, kept = ClassAgnosticSuppression(GreedySuppression(0.4))(boxes, scores, classes)
    assert rows.tolist() == slow_greedy(boxes, scores, torch.zeros(120), 0.4)
    assert torch.equal(rows, torchvision.ops.nms(boxes, scores, 0.4))
    assert torch.equal(kept, scores[rows])


def test_greedy_removes_worse_boxes_of_the_same_class() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10], [50, 50, 60, 60]])
    scores = torch.tensor([0.5, 0.8, 0.7, 0.6])
    classes = torch.tensor([1, 1, 2, 1])
    rows, kept = GreedySuppression(0.5)(boxes, scores, classes)
    assert rows.tolist() == [1, 2, 3]
    assert kept.tolist() == pytest.approx([0.8, 0.7, 0.6])


def test_greedy_keeps_boxes_that_overlap_by_exactly_the_threshold() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])
    rows, _ = GreedySuppression(0.5)(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 0]))
    assert rows.tolist() == [0, 1]


def test_soft_suppression_reads_its_settings_from_the_config() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 1], [0, 0, 2, 1]])
    scores, classes = torch.tensor([0.9, 0.8]), torch.tensor([0, 0])

    def lowered(name: str, threshold: float, *overrides: object) -> list[float]:
        suppress = SUPPRESSIONS.get(name)(load_config(None, list(overrides)), threshold)
        return suppress(boxes, scores, classes)[1].tolist()

    assert lowered("soft_linear", 0.5) == pytest.approx([0.9, 0.4])
    assert lowered("soft_linear", 0.6) == pytest.approx([0.9, 0.8])
    assert lowered("soft_linear", 0.5, "MODEL.ROI_HEADS.SOFT_NMS_MIN_SCORE", 0.5) == pytest.approx([0.9])
    gaussian = lowered("soft_gaussian", 0.9, "MODEL.ROI_HEADS.SOFT_NMS_SIGMA", 0.25)
    assert gaussian == pytest.approx([0.9, 0.8 * math.exp(-1)])
    with pytest.raises(UserError, match=r"SOFT_NMS_SIGMA = 0"):
        lowered("soft_gaussian", 0.5, "MODEL.ROI_HEADS.SOFT_NMS_SIGMA", 0)
