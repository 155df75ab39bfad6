import pytest
import torch
import torchvision

from mrcnn_zoo.ops.nms import batched_nms

# Box 1 overlaps box 0 by 8 / 12, box 2 overlaps neither.
BOXES = torch.tensor([[0.0, 0.0, 10.0, 1.0], [2.0, 0.0, 12.0, 1.0], [50.0, 0.0, 60.0, 1.0]])


def test_the_worse_of_two_overlapping_boxes_is_dropped() -> None:
    rows = batched_nms(BOXES, torch.tensor([0.5, 0.9, 0.7]), torch.zeros(3, dtype=torch.int64), iou_threshold=0.5)
    assert rows.tolist() == [1, 2]


def test_boxes_of_different_groups_do_not_suppress_each_other() -> None:
    rows = batched_nms(BOXES, torch.tensor([0.5, 0.9, 0.7]), torch.tensor([0, 1, 0]), iou_threshold=0.5)
    assert rows.tolist() == [1, 2, 0]


def test_an_overlap_of_exactly_the_threshold_is_kept() -> None:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 1.0], [0.0, 0.0, 2.0, 1.0]])
    rows = batched_nms(boxes, torch.tensor([0.9, 0.5]), torch.zeros(2, dtype=torch.int64), iou_threshold=0.5)
    assert rows.tolist() == [0, 1]


@pytest.mark.parametrize("count", [300, 1500])
def test_many_boxes_are_treated_group_by_group(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, generator=generator) * 1000
    boxes = torch.cat((corners, corners + 20 + torch.rand(count, 2, generator=generator) * 200), dim=1)
    scores, groups = torch.rand(count, generator=generator), torch.randint(4, (count,), generator=generator)
    rows = batched_nms(boxes, scores, groups, iou_threshold=0.4)
    for group in range(4):
        members = (groups == group).nonzero().flatten()
        expected = members[torchvision.ops.nms(boxes[members], scores[members], 0.4)]
        assert rows[groups[rows] == group].tolist() == expected.tolist()
    assert (scores[rows].diff() <= 0).all()


def test_scores_in_half_precision_are_accepted() -> None:
    scores = torch.tensor([0.5, 0.9, 0.7], dtype=torch.bfloat16)
    rows = batched_nms(BOXES.bfloat16(), scores, torch.zeros(3, dtype=torch.int64), iou_threshold=0.5)
    assert rows.tolist() == [1, 2]


def test_no_boxes_keep_no_rows() -> None:
    rows = batched_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), iou_threshold=0.5)
    assert rows.shape == (0,)
    assert rows.dtype == torch.int64
