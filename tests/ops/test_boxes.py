import torch
import torchvision

from mrcnn_zoo.ops import boxes as box_ops
from support.scenes import random_boxes


def test_area_of_inverted_box_is_zero() -> None:
    boxes = torch.tensor([[1.0, 2.0, 4.0, 6.0], [5.0, 5.0, 3.0, 9.0], [5.0, 9.0, 3.0, 2.0]])
    assert box_ops.area(boxes).tolist() == [12.0, 0.0, 0.0]


def test_iou_equals_hand_computed_value() -> None:
    # Intersection 2 x 2, union 16 + 8 - 4.
    overlap = box_ops.iou(torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([[2.0, 2.0, 4.0, 6.0]]))
    torch.testing.assert_close(overlap, torch.tensor([[0.2]]))


def test_iou_equals_torchvision() -> None:
    boxes, others = random_boxes(40), random_boxes(30, seed=1)
    torch.testing.assert_close(box_ops.iou(boxes, others), torchvision.ops.box_iou(boxes, others))


def test_iou_of_empty_boxes_is_zero() -> None:
    point = torch.tensor([[3.0, 3.0, 3.0, 3.0]])
    assert box_ops.iou(point, point).tolist() == [[0.0]]


def test_iou_does_not_change_its_arguments() -> None:
    boxes = random_boxes(5)
    before = boxes.clone()
    box_ops.iou(boxes, boxes)
    assert torch.equal(boxes, before)


def test_iou_of_no_boxes_is_empty() -> None:
    assert box_ops.iou(torch.zeros(0, 4), random_boxes(3)).shape == (0, 3)
    assert box_ops.iou(random_boxes(3), torch.zeros(0, 4)).shape == (3, 0)


def test_clip_to_image_equals_torchvision() -> None:
    boxes = random_boxes(40) * 2 - 30
    assert torch.equal(box_ops.clip_to_image(boxes, (50, 70)), torchvision.ops.clip_boxes_to_image(boxes, (50, 70)))
    assert box_ops.clip_to_image(torch.zeros(0, 4), (50, 70)).shape == (0, 4)


def test_is_nonempty_compares_both_sides_with_minimum() -> None:
    boxes = torch.tensor([[0.0, 0.0, 3.0, 4.0], [0.0, 0.0, 2.0, 9.0], [1.0, 1.0, 1.0, 5.0]])
    assert box_ops.is_nonempty(boxes).tolist() == [True, True, False]
    assert box_ops.is_nonempty(boxes, min_size=2).tolist() == [True, False, False]
    assert box_ops.is_nonempty(torch.zeros(0, 4)).shape == (0,)


def test_scale_applies_factor_per_axis() -> None:
    assert box_ops.scale(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), x=2, y=10).tolist() == [[2.0, 20.0, 6.0, 40.0]]
