"""Affine maps of points, boxes and bitmaps, with hand-computed values."""

import numpy as np
import pytest

from mrcnn_zoo.data.transforms.crop import CropTransform
from mrcnn_zoo.data.transforms.flip import HalfTurn, HorizontalFlip, QuarterTurn, ThreeQuarterTurn, VerticalFlip
from mrcnn_zoo.data.transforms.resize import ResizeTransform
from mrcnn_zoo.data.transforms.transform import AffineTransform
from mrcnn_zoo.ops.masks import MaskWindow

SIZE = (40, 60)  # height, width
BOX = np.array([[10.0, 5.0, 30.0, 15.0]])


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (HorizontalFlip(SIZE), [30, 5, 50, 15]),
        (VerticalFlip(SIZE), [10, 25, 30, 35]),
        (HalfTurn(SIZE), [30, 25, 50, 35]),
        (QuarterTurn(SIZE), [5, 30, 15, 50]),
        (ThreeQuarterTurn(SIZE), [25, 10, 35, 30]),
        (ResizeTransform(SIZE, (80, 90)), [15, 10, 45, 30]),
        (CropTransform(4, 20, (10, 30)), [-10, 1, 10, 11]),
    ],
)
def test_box_is_mapped(transform: HorizontalFlip, expected: list[float]) -> None:
    assert transform.affine.map_boxes(BOX).tolist() == [expected]


def test_composition_equals_successive_maps() -> None:
    crop, flip = CropTransform(4, 8, (20, 30)), HorizontalFlip((20, 30))
    resize = ResizeTransform((20, 30), (40, 60))
    chain = crop.affine.then(flip.affine).then(resize.affine)
    # (12, 6) -> crop (4, 2) -> flip (26, 2) -> resize (52, 4)
    assert chain.map_points(np.array([[12.0, 6.0]])).tolist() == [[52.0, 4.0]]
    assert chain.size == (40, 60)


def test_boxes_are_clipped_at_the_frame() -> None:
    affine = CropTransform(4, 20, (10, 30)).affine
    assert affine.clip_boxes(affine.map_boxes(BOX)).tolist() == [[0, 1, 10, 10]]


@pytest.mark.parametrize(
    ("transform", "is_mirroring"),
    [(HorizontalFlip(SIZE), True), (VerticalFlip(SIZE), True), (HalfTurn(SIZE), False), (QuarterTurn(SIZE), False)],
)
def test_only_mirrors_exchange_left_and_right(transform: HorizontalFlip, is_mirroring: bool) -> None:
    assert transform.affine.is_mirroring == is_mirroring


def _full(window: MaskWindow | None, size: tuple[int, int]) -> np.ndarray:
    image = np.zeros(size, np.uint8)
    if window is not None:
        x1, y1, x2, y2 = window.box
        image[y1:y2, x1:x2] = window.bitmap
    return image


@pytest.mark.parametrize(
    ("transform", "on_image"),
    [
        (HorizontalFlip(SIZE), np.fliplr),
        (VerticalFlip(SIZE), np.flipud),
        (HalfTurn(SIZE), lambda image: np.rot90(image, 2)),
        (QuarterTurn(SIZE), np.rot90),
        (ThreeQuarterTurn(SIZE), lambda image: np.rot90(image, 3)),
        (CropTransform(6, 12, (20, 30)), lambda image: image[6:26, 12:42]),
        (ResizeTransform(SIZE, (120, 180)), lambda image: np.kron(image, np.ones((3, 3), np.uint8))),
    ],
)
def test_mask_window_maps_like_the_image(transform: HorizontalFlip, on_image) -> None:
    bitmap = (np.random.default_rng(0).random((14, 9)) < 0.5).astype(np.uint8)
    window = MaskWindow(8, 4, bitmap)
    affine = transform.affine
    mapped = _full(affine.map_windows([window])[0], affine.size)
    expected = on_image(_full(window, SIZE))
    if isinstance(transform, ResizeTransform):  # bilinear: corners of the enlarged pixels are rounded off
        assert (mapped == expected).mean() > 0.98
    else:
        assert np.array_equal(mapped, expected)


def test_halving_keeps_pixels_of_half_coverage() -> None:
    bitmap = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]], np.uint8)
    affine = ResizeTransform((4, 4), (2, 2)).affine
    mapped = affine.map_windows([MaskWindow(0, 0, bitmap)])[0]
    # Quarters of the right column: 1 of 4 covered, then none.
    assert _full(mapped, (2, 2)).tolist() == [[1, 0], [1, 0]]


def test_windows_of_many_sizes_are_mapped() -> None:
    rng = np.random.default_rng(1)
    windows = [MaskWindow(int(x), 0, np.ones((h, w), np.uint8)) for x, h, w in rng.integers(1, 30, (25, 3))]
    mapped = HorizontalFlip(SIZE).affine.map_windows(windows)
    for before, after in zip(windows, mapped, strict=True):
        assert np.array_equal(_full(after, SIZE), np.fliplr(_full(before, SIZE)))


def test_window_outside_the_frame_maps_to_none() -> None:
    outside = MaskWindow(0, 0, np.ones((3, 3), np.uint8))
    inside = MaskWindow(10, 10, np.ones((3, 3), np.uint8))
    mapped = CropTransform(8, 8, (10, 10)).affine.map_windows([outside, inside])
    assert mapped[0] is None
    assert mapped[1] is not None


def test_empty_list_of_windows() -> None:
    assert AffineTransform.identity(SIZE).map_windows([]) == []
    assert AffineTransform.identity(SIZE).map_boxes(np.zeros((0, 4))).shape == (0, 4)
