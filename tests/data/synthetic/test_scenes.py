import pickle

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mrcnn_zoo.config import load_config
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.data.synthetic.layout import PlacedStamp, SceneLayout, Stamp
from mrcnn_zoo.data.synthetic.scenes import (
    SceneImage,
    build_digit_scenes,
    build_scenes,
    build_shape_scenes,
    scene_instances,
)
from mrcnn_zoo.data.synthetic.settings import SceneSettings
from mrcnn_zoo.errors import UserError

RECORDED_SUM = 9735392


def digits(length: int = 8, split: str = "train", **settings: object) -> Dataset:
    return build_scenes("d", SceneSettings(**settings), kind="digits", split=split, length=length)


def test_same_seed_and_index_give_the_same_pixels_and_annotations() -> None:
    first, second = digits(), digits()
    assert first == second
    for one, other in zip(first.records, second.records, strict=True):
        np.testing.assert_array_equal(one.source.read(), other.source.read())


def test_pixels_equal_the_recorded_sum() -> None:
    # The sum over a scene recorded on Linux x86-64 with NumPy 2.4; a change of it changes the benchmark data.
    scene = SceneImage(SceneSettings(), "digits", "train", 0)
    assert abs(int(scene.read().sum(dtype=np.int64)) - RECORDED_SUM) < 200


def test_scene_does_not_depend_on_the_length() -> None:
    assert digits(3).records == digits(5).records[:3]


@pytest.mark.parametrize("other", [{"seed": 1}, {"split": "val"}])
def test_seed_and_split_change_the_scenes(other: dict[str, object]) -> None:
    assert digits(3).records[0].instances != digits(3, **other).records[0].instances


def test_reading_works_after_pickling() -> None:
    source = digits(1).records[0].source
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source)).read(), source.read())


def test_image_is_rgb_of_the_recorded_size() -> None:
    record = digits(1, image_size=(96, 160)).records[0]
    image = record.source.read()
    assert record.image_size == (96, 160)
    assert image.shape == (96, 160, 3)
    assert image.dtype == np.uint8


def test_box_and_area_equal_the_mask() -> None:
    for record in digits().records:
        for instance in record.instances:
            left, top, width, height = coco_mask.toBbox(instance.segmentation)
            assert instance.box == (left, top, left + width, top + height)
            assert instance.area == coco_mask.area(instance.segmentation)


def test_masks_of_a_scene_do_not_intersect() -> None:
    for record in digits(num_objects=(6, 6), max_overlap=0.6).records:
        masks = np.stack([coco_mask.decode(instance.segmentation) for instance in record.instances])
        assert masks.sum(axis=0).max() == 1


def test_annotation_ids_are_unique_and_start_at_one() -> None:
    ids = [instance.annotation_id for record in digits().records for instance in record.instances]
    assert ids == list(range(1, len(ids) + 1))


def test_front_object_hides_the_one_behind_and_its_box_shrinks() -> None:
    full = np.ones((4, 6))
    beneath, above = PlacedStamp(Stamp(3, full), left=1, top=2), PlacedStamp(Stamp(7, full), left=5, top=0)
    owner = np.full((8, 12), -1, dtype=np.int16)
    owner[beneath.window], owner[above.window] = 0, 1
    first, second = scene_instances(SceneLayout((beneath, above), owner), iter(range(1, 9)))
    # Columns 5 and 6 of the lower object stay visible in rows 4 and 5 only: 24 pixels less 2 x 2.
    assert (first.class_index, first.box, first.area) == (3, (1.0, 2.0, 7.0, 6.0), 20.0)
    assert (second.class_index, second.box, second.area) == (7, (5.0, 0.0, 11.0, 4.0), 24.0)


def test_mask_is_exactly_where_the_ink_shows() -> None:
    settings = SceneSettings(
        noise=0.0, background="plain", invert_probability=0.0, is_color=False, num_objects=(1, 1), min_contrast=0.8
    )
    record = build_scenes("d", settings, kind="shapes", split="train", length=1).records[0]
    image = record.source.read()[..., 0].astype(float)
    ground, ink = image.min(), image.max()
    mask = coco_mask.decode(record.instances[0].segmentation).astype(bool)
    half = (ground + ink) / 2
    is_clear = np.abs(image - half) > 1  # farther away, rounding cannot move a value across one half
    assert is_clear.mean() > 0.99
    np.testing.assert_array_equal((image > half)[is_clear], mask[is_clear])


