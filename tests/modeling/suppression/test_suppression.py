import pytest
import torch

from mrcnn_zoo.config import load_config
from mrcnn_zoo.modeling.suppression import GreedySuppression
from mrcnn_zoo.registries import SUPPRESSIONS


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


@pytest.mark.parametrize("name", SUPPRESSIONS.names())
def test_every_suppression_returns_rows_best_first(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand((50, 2), generator=generator) * 30
    boxes = torch.cat((corners, corners + 5 + torch.rand((50, 2), generator=generator) * 20), dim=1)
    scores, classes = torch.rand(50, generator=generator), torch.randint(0, 3, (50,), generator=generator)
    rows, kept = SUPPRESSIONS.get(name)(load_config(), 0.5)(boxes, scores, classes)
    assert rows.dtype == torch.int64
    assert 0 < len(rows) == len(kept) <= 50
    assert len(set(rows.tolist())) == len(rows)
    assert kept.tolist() == sorted(kept.tolist(), reverse=True)
    assert (kept <= scores[rows]).all()


@pytest.mark.parametrize("name", SUPPRESSIONS.names())
def test_every_suppression_takes_no_boxes(name: str) -> None:
    suppress = SUPPRESSIONS.get(name)(load_config(), 0.5)
    rows, scores = suppress(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert len(rows) == len(scores) == 0
