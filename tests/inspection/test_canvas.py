"""Conversion of images to pictures, and drawing on them."""

import numpy as np
import pytest

from mrcnn_zoo.inspection.canvas import (
    LABEL_SHARE,
    Canvas,
    distinct_colors,
    enlarge,
    enlargement,
    paint_mask,
    to_picture,
)

RED = (255, 0, 0)


def test_to_picture_keeps_8_bit_rgb() -> None:
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    np.testing.assert_array_equal(to_picture(image), image)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1)])
def test_to_picture_repeats_grey_in_three_channels(shape: tuple[int, ...]) -> None:
    grey = np.arange(20, dtype=np.uint8).reshape(shape)
    picture = to_picture(grey)
    assert picture.shape == (4, 5, 3)
    assert (picture == grey.reshape(4, 5, 1)).all()


@pytest.mark.parametrize("channels", [2, 4, 16])
def test_to_picture_uses_the_first_channels(channels: int) -> None:
    image = np.full((4, 5, channels), 7, dtype=np.uint8)
    picture = to_picture(image)
    assert picture.shape == (4, 5, 3)
    assert (picture[..., :2] == 7).all()


def test_to_picture_scales_16_bit_to_the_full_range() -> None:
    ramp = np.linspace(1000, 1400, 400).reshape(20, 20).astype(np.uint16)
    picture = to_picture(ramp)
    assert picture.dtype == np.uint8
    assert picture.min() == 0
    assert picture.max() == 255


@pytest.mark.parametrize("value", [0.0, 5.0, np.nan])
def test_to_picture_accepts_constant_float_images(value: float) -> None:
    assert to_picture(np.full((3, 3, 3), value, dtype=np.float32)).shape == (3, 3, 3)


def test_to_picture_keeps_8_bit_values_stored_as_floats() -> None:
    image = np.array([[[0, 10, 250]]], dtype=np.uint8)
    np.testing.assert_array_equal(to_picture(image.astype(np.float32)), image)


def test_distinct_colors_differ_and_are_of_medium_brightness() -> None:
    colors = distinct_colors(36)
    assert len(set(colors)) == 36
    brightness = [0.299 * red + 0.587 * green + 0.114 * blue for red, green, blue in colors]
    assert min(brightness) > 95
    assert max(brightness) < 185
    assert distinct_colors(5) == colors[:5]
    assert distinct_colors(0) == []


@pytest.mark.parametrize(("size", "factor"), [((128, 128), 4), ((399, 100), 2), ((400, 10), 1), ((1, 1), 400)])
def test_enlargement_is_the_smallest_integer_that_reaches_the_minimum_side(size: tuple[int, int], factor: int) -> None:
    assert enlargement(*size) == factor


def test_enlarge_repeats_pixels() -> None:
    assert enlarge(np.array([[1, 2]]), 2).tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]


def test_paint_mask_tints_the_interior_and_fills_the_border() -> None:
    picture = np.zeros((10, 10, 3), dtype=np.uint8)
    mask = np.zeros((10, 10), dtype=bool)
    mask[2:7, 3:8] = True
    paint_mask(picture, mask, RED, opacity=0.4, border=1)
    expected = np.zeros((10, 10), dtype=np.uint8)
    expected[2:7, 3:8] = 255
    expected[3:6, 4:7] = 102  # 0.4 of 255
    np.testing.assert_array_equal(picture[..., 0], expected)
    assert picture[..., 1:].max() == 0


def test_paint_mask_covers_enlarged_pixels() -> None:
    picture = np.zeros((6, 6, 3), dtype=np.uint8)
    mask = np.zeros((2, 2), dtype=bool)
    mask[1, 0] = True
    paint_mask(picture, mask, RED, opacity=1, border=1)
    assert (picture[3:, :3, 0] == 255).all()
    assert picture[..., 0].sum() == 9 * 255


def test_paint_mask_of_an_empty_mask_changes_nothing() -> None:
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    paint_mask(picture, np.zeros((4, 4), dtype=bool), RED, opacity=1, border=1)
    assert picture.max() == 0


def test_box_colors_the_pixels_just_inside_its_edges() -> None:
    canvas = Canvas(np.zeros((20, 30, 3), dtype=np.uint8))
    canvas.box((3, 4, 10, 9), RED)
    rows, columns = np.nonzero(canvas.picture()[..., 0])
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (4, 9, 3, 10)
    assert canvas.picture()[5:8, 4:9].max() == 0


def test_box_of_the_whole_image_is_visible_on_an_enlarged_picture() -> None:
    canvas = Canvas(np.zeros((40, 60, 3), dtype=np.uint8), factor=10)
    canvas.box((0, 0, 6, 4), RED)
    picture = canvas.picture()[..., 0]
    assert picture[0].all()
    assert picture[-1].all()
    assert picture[:, 0].all()
    assert picture[:, -1].all()


def test_box_accepts_empty_boxes_and_boxes_outside() -> None:
    canvas = Canvas(np.zeros((20, 20, 3), dtype=np.uint8))
    canvas.box((5, 5, 5, 5), RED)
    canvas.box((100, 100, 120, 110), RED)
    assert canvas.picture().shape == (20, 20, 3)


def test_labels_of_the_same_box_do_not_overlap() -> None:
    blank = np.zeros((300, 300, 3), dtype=np.uint8)
    one, two = Canvas(blank), Canvas(blank)
    one.label("first", (100, 100, 200, 200), RED)
    two.label("first", (100, 100, 200, 200), RED)
    two.label("other", (100, 100, 200, 200), (0, 255, 0))
    is_first = one.picture().any(axis=2)
    np.testing.assert_array_equal(two.picture()[is_first], one.picture()[is_first])
    assert (two.picture()[~is_first][:, 1] == 255).any()


def test_label_at_the_edge_is_moved_inside() -> None:
    canvas = Canvas(np.zeros((100, 200, 3), dtype=np.uint8))
    canvas.label("label", (195, 0, 200, 5), RED)
    assert (canvas.picture() == RED).all(axis=2).sum() > 50


def test_labels_cover_at_most_label_share() -> None:
    canvas = Canvas(np.zeros((400, 400, 3), dtype=np.uint8))
    for x in range(0, 400, 10):
        for y in range(0, 400, 10):
            canvas.label("100%", (x, y, x + 8, y + 8), RED)
    assert 0 < canvas.picture().any(axis=2).mean() <= LABEL_SHARE