def test_scene_without_objects() -> None:
    record = digits(1, num_objects=(0, 0)).records[0]
    assert record.instances == ()
    assert record.source.read().shape == (128, 128, 3)


def test_no_scenes() -> None:
    assert digits(0).records == ()


def test_scene_has_at_least_one_object_if_the_minimum_is_one() -> None:
    crowded = digits(20, num_objects=(9, 9), image_size=(48, 48), object_size=(40, 48))
    assert all(record.instances for record in crowded.records)


def test_objects_keep_the_visible_share_and_the_overlap() -> None:
    settings = SceneSettings(num_objects=(6, 6), max_overlap=0.3, min_visible=0.7)
    for index in range(20):
        layout = SceneImage(settings, "digits", "val", index).layout()
        for row, item in enumerate(layout.placed):
            assert layout.visible_mask(row).sum() >= 0.7 * item.stamp.mask.sum()
            for other in layout.placed[:row]:
                corners = [[b[0], b[1], b[2] - b[0], b[3] - b[1]] for b in (item.box, other.box)]
                assert coco_mask.iou(np.float64(corners[:1]), np.float64(corners[1:]), [0])[0, 0] <= 0.3


def test_paint_settings_do_not_move_objects() -> None:
    assert digits(3, noise=0.2, background="plain").records[0].instances == digits(3).records[0].instances


def test_grey_scenes_have_equal_channels() -> None:
    image = digits(1, is_color=False).records[0].source.read()
    np.testing.assert_array_equal(image[..., 0], image[..., 1])
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


@pytest.mark.parametrize(("probability", "is_darker"), [(0.0, False), (1.0, True)])
def test_ink_is_lighter_than_the_ground_unless_inverted(probability: float, is_darker: bool) -> None:
    for record in digits(5, invert_probability=probability, noise=0.0).records:
        grey = record.source.read().mean(axis=2)
        ink = np.zeros(record.image_size, dtype=bool)
        for instance in record.instances:
            ink |= coco_mask.decode(instance.segmentation).astype(bool)
        assert (grey[ink].mean() < grey[~ink].mean()) == is_darker


def test_noise_has_the_given_standard_deviation() -> None:
    settings = {"num_objects": (0, 0), "background": "plain", "is_color": False, "invert_probability": 0.5}
    for index in range(3):
        clean, noisy = (
            build_scenes("d", SceneSettings(**settings, noise=noise), kind="digits", split="val", length=3)
            .records[index]
            .source.read()
            .astype(float)
            for noise in (0.0, 0.02)
        )
        if 30 < clean[0, 0, 0] < 225:  # away from 0 and 255, where values are clipped
            assert np.std(noisy - clean) == pytest.approx(0.02 * 255, rel=0.05)


def test_builders_create_both_formats() -> None:
    cfg = load_config(None, ["DATASETS.SCENES.NUM_VAL", 2, "DATASETS.SCENES.NUM_TRAIN", 3])
    digit_scenes = build_digit_scenes(cfg, "digits_val", {"FORMAT": "digits", "SPLIT": "val"})
    shape_scenes = build_shape_scenes(cfg, "shapes_train", {"FORMAT": "shapes", "SPLIT": "train"})
    assert (digit_scenes.name, len(digit_scenes), digit_scenes.class_names) == ("digits_val", 2, tuple("0123456789"))
    assert (len(shape_scenes), shape_scenes.class_names) == (3, ("circle", "square", "triangle"))
    assert shape_scenes.category_ids == (1, 2, 3)


def test_settings_have_the_defaults_of_the_config() -> None:
    assert build_digit_scenes(load_config(), "d", {"NUM_IMAGES": 1}).records[0].source.settings == SceneSettings()


