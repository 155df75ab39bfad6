"""Records to samples."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.loading.mapper import build_eval_mapper, build_train_mapper, build_validation_mapper
from mrcnn_zoo.data.loading.targets import TargetBuilder
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.data.transforms import AffineTransform
from mrcnn_zoo.data.transforms.crop import CropTransform
from mrcnn_zoo.data.transforms.flip import HorizontalFlip
from mrcnn_zoo.errors import UserError

SIZE = (40, 60)


@dataclass(frozen=True)
class ConstantImage:
    """An image of one colour."""

    size: tuple[int, int] = SIZE
    name: str = "constant.png"

    def read(self) -> np.ndarray:
        return np.full((*self.size, 3), (10, 20, 30), np.uint8)


def _square(x: float, y: float, side: float, **fields: object) -> InstanceRecord:
    corners = [x, y, x + side, y, x + side, y + side, x, y + side]
    return replace(InstanceRecord((x, y, x + side, y + side), 1, segmentation=[corners]), **fields)


def _record(*instances: InstanceRecord) -> ImageRecord:
    return ImageRecord(5, ConstantImage(), SIZE, instances)


DATASET = Dataset("test", (), ("cat", "dog"), (1, 2))
RNG = np.random.default_rng


def test_eval_sample_is_resized_and_has_its_file_name(cfg: CfgNode) -> None:
    cfg.INPUT.MIN_SIZE_TEST = 80
    sample = build_eval_mapper(cfg)(_record(), RNG(0))
    assert sample.image_size == (80, 120)
    assert (sample.image_id, sample.original_size, sample.file_name) == (5, SIZE, "constant.png")
    assert sample.targets is None


@pytest.mark.parametrize(("name", "expected"), [("BGR", [30, 20, 10]), ("RGB", [10, 20, 30]), ("L", [18])])
def test_channels_are_in_the_order_of_the_config(cfg: CfgNode, name: str, expected: list[int]) -> None:
    cfg.INPUT.FORMAT = name
    cfg.MODEL.PIXEL_MEAN = cfg.MODEL.PIXEL_STD = [1.0] * len(expected)
    for mapper in (build_eval_mapper(cfg), build_train_mapper(cfg, DATASET)):
        image = mapper(_record(), RNG(0)).image
        assert image.is_contiguous()
        assert image.dtype == torch.uint8
        assert image[:, 3, 3].tolist() == expected


def test_targets_are_in_pixels_of_the_resized_image(cfg: CfgNode) -> None:
    cfg.INPUT.MIN_SIZE_TEST = 80
    sample = build_validation_mapper(cfg, DATASET)(_record(_square(10, 5, 8)), RNG(0))
    assert sample.targets is not None
    assert sample.targets.boxes.tolist() == [[20, 10, 36, 26]]
    assert sample.targets.classes.tolist() == [1]
    bitmap = sample.targets.masks.bitmaps()[0]
    assert bitmap.sum() == 16 * 16
    assert bitmap[10:26, 20:36].all()


def test_crowds_are_left_out_of_targets(cfg: CfgNode) -> None:
    record = _record(_square(10, 5, 8, is_crowd=True), _square(20, 20, 5))
    targets = build_validation_mapper(cfg, DATASET)(record, RNG(0)).targets
    assert targets.boxes.tolist() == [[20, 20, 25, 25]]


def test_image_without_objects_has_empty_targets(cfg: CfgNode) -> None:
    targets = build_train_mapper(cfg, DATASET)(_record(), RNG(0)).targets
    assert targets.boxes.shape == (0, 4)
    assert targets.classes.dtype == torch.int64
    assert targets.masks.bitmaps().shape == (0, *SIZE)


def test_objects_outside_the_crop_are_dropped() -> None:
    crop = CropTransform(0, 0, (20, 20)).affine
    targets = TargetBuilder(has_masks=True)([_square(30, 30, 5), _square(2, 3, 5)], crop)
    assert targets.boxes.tolist() == [[2, 3, 7, 8]]
    assert len(targets.masks) == 1


def test_cropped_box_is_the_box_of_the_visible_mask() -> None:
    triangle = InstanceRecord((10, 10, 30, 30), 0, segmentation=[[10, 10, 30, 10, 10, 30]])
    crop = CropTransform(20, 0, (20, 60)).affine  # leaves the tip below y = 20, which is 10 wide
    boxes = TargetBuilder(has_masks=True, boxes_from_masks=True)([triangle], crop).boxes
    assert boxes[0].tolist() == pytest.approx([10, 0, 20, 10], abs=1)
    assert TargetBuilder(has_masks=True)([triangle], crop).boxes.tolist() == [[10, 0, 30, 10]]


def test_cropping_takes_boxes_from_masks(cfg: CfgNode) -> None:
    cfg.INPUT.CROP.ENABLED = True
    assert build_train_mapper(cfg, DATASET).target_builder.boxes_from_masks
    cfg.MODEL.MASK_ON = False
    assert not build_train_mapper(cfg, DATASET).target_builder.boxes_from_masks


def test_objects_without_masks_are_targets_of_box_models(cfg: CfgNode) -> None:
    cfg.MODEL.MASK_ON = False
    record = _record(InstanceRecord((1, 2, 3, 4), 0))
    targets = build_validation_mapper(cfg, DATASET)(record, RNG(0)).targets
    assert targets.masks is None
    assert targets.boxes.tolist() == [[1, 2, 3, 4]]


def test_object_without_mask_is_left_out_of_mask_models(cfg: CfgNode) -> None:
    record = _record(InstanceRecord((1, 2, 3, 4), 0), _square(20, 20, 5))
    assert len(build_validation_mapper(cfg, DATASET)(record, RNG(0)).targets) == 1


KEYPOINTS = (10.0, 10.0, 2.0, 12.0, 11.0, 1.0, 50.0, 30.0, 0.0)


def test_flip_maps_keypoints_to_the_other_side() -> None:
    maker = TargetBuilder(num_keypoints=3, flip_pairs=((0, 1),))
    item = _square(5, 5, 20, keypoints=KEYPOINTS)
    mapped = maker([item], HorizontalFlip(SIZE).affine).keypoints
    assert mapped.tolist() == [[[48, 11, 1], [50, 10, 2], [0, 0, 0]]]


def test_keypoints_outside_the_crop_are_unlabelled() -> None:
    crop = CropTransform(0, 11, (40, 40)).affine
    mapped = TargetBuilder(num_keypoints=3)([_square(5, 5, 20, keypoints=KEYPOINTS)], crop).keypoints
    assert mapped.tolist() == [[[0, 0, 0], [1, 11, 1], [0, 0, 0]]]


def test_object_without_keypoints_has_none_labelled() -> None:
    mapped = TargetBuilder(num_keypoints=3)([_square(5, 5, 20)], AffineTransform.identity(SIZE)).keypoints
    assert mapped.tolist() == [[[0, 0, 0]] * 3]


@pytest.mark.parametrize(
    ("size", "message"),
    [((41, 60), "constant.png is 60 x 41 .* have 60 x 40"), ((60, 40), "seem exchanged: correct 'width' and 'height'")],
)
def test_image_of_another_size_than_annotated_is_refused(cfg: CfgNode, size: tuple[int, int], message: str) -> None:
    record = ImageRecord(5, ConstantImage(size), SIZE)
    with pytest.raises(UserError, match=message):
        build_eval_mapper(cfg)(record, RNG(0))


def test_same_generator_gives_the_same_sample(cfg: CfgNode) -> None:
    cfg.INPUT.MIN_SIZE_TRAIN = [30, 40, 50]
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.AUGMENTATIONS = ["RandomRotate90", "RandomBrightness"]
    mapper = build_train_mapper(cfg, DATASET)
    samples = [mapper(_record(_square(10, 5, 8)), RNG(seed)) for seed in (1, 1, 2)]
    assert torch.equal(samples[0].image, samples[1].image)
    assert torch.equal(samples[0].targets.boxes, samples[1].targets.boxes)
    assert samples[0].image.shape != samples[2].image.shape or not torch.equal(samples[0].image, samples[2].image)
