"""Drawings of instances, of batches, and of predictions beside ground truth."""

import numpy as np
import pytest
import torch

from mrcnn_zoo.inspection.canvas import distinct_colors
from mrcnn_zoo.inspection.draw import (
    colors_of_objects,
    draw_instances,
    draw_predictions,
    draw_splash,
    draw_training_batch,
    grid,
    sample_picture,
    side_by_side,
)
from mrcnn_zoo.structures import BoxedBitmaps, Detections, Sample, Targets

GREY = np.full((500, 600, 3), 90, dtype=np.uint8)


def make_targets(size: tuple[int, int] = (500, 600), count: int = 1) -> Targets:
    """Objects of 40 x 40 pixels in a row, with round holes of 10 x 10."""
    bitmaps = torch.zeros((count, *size), dtype=torch.bool)
    boxes = torch.zeros((count, 4))
    for row in range(count):
        left = 100 + 60 * row
        bitmaps[row, 200:240, left : left + 40] = True
        bitmaps[row, 215:225, left + 15 : left + 25] = False
        boxes[row] = torch.tensor([left, 200, left + 40, 240])
    return Targets(size, boxes, torch.arange(count) % 2, masks=BoxedBitmaps.from_full(bitmaps))


def make_detections(scores: list[float]) -> Detections:
    targets = make_targets(count=len(scores))
    return Detections(targets.image_size, targets.boxes, torch.tensor(scores), targets.classes)


def changed(picture: np.ndarray) -> np.ndarray:
    return (picture != 90).any(axis=2)


def test_mask_and_box_are_drawn_at_the_object() -> None:
    picture = changed(draw_instances(GREY, make_targets(), ["only"]))
    assert picture.shape == (500, 600)
    assert picture[202:238, 102:113].all()
    assert not picture[217:223, 117:123].any()  # the hole
    rows, columns = np.nonzero(picture)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (200, 240, 100, 140)


def test_class_name_is_written_unless_there_is_one_class() -> None:
    one, two = (changed(draw_instances(GREY, make_targets(), names)).sum() for names in (["cell"], ["cell", "dirt"]))
    assert two > one + 100


def test_splash_keeps_the_colours_of_masks_and_makes_the_rest_grey() -> None:
    image = np.full((500, 600, 3), (200, 0, 100), dtype=np.uint8)
    picture = draw_splash(image, make_targets())
    grey = round(0.299 * 200 + 0.114 * 100)  # luma of ITU-R 601
    assert picture[210, 105].tolist() == [200, 0, 100]
    assert picture[220, 120].tolist() == [grey] * 3  # the hole
    assert (picture == (200, 0, 100)).all(axis=2).sum() == 40 * 40 - 10 * 10
    assert (picture == grey).all(axis=2).sum() == 500 * 600 - (40 * 40 - 10 * 10)


def test_splash_of_detections_without_masks_keeps_their_boxes() -> None:
    image = np.full((500, 600, 3), (200, 0, 100), dtype=np.uint8)
    assert (draw_splash(image, make_detections([0.9])) == (200, 0, 100)).all(axis=2).sum() == 40 * 40
    assert not (draw_splash(image, make_detections([])) == (200, 0, 100)).all(axis=2).any()


def test_draw_instances_does_not_modify_the_image() -> None:
    image = GREY.copy()
    draw_instances(image, make_targets(), ["a"])
    np.testing.assert_array_equal(image, GREY)


def test_detections_below_the_threshold_are_not_drawn() -> None:
    detections = make_detections([0.9, 0.4, 0.5])
    picture = changed(draw_instances(GREY, detections, ["a"], score_threshold=0.5))
    assert picture[230, 100]
    assert not picture[200:240, 160:200].any()
    assert picture[230, 220]


def test_draw_instances_without_instances_returns_the_image() -> None:
    np.testing.assert_array_equal(draw_instances(GREY, make_targets(count=0), ["a"]), GREY)


def test_small_images_are_enlarged() -> None:
    targets = Targets((100, 80), torch.tensor([[10.0, 20.0, 30.0, 40.0]]), torch.tensor([0]))
    picture = changed(draw_instances(np.full((100, 80, 3), 90, dtype=np.uint8), targets, ["a"]))
    assert picture.shape == (400, 320)
    rows, columns = np.nonzero(picture)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (80, 160, 40, 120)


def test_class_without_a_name_is_drawn_with_its_index() -> None:
    targets = make_targets()
    targets.classes[0] = 7
    assert changed(draw_instances(GREY, targets, ["a", "b"])).any()


def test_predictions_are_drawn_right_of_the_ground_truth() -> None:
    alone = draw_predictions(GREY, make_detections([0.9]), None, ["a"])
    both = draw_predictions(GREY, make_detections([0.9]), make_targets(), ["a"])
    assert both.shape[0] == alone.shape[0]
    assert both.shape[1] > 2 * 600
    np.testing.assert_array_equal(both[30:, -600:], alone[30:, -600:])


def test_matched_detections_have_the_color_of_their_object_and_others_another() -> None:
    targets = make_targets(count=2)
    first, second = distinct_colors(2)
    detections = make_detections([0.9, 0.8, 0.7, 0.6])
    detections.boxes = detections.boxes[torch.tensor([1, 1, 2, 0])]  # the second object twice, then no object
    colors = colors_of_objects(detections, targets)
    assert colors[0] == second
    assert colors[3] == first
    assert len({*colors, first, second}) == 4


