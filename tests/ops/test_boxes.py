import torch
import torchvision

from mrcnn_zoo.ops import boxes as box_ops
from support.scenes import random_boxes


def test_area_is_zero_for_a_box_turned_inside_out() -> None:
    boxes = torch.tensor([[1.0, 2.0, 4.0, 6.0], [5.0, 5.0, 3.0, 9.0], [5.0, 9.0, 3.0, 2.0]])
    assert box_ops.area(boxes).tolist() == [12.0, 0.0, 0.0]


def test_iou_of_two_boxes_by_hand() -> None:
    # 2 x 2 in common, 16 + 8 - 4 = 20 together.
    overlap = box_ops.iou(torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([[2.0, 2.0, 4.0, 6.0]]))
    torch.testing.assert_close(overlap, torch.tensor([[0.2]]))


def test_iou_agrees_with_torchvision() -> None:
    boxes, others = random_boxes(40), random_boxes(30, seed=1)
    torch.testing.assert_close(box_ops.iou(boxes, others), torchvision.ops.box_iou(boxes, others))


def test_iou_of_empty_boxes_is_zero_and_not_nan() -> None:
    point = torch.tensor([[3.0, 3.0, 3.0, 3.0]])
    assert box_ops.iou(point, point).tolist() == [[0.0]]


def test_iou_does_not_change_its_arguments() -> None:
    boxes = random_boxes(5)
    before = boxes.clone()
    box_ops.iou(boxes, boxes)
    assert torch.equal(boxes, before)


def test_iou_without_boxes_has_no_rows() -> None:
    assert box_ops.iou(torch.zeros(0, 4), random_boxes(3)).shape == (0, 3)
    assert box_ops.iou(random_boxes(3), torch.zeros(0, 4)).shape == (3, 0)


def test_clip_cuts_at_height_and_width() -> None:
    boxes = torch.tensor([[-5.0, -1.0, 30.0, 40.0], [25.0, 2.0, 28.0, 3.0]])
    assert box_ops.clip(boxes, (10, 20)).tolist() == [[0.0, 0.0, 20.0, 10.0], [20.0, 2.0, 20.0, 3.0]]


def test_clip_takes_a_batch_and_nothing() -> None:
    assert box_ops.clip(torch.full((2, 3, 4), 99.0), (10, 20))[1, 2].tolist() == [20.0, 10.0, 20.0, 10.0]
    assert box_ops.clip(torch.zeros(0, 4), (10, 20)).shape == (0, 4)


def test_is_nonempty_wants_both_sides_longer_than_the_minimum() -> None:
    boxes = torch.tensor([[0.0, 0.0, 3.0, 4.0], [0.0, 0.0, 2.0, 9.0], [1.0, 1.0, 1.0, 5.0]])
    assert box_ops.is_nonempty(boxes).tolist() == [True, True, False]
    assert box_ops.is_nonempty(boxes, min_size=2).tolist() == [True, False, False]
    assert box_ops.is_nonempty(torch.zeros(0, 4)).shape == (0,)


def test_scale_multiplies_x_and_y_by_their_own_factors() -> None:
    assert box_ops.scale(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), x=2, y=10).tolist() == [[2.0, 20.0, 6.0, 40.0]]
