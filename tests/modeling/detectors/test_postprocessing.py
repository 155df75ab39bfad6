import numpy as np
import pytest
import torch

from mrcnn_zoo.modeling.detectors import to_original_size
from mrcnn_zoo.structures import BoxedBitmaps, Detections, ProbabilityMasks


def detections(boxes: list[list[float]]) -> Detections:
    count = len(boxes)
    tensor = torch.tensor(boxes).reshape(-1, 4)
    masks = ProbabilityMasks(torch.ones(count, 28, 28), tensor, (100, 200))
    return Detections((100, 200), tensor, torch.linspace(0.9, 0.1, count), torch.arange(count), masks=masks)


def test_boxes_and_masks_are_scaled_by_each_side() -> None:
    scaled = to_original_size(detections([[10.0, 20, 30, 40]]), (50, 800))
    assert scaled.image_size == (50, 800)
    assert scaled.boxes.tolist() == [[40, 10, 120, 20]]
    assert scaled.masks is not None
    bitmap = scaled.masks.bitmaps()[0]
    assert bitmap.shape == (50, 800)
    assert bitmap.sum() == 80 * 10
    assert bitmap[10:20, 40:120].all()


def test_boxes_outside_or_without_area_are_dropped_with_their_masks() -> None:
    boxes = [[10.0, 20, 30, 40], [210, 20, 230, 40], [50, 60, 50, 90], [70, 80, 90, 80], [190, 90, 260, 130]]
    scaled = to_original_size(detections(boxes), (100, 200))
    assert scaled.classes.tolist() == [0, 4]
    assert scaled.boxes.tolist() == [[10, 20, 30, 40], [190, 90, 200, 100]]
    assert scaled.masks is not None
    assert len(scaled.masks) == 2


def test_detections_without_masks() -> None:
    table = detections([[10.0, 20, 30, 40]])
    table.masks = None
    assert to_original_size(table, (50, 100)).masks is None


def test_keypoints_are_scaled_with_their_boxes_and_keep_their_scores() -> None:
    table = detections([[10.0, 20, 30, 40], [50, 60, 50, 90]])
    table.keypoints = torch.tensor([[[12.0, 22, 0.7], [250, 22, 0.1]], [[50, 70, 0.9], [50, 71, 0.9]]])
    scaled = to_original_size(table, (50, 800))
    # The second box is empty; the second keypoint of the first is outside, where it stays.
    torch.testing.assert_close(scaled.keypoints, torch.tensor([[[48.0, 11, 0.7], [1000, 11, 0.1]]]))
    assert table.keypoints[0, 0, 0] == 12


def test_no_detections() -> None:
    assert len(to_original_size(detections([]), (50, 800))) == 0


def test_arguments_are_not_changed() -> None:
    table = detections([[10.0, 20, 30, 40]])
    to_original_size(table, (50, 800))
    assert table.boxes.tolist() == [[10, 20, 30, 40]]
    assert table.image_size == (100, 200)


def test_bitmaps_are_moved_with_their_boxes() -> None:
    # A rectangle, from 10 to 30 in x and from 20 to 40 in y, on 200 x 100 pixels; then 4 times wider and half as high.
    table = detections([[10.0, 20, 30, 40]])
    table.masks = BoxedBitmaps.from_windows([(10, 20)], [np.ones((20, 20), dtype=np.uint8)], (100, 200))
    scaled = to_original_size(table, (50, 800))
    assert scaled.masks is not None
    bitmap = scaled.masks.bitmaps()[0]
    assert bitmap.shape == (50, 800)
    assert bitmap.sum() == 80 * 10
    assert bitmap[10:20, 40:120].all()


def test_masks_without_resized_are_refused() -> None:
    class Outlines:
        def __len__(self) -> int:
            return 1

    table = detections([[10.0, 20, 30, 40]])
    table.masks = Outlines()  # type: ignore[assignment]
    with pytest.raises(TypeError, match=r"class Outlines cannot be moved.*resized\(image_size, boxes\)"):
        to_original_size(table, (50, 800))