def test_colors_without_objects_are_distinct() -> None:
    assert len(set(colors_of_objects(make_detections([0.9, 0.8]), make_targets(count=0)))) == 2
    assert colors_of_objects(make_detections([]), make_targets()) == []


def test_draw_predictions_accepts_empty_tables() -> None:
    assert draw_predictions(GREY, make_detections([]), make_targets(count=0), ["a"]).shape[1] > 1200


@pytest.mark.parametrize(("order", "expected"), [("BGR", [3, 2, 1]), ("RGB", [1, 2, 3])])
def test_sample_picture_is_rgb_for_either_channel_order(order: str, expected: list[int]) -> None:
    image = torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None, None].expand(3, 4, 5)
    picture = sample_picture(Sample(image, 1, (4, 5)), channel_order=order)
    assert picture.shape == (4, 5, 3)
    assert picture[0, 0].tolist() == expected


@pytest.mark.parametrize("channels", [1, 3, 16])
def test_training_batch_accepts_images_of_different_sizes(channels: int) -> None:
    samples = []
    for number, (height, width) in enumerate([(500, 600), (60, 40), (900, 1400)]):
        targets = Targets((height, width), torch.tensor([[5.0, 5, 20, 20]]), torch.tensor([0])) if number else None
        image = torch.zeros((channels, height, width), dtype=torch.uint8 if channels < 16 else torch.float32)
        samples.append(Sample(image, number, (height, width), targets))
    picture = draw_training_batch(samples, ["a", "b"])
    assert picture.dtype == np.uint8
    assert picture.shape[0] < 1500  # two rows of at most 640 pixels with their titles
    assert picture.shape[1] < 1400


def test_training_batch_draws_at_most_max_images() -> None:
    samples = [Sample(torch.zeros((3, 500, 500), dtype=torch.uint8), number, (500, 500)) for number in range(3)]
    one, all_three = (draw_training_batch(samples, ["a"], max_images=count) for count in (1, 3))
    assert one.shape[1] < 520 < all_three.shape[1]


def test_grid_has_the_given_columns_and_the_size_of_its_cells() -> None:
    pictures = [np.full((40, width, 3), 200, dtype=np.uint8) for width in (100, 50, 100)]
    row, square = side_by_side(pictures, ["a", "b", "c"]), grid(pictures, ["a", "b", "c"])
    assert 250 <= row.shape[1] < 290
    assert 150 <= square.shape[1] < 180
    assert (row == 200).all(axis=2).sum() >= 40 * 250


def test_grid_refuses_an_empty_list() -> None:
    with pytest.raises(ValueError, match="no images"):
        grid([], [])


def people(points: list[list[float]], *, is_scored: bool) -> Targets | Detections:
    size, boxes, classes = (500, 500), torch.tensor([[0.0, 0, 500, 500]]), torch.tensor([0])
    keypoints = torch.tensor([points])
    if is_scored:
        return Detections(size, boxes, torch.tensor([1.0]), classes, keypoints=keypoints)
    return Targets(size, boxes, classes, keypoints=keypoints)


@pytest.mark.parametrize(
    ("third", "is_scored", "is_drawn"), [(0, False, 0), (1, False, 1), (0.01, True, 0), (0.3, True, 1)]
)
def test_labelled_and_confident_keypoints_are_drawn(third: float, is_scored: bool, is_drawn: int) -> None:
    table = people([[250.5, 250.5, third]], is_scored=is_scored)
    picture = draw_instances(np.zeros((500, 500, 3), np.uint8), table, ["person"], colors=[(255, 0, 0)])
    assert picture[250, 250].tolist() == [255 * is_drawn, 0, 0]


def test_keypoints_are_connected_along_the_skeleton() -> None:
    points = [[100.5, 100.5, 2.0], [100.5, 400.5, 2.0], [400.5, 400.5, 0.0]]
    table, black = people(points, is_scored=False), np.zeros((500, 500, 3), np.uint8)
    options = {"colors": [(255, 0, 0)]}
    assert draw_instances(black, table, ["a"], **options)[250, 100].max() == 0
    picture = draw_instances(black, table, ["a"], skeleton=((0, 1), (1, 2)), **options)
    assert picture[250, 100].tolist() == [255, 0, 0]
    assert picture[400, 250].max() == 0  # the other end is not labelled


def test_17_keypoints_have_the_skeleton_of_coco_by_default() -> None:
    points = [[0.0, 0.0, 0.0]] * 17
    points[5], points[7] = [100.5, 100.5, 2.0], [100.5, 400.5, 2.0]  # left shoulder and elbow
    picture = draw_instances(
        np.zeros((500, 500, 3), np.uint8), people(points, is_scored=False), ["a"], colors=[(255, 0, 0)]
    )
    assert picture[250, 100].tolist() == [255, 0, 0]


def test_keypoints_of_an_empty_table_draw_nothing() -> None:
    table = people([[1.0, 1.0, 2.0]], is_scored=True)[:0]
    assert draw_instances(np.zeros((500, 500, 3), np.uint8), table, ["a"]).max() == 0
