import pytest
import torch

from mrcnn_zoo.ops.anchors import cell_anchors, grid_anchors, is_inside


def test_cell_anchors_are_ordered_by_size_then_ratio() -> None:
    # Area 64 at height / width 0.25, 1 and 4: 16 x 4, 8 x 8, 4 x 16.
    expected = [[-8, -2, 8, 2], [-4, -4, 4, 4], [-2, -8, 2, 8], [-16, -4, 16, 4], [-8, -8, 8, 8], [-4, -16, 4, 16]]
    assert cell_anchors((8, 16), (0.25, 1.0, 4.0)).tolist() == expected


def test_grid_anchors_are_ordered_by_row_column_and_anchor() -> None:
    cell = torch.tensor([[-1.0, -1.0, 1.0, 1.0], [-2.0, -1.0, 2.0, 1.0]])
    anchors = grid_anchors(cell, (2, 3), stride=10, offset=0.0)
    assert anchors.shape == (12, 4)
    assert anchors[:4].tolist() == [[-1, -1, 1, 1], [-2, -1, 2, 1], [9, -1, 11, 1], [8, -1, 12, 1]]
    assert anchors[6].tolist() == [-1, 9, 1, 11]


def test_offset_is_in_strides() -> None:
    anchors = grid_anchors(torch.tensor([[-1.0, -1.0, 1.0, 1.0]]), (1, 1), stride=16, offset=0.5)
    assert anchors.tolist() == [[7, 7, 9, 9]]


def test_empty_map_has_no_anchors() -> None:
    assert grid_anchors(cell_anchors((8,), (1.0,)), (0, 5), stride=4, offset=0.0).shape == (0, 4)


@pytest.mark.parametrize(("margin", "expected"), [(0, [True, False, False]), (2, [True, True, False])])
def test_is_inside_allows_margin_on_every_side(margin: float, expected: list[bool]) -> None:
    boxes = torch.tensor([[0.0, 0.0, 20.0, 10.0], [-2.0, 0.0, 19.0, 12.0], [0.0, 0.0, 22.5, 9.0]])
    assert is_inside(boxes, (10, 20), margin=margin).tolist() == expected
