"""Run-length encodings, against pycocotools."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mrcnn_zoo.data.masks import box_of, decode_window, read_runs


def _masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = [rng.random((rng.integers(1, 40), rng.integers(1, 40))) for _ in range(40)]
    random = [(shape < rng.random()).astype(np.uint8) for shape in shapes]
    corner, full = np.zeros((5, 7), np.uint8), np.ones((6, 3), np.uint8)
    corner[4, 6] = 1
    around_the_border = np.array([[0, 1], [1, 0]], np.uint8)  # down the columns 0 1 1 0: one run in two columns
    return [mask for mask in random if mask.any()] + [corner, full, around_the_border]


@pytest.mark.parametrize("mask", _masks())
def test_decoded_window_is_the_mask(mask: np.ndarray) -> None:
    rle = coco_mask.encode(np.asfortranarray(mask))
    window = decode_window(rle)
    assert window is not None
    full = np.zeros_like(mask)
    x1, y1, x2, y2 = window.box
    full[y1:y2, x1:x2] = window.bitmap
    assert np.array_equal(full, mask)


@pytest.mark.parametrize("mask", _masks())
def test_box_is_that_of_pycocotools(mask: np.ndarray) -> None:
    rle = coco_mask.encode(np.asfortranarray(mask))
    x, y, width, height = coco_mask.toBbox(rle).tolist()
    assert box_of(rle) == (x, y, x + width, y + height)


def test_plain_counts_are_read_like_compressed_ones() -> None:
    # Columns of height 3: 0 1 1 | 1 0 0
    assert read_runs({"size": [3, 2], "counts": [1, 3, 2]}).tolist() == [1, 3, 2]
    compressed = coco_mask.frPyObjects({"size": [3, 2], "counts": [1, 3, 2]}, 3, 2)
    assert read_runs(compressed).tolist() == [1, 3, 2]


def test_counts_may_be_text_or_bytes() -> None:
    rle = coco_mask.frPyObjects({"size": [3, 2], "counts": [1, 3, 2]}, 3, 2)
    assert read_runs({"size": [3, 2], "counts": rle["counts"].decode()}).tolist() == [1, 3, 2]


def test_empty_mask_has_no_window() -> None:
    rle = coco_mask.encode(np.zeros((4, 5), np.uint8, order="F"))
    assert decode_window(rle) is None
    assert box_of(rle) is None


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([1, 3, 3], "cover 7 pixels, 3 x 2 has 6"),
        ([1, -1, 6], "negative"),
        ("13", "cover 4 pixels"),
        ("1\u00e9", "do not belong"),
        ("1P", "cut off"),
        ("P" * 20 + "0", "too large"),
    ],
)
def test_runs_that_do_not_fit_the_image_are_refused(counts: list[int] | str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_window({"size": [3, 2], "counts": counts})