def test_definition_overrides_the_settings_of_the_config() -> None:
    definition = {"SPLIT": "val", "NUM_IMAGES": 1, "SEED": 4, "IMAGE_SIZE": [64, 80], "OBJECT_SIZE": [20, 30]}
    dataset = build_digit_scenes(load_config(), "mine", definition)
    assert len(dataset) == 1
    assert dataset.records[0].source.settings.seed == 4
    assert dataset.records[0].image_size == (64, 80)


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ({"SPLIT": "test"}, "mine.*SPLIT = 'test' must be one of train, val"),
        ({"NUM_IMAGES": -1}, "mine.*NUM_IMAGES = -1"),
        ({"OBJECT_SIZES": [20, 30]}, "mine.*'OBJECT_SIZES' is not a field.*Did you mean 'OBJECT_SIZE'"),
        ({"OBJECT_SIZE": [30, 20]}, r"DEFINITIONS\.mine\.OBJECT_SIZE = \[30, 20\] must ascend"),
        ({"OBJECT_SIZE": [20, 300]}, "at most the shorter side of IMAGE_SIZE .128."),
        ({"OBJECT_SIZE": [2, 20]}, r"DEFINITIONS\.mine\.OBJECT_SIZE = \[2, 20\] must hold 2 values, each in .8"),
        ({"OBJECT_SIZE": 20}, r"OBJECT_SIZE = \[20\] must hold 2 values"),
        ({"NUM_OBJECTS": [1.5, 3]}, "mine: DATASETS.SCENES.NUM_OBJECTS takes a list of integers"),
        ({"IMAGE_SIZE": [0, 128]}, "IMAGE_SIZE.*must hold 2 values, each in .8"),
        ({"NOISE": "much"}, "mine: DATASETS.SCENES.NOISE takes a number, not 'much'"),
        ({"NOISE": float("nan")}, "NOISE = nan must be finite"),
        ({"MIN_CONTRAST": 0.9}, "MIN_CONTRAST = 0.9 must be .*0.8"),
        ({"NOISE": True}, "NOISE takes a number, not True"),
        ({"NUM_IMAGES": True}, "NUM_IMAGES = True must be a whole number >= 0"),
        ({"NUM_IMAGES": "3"}, "NUM_IMAGES = '3' must be a whole number >= 0"),
        ({"IMAGE_SIZE": [10**6, 10**6]}, "IMAGE_SIZE.*must hold 2 values, each in .8, 20000"),
        ({"SEED": True}, "SEED takes an integer, not True"),
        ({"SEED": -1}, "SEED = -1 must be .*0"),
        ({"BACKGROUND": "photo"}, "BACKGROUND = 'photo' is not one of 'plain', 'gradient', 'texture'"),
    ],
)
def test_invalid_settings_name_the_dataset_and_the_key(definition: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_digit_scenes(load_config(), "mine", definition)


def test_shapes_have_keypoints_at_their_positions() -> None:
    dataset = build_scenes("s", SceneSettings(rotation=0, num_objects=(1, 1)), kind="shapes", split="val", length=6)
    assert dataset.keypoint_names == ("center", "top", "right", "bottom", "left")
    assert dataset.keypoint_flip_pairs == ((4, 2),)
    for record in dataset.records:
        x1, y1, x2, y2 = record.instances[0].box
        points = np.array(record.instances[0].keypoints).reshape(5, 3)
        assert (points[:, 2] == 2).all()
        # Mask edges are at whole pixels, and the tips of a triangle cover less than half of their pixels.
        np.testing.assert_allclose(points[[4, 2], 0], [x1, x2], atol=2)
        np.testing.assert_allclose(points[[1, 3], 1], [y1, y2], atol=2)


def test_keypoints_behind_another_object_are_hidden() -> None:
    square = np.ones((10, 10))
    points = np.array([[2.5, 2.5], [7.5, 7.5]])
    below, above = PlacedStamp(Stamp(0, square, points), 0, 0), PlacedStamp(Stamp(0, square, points), 5, 5)
    owner = np.full((20, 20), -1, dtype=np.int16)
    owner[below.window], owner[above.window] = 0, 1
    first, second = scene_instances(SceneLayout((below, above), owner), iter((1, 2)))
    assert first.keypoints == (2.5, 2.5, 2, 7.5, 7.5, 1)
    assert second.keypoints == (7.5, 7.5, 2, 12.5, 12.5, 2)
    assert digits(1).records[0].instances[0].keypoints is None
