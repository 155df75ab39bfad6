"""Augmentations: their distributions, and the agreement of images and coordinates."""

import numpy as np
import pytest
import torch
from PIL import Image

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.transforms import augment, build_train_augmentations
from mrcnn_zoo.data.transforms.photometric import adjust_brightness, adjust_contrast, adjust_saturation
from mrcnn_zoo.data.transforms.resize import ResizeTransform, shortest_edge_size
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registries import AUGMENTATIONS


@pytest.mark.parametrize("name", AUGMENTATIONS.names())
def test_marked_pixel_moves_as_the_affine_map(cfg: CfgNode, name: str) -> None:
    cfg.INPUT.MIN_SIZE_TRAIN = [120]
    augmentation = AUGMENTATIONS.get(name)(cfg)
    for seed in range(8):
        image = torch.zeros((3, 40, 60), dtype=torch.uint8)
        image[:, 18:21, 30:33] = 255  # its middle is at (31.5, 19.5)
        after, affine = augment(image, [augmentation], np.random.default_rng(seed))
        assert tuple(after.shape[-2:]) == affine.size
        x, y = affine.map_points(np.array([[31.5, 19.5]]))[0]
        weights = after.float().sum(0)
        rows, columns = torch.meshgrid(*(torch.arange(side) + 0.5 for side in weights.shape), indexing="ij")
        middle = [(weights * axis).sum() / weights.sum() for axis in (columns, rows)]
        assert middle[0] == pytest.approx(x, abs=0.1)
        assert middle[1] == pytest.approx(y, abs=0.1)


@pytest.mark.parametrize("name", AUGMENTATIONS.names())
def test_same_generator_gives_the_same_image_and_keeps_the_input(cfg: CfgNode, name: str) -> None:
    augmentation = AUGMENTATIONS.get(name)(cfg)
    image = torch.from_numpy(np.random.default_rng(5).integers(0, 256, (3, 40, 60), dtype=np.uint8))
    untouched = image.clone()
    first, second = (augment(image, [augmentation], np.random.default_rng(3))[0] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(image, untouched)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((640, 480), (1067, 800)),
        ((427, 640), (800, 1199)),
        ((300, 1000), (400, 1333)),  # the longest side decides
        ((500, 500), (800, 800)),
        ((1, 5000), (1, 1333)),  # never below one pixel
    ],
)
def test_shortest_edge_is_scaled_unless_the_longest_is_too_long(size, expected) -> None:
    assert shortest_edge_size(size, 800, 1333) == expected


def test_length_zero_keeps_the_size() -> None:
    assert shortest_edge_size((480, 640), 0, 100) == (480, 640)


@pytest.mark.parametrize("size", [(53, 81), (9, 14)])
def test_resized_pixels_equal_pillow(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 47, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)).astype(int)
    resized = ResizeTransform((30, 47), size).apply_image(torch.from_numpy(pixels).permute(2, 0, 1))
    assert np.abs(resized.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1


def test_range_draws_every_length_between_its_bounds(cfg: CfgNode) -> None:
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = [50, 53], "range"
    augmentation = AUGMENTATIONS.get("ResizeShortestEdge")(cfg)
    image, rng = torch.zeros((3, 40, 60), dtype=torch.uint8), np.random.default_rng(0)
    heights = {augmentation.get_transform(image, rng).affine.size[0] for _ in range(60)}
    assert heights == {50, 51, 52, 53}


def test_choice_draws_only_the_given_lengths(cfg: CfgNode) -> None:
    cfg.INPUT.MIN_SIZE_TRAIN = [50, 53]
    augmentation = AUGMENTATIONS.get("ResizeShortestEdge")(cfg)
    image, rng = torch.zeros((3, 40, 60), dtype=torch.uint8), np.random.default_rng(0)
    assert {augmentation.get_transform(image, rng).affine.size[0] for _ in range(30)} == {50, 53}


@pytest.mark.parametrize(
    ("kind", "size", "heights", "widths"),
    [
        ("relative", [0.5, 0.25], {20}, {15}),
        ("absolute", [30, 100], {30}, {60}),
        ("absolute_range", [10, 12], {10, 11, 12}, {10, 11, 12}),
        ("relative_range", [0.95, 1.0], {38, 39, 40}, {60}),
    ],
)
def test_crop_sizes(cfg: CfgNode, kind: str, size: list[float], heights: set[int], widths: set[int]) -> None:
    cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = kind, size
    crop = AUGMENTATIONS.get("RandomCrop")(cfg)
    image, rng = torch.zeros((3, 40, 60), dtype=torch.uint8), np.random.default_rng(0)
    sizes = [crop.get_transform(image, rng).affine.size for _ in range(80)]
    assert {size[0] for size in sizes} == heights
    assert {size[1] for size in sizes} == widths


def test_crops_touch_every_border(cfg: CfgNode) -> None:
    cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = "absolute", [38, 60]
    crop = AUGMENTATIONS.get("RandomCrop")(cfg)
    image, rng = torch.zeros((3, 40, 60), dtype=torch.uint8), np.random.default_rng(0)
    assert {crop.get_transform(image, rng).top for _ in range(60)} == {0, 1, 2}


def test_half_of_the_images_are_flipped(cfg: CfgNode) -> None:
    flip = AUGMENTATIONS.get("RandomFlip")(cfg)
    image, rng = torch.zeros((3, 4, 6), dtype=torch.uint8), np.random.default_rng(0)
    mirrored = sum(flip.get_transform(image, rng).affine.is_mirroring for _ in range(1000))
    assert 450 < mirrored < 550


def test_brightness_contrast_and_saturation_equal_hand_computed_values() -> None:
    image = torch.tensor([100, 100, 200], dtype=torch.uint8)[:, None, None]
    assert adjust_brightness(image, 0.5).flatten().tolist() == [50, 50, 100]
    assert adjust_brightness(image, 2.0).flatten().tolist() == [200, 200, 255]
    assert adjust_contrast(image, 0.5).flatten().tolist() == [117, 117, 167]  # mean 133.33
    assert adjust_saturation(image, 0.0).flatten().tolist() == [111, 111, 111]  # 0.587 + 0.299 + 0.114 * 2


def test_configured_augmentations_are_between_crop_and_resize(cfg: CfgNode) -> None:
    cfg.INPUT.AUGMENTATIONS = ["RandomRotate90"]
    cfg.INPUT.CROP.ENABLED = True
    names = [type(augmentation).__name__ for augmentation in build_train_augmentations(cfg)]
    assert names == ["RandomCrop", "RandomRotate90", "ResizeShortestEdge", "RandomHorizontalFlip", "ChannelOrder"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("AUGMENTATIONS", ["RandomRotat90"], "RandomRotate90"),
        ("RANDOM_FLIP", "diagonal", "RANDOM_FLIP = 'diagonal'"),
        ("FORMAT", "GBR", "INPUT.FORMAT = 'GBR'"),
    ],
)
def test_invalid_setting_is_named(cfg: CfgNode, key: str, value: object, message: str) -> None:
    cfg.INPUT.AUGMENTATIONS = ["RandomBrightness"]
    cfg.INPUT[key] = value
    with pytest.raises(UserError, match=message):
        build_train_augmentations(cfg)


def test_invalid_crop_is_named(cfg: CfgNode) -> None:
    cfg.INPUT.CROP.TYPE = "relativ"
    with pytest.raises(UserError, match="Did you mean 'relative'"):
        AUGMENTATIONS.get("RandomCrop")(cfg)
