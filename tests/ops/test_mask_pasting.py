import numpy as np
import pytest

from mrcnn_zoo.ops.masks import paste_masks, stretch, window_bounds


def test_stretch_interpolates_at_pixel_centres() -> None:
    # Two rows stretched over pixels 1 to 5: their centres are at 2 and 4, pixel centres at 1.5, 2.5, 3.5, 4.5.
    values = np.array([[0.0], [1.0]], dtype=np.float32)
    assert stretch(values, 1.0, 5.0, 1, 5)[:, 0].tolist() == [0.0, 0.25, 0.75, 0.75]


def test_stretch_is_zero_padded() -> None:
    # Rows are two pixels high: values decrease from the first row centre at 2 to zero at 0.
    values = np.ones((2, 1), dtype=np.float32)
    assert stretch(values, 1.0, 5.0, -2, 8)[:, 0].tolist() == [0, 0, 0.25, 0.75, 1, 1, 0.75, 0.25, 0, 0]


def test_windows_cover_the_pixels_of_the_boxes() -> None:
    boxes = np.array([[1.2, 2.0, 4.7, 5.0], [-3.0, -2.0, 2.5, 100.0]], dtype=np.float32)
    assert window_bounds(boxes, 28, (10, 20), threshold=0.5).tolist() == [[1, 2, 5, 5], [0, 0, 3, 10]]


def test_windows_of_low_thresholds_extend_outside_the_box() -> None:
    boxes = np.array([[10.0, 10, 38, 38]], dtype=np.float32)  # a mask row is one pixel
    assert window_bounds(boxes, 28, (50, 50), threshold=0.1).tolist() == [[9, 9, 39, 39]]


@pytest.mark.parametrize(
    "box", [[5.5, 5, 5.5, 9], [9, 9, 5, 5], [-9, 2, -3, 8], [30, 2, 40, 8], [3, -8, 9, -1], [3, 10, 9, 14]]
)
def test_box_without_visible_area_has_an_empty_window(box: list[float]) -> None:
    masks = np.ones((1, 28, 28), dtype=np.float32)
    (window,) = paste_masks(masks, np.array([box], dtype=np.float32), (10, 20), threshold=0.5)
    assert window.bitmap.size == 0
    assert 0 <= window.x <= 20
    assert 0 <= window.y <= 10


def test_pasting_no_masks_is_empty() -> None:
    assert paste_masks(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32), (10, 20), threshold=0.5) == []
