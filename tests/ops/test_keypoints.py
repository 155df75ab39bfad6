"""Encoding and decoding of keypoint heatmaps, against hand-computed values and torchvision."""

import pytest
import torch
from torchvision.models.detection import roi_heads as torchvision_heads

from mrcnn_zoo.ops import keypoints as module
from mrcnn_zoo.ops.keypoints import NO_CELL, decode_heatmaps, heatmap_cells
from support.scenes import random_boxes

BOX = torch.tensor([[10.0, 20.0, 18.0, 36.0]])  # 8 x 16 pixels: cells of 2 x 4 pixels on a heatmap of 4


@pytest.mark.parametrize(
    ("x", "y", "visibility", "cell"),
    [
        (10.0, 20.0, 2, 0),
        (12.1, 20.0, 1, 1),
        (11.9, 24.0, 2, 4),
        (18.0, 36.0, 2, 15),  # the far corner is in the last cell
        (18.01, 30.0, 2, NO_CELL),
        (9.99, 30.0, 2, NO_CELL),
        (14.0, 36.01, 2, NO_CELL),
        (14.0, 19.9, 2, NO_CELL),
        (14.0, 28.0, 0, NO_CELL),
    ],
)
def test_cell_equals_hand_computed_value(x: float, y: float, visibility: int, cell: int) -> None:
    assert heatmap_cells(torch.tensor([[[x, y, float(visibility)]]]), BOX, 4).tolist() == [[cell]]


def test_cells_equal_torchvision() -> None:
    boxes = random_boxes(20, sides=(0.3, 90.0))
    generator = torch.Generator().manual_seed(1)
    points = torch.rand((20, 17, 2), generator=generator) * 120
    points[0, :2] = boxes[0].view(2, 2)  # both corners
    visibility = torch.randint(0, 3, (20, 17, 1), generator=generator)
    keypoints = torch.cat((points, visibility), dim=2)
    cells = heatmap_cells(keypoints, boxes, 56)
    expected, is_valid = torchvision_heads.keypoints_to_heatmap(keypoints, boxes, 56)
    assert torch.equal(cells, torch.where(is_valid > 0, expected, NO_CELL))
    assert 0 < (cells == NO_CELL).sum() < cells.numel()


def test_empty_box_contains_no_keypoint() -> None:
    keypoints = torch.tensor([[[5.0, 5.0, 2.0]], [[5.0, 6.0, 2.0]]])
    cells = heatmap_cells(keypoints, torch.tensor([[5.0, 5.0, 5.0, 5.0], [5.0, 5.0, 5.0, 9.0]]), 4)
    assert cells[0].item() in (NO_CELL, 15)
    assert cells[1].item() in range(NO_CELL, 16)


def test_no_regions_give_empty_results() -> None:
    assert heatmap_cells(torch.zeros(0, 17, 3), torch.zeros(0, 4), 56).shape == (0, 17)
    assert decode_heatmaps(torch.zeros(0, 17, 56, 56), torch.zeros(0, 4)).shape == (0, 17, 3)


def test_decoding_returns_the_centre_of_the_cell() -> None:
    logits = torch.full((1, 2, 4, 4), -9.0)
    logits[0, 0, 1, 2] = logits[0, 1, 3, 0] = 9.0
    x, y, _ = decode_heatmaps(logits, BOX).unbind(2)
    # A cell is 2 x 4 pixels; decoding returns pixel centres.
    assert (x - torch.tensor([15.0, 11.0])).abs().max() <= 0.5
    assert (y - torch.tensor([26.0, 34.0])).abs().max() <= 1.5


def test_score_is_softmax_probability_of_maximum() -> None:
    # The region has as many pixels as cells, so that resizing does not change values.
    logits = torch.randn((1, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    keypoints = decode_heatmaps(logits, torch.tensor([[0.0, 0.0, 8.0, 8.0]]))
    torch.testing.assert_close(keypoints[..., 2], logits.flatten(2).softmax(dim=2).amax(dim=2))
    columns, rows = keypoints[..., 0].sub(0.5).long(), keypoints[..., 1].sub(0.5).long()
    assert torch.equal(rows * 8 + columns, logits.flatten(2).argmax(dim=2))


def test_decoded_keypoints_agree_with_torchvision() -> None:
    boxes = random_boxes(12, sides=(0.3, 90.0))
    logits = torch.randn((12, 5, 14, 14), generator=torch.Generator().manual_seed(2)) * 3
    expected, _ = torchvision_heads.heatmaps_to_keypoints(logits, boxes)
    torch.testing.assert_close(decode_heatmaps(logits, boxes)[..., :2], expected[..., :2])


def test_decoding_in_chunks_gives_the_same_keypoints(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, logits = (
        random_boxes(3, sides=(0.3, 90.0)),
        torch.randn((3, 5, 14, 14), generator=torch.Generator().manual_seed(2)),
    )
    at_once = decode_heatmaps(logits, boxes)
    monkeypatch.setattr(module, "MAX_VALUES", 10_000)
    assert torch.equal(decode_heatmaps(logits, boxes), at_once)


def test_encoding_and_decoding_agree_within_a_cell() -> None:
    # Only for regions larger than the heatmap: in smaller ones a single high cell may fall between two pixels.
    boxes = random_boxes(10, sides=(0.3, 90.0)) + torch.tensor([0.0, 0.0, 56.0, 56.0])
    points = boxes[:, None, :2] + torch.rand((10, 17, 2), generator=torch.Generator().manual_seed(3)) * (
        boxes[:, None, 2:] - boxes[:, None, :2]
    )
    cells = heatmap_cells(torch.cat((points, torch.ones(10, 17, 1)), dim=2), boxes, 56)
    logits = torch.zeros(10, 17, 56 * 56).scatter(2, cells[..., None], 20.0).unflatten(2, (56, 56))
    tolerance = ((boxes[:, 2:] - boxes[:, :2]) / 56 + 1)[:, None]  # a cell, and rounding to a pixel centre
    assert ((decode_heatmaps(logits, boxes)[..., :2] - points).abs() <= tolerance).all()
