"""From the record of an image to the sample that a model takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.pixels import DepthReduction, as_image_tensor, depth_reduction_of
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.data.targets import TargetMaker
from mrcnn_zoo.data.transforms import Augmentation, augment, build_test_augmentations, build_train_augmentations
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.structures import Sample, Targets

Mapper = Callable[[ImageRecord, np.random.Generator], Sample]


@dataclass(frozen=True)
class PixelReader:
    """Reads the pixels of a record."""

    reduce_depth: DepthReduction

    def read(self, record: ImageRecord) -> Tensor:
        """(3, H, W) RGB of the record's image.

        Raises:
            UserError: an image that cannot be read, or has another size than its annotations say.
        """
        pixels = record.source.read()
        size = (int(pixels.shape[0]), int(pixels.shape[1]))
        if size != tuple(record.image_size):
            raise UserError(_size_message(record, size))
        return as_image_tensor(pixels, self.reduce_depth)


def _size_message(record: ImageRecord, size: tuple[int, int]) -> str:
    (height, width), (expected_height, expected_width) = size, record.image_size
    message = (
        f"{record.source.name} is {width} x {height} pixels (width x height) where its annotations say "
        f"{expected_width} x {expected_height}."
    )
    if (width, height) == (expected_height, expected_width):
        return f"{message} Its EXIF tag may turn it: save the image upright, or annotate it as it is shown."
    return f"{message} The annotations belong to another version of the image."


class TrainMapper:
    """Reads, augments and labels.

    Args:
        reader: of the pixels.
        augmentations: in their order.
        target_maker: of the labels.
    """

    def __init__(
        self, reader: PixelReader, *, augmentations: Sequence[Augmentation], target_maker: TargetMaker
    ) -> None:
        self.reader = reader
        self.augmentations = tuple(augmentations)
        self.target_maker = target_maker

    def __call__(self, record: ImageRecord, rng: np.random.Generator) -> Sample:
        """The sample of a record; the same generator state gives the same sample."""
        image, geometry = augment(self.reader.read(record), self.augmentations, rng)
        return _as_sample(record, image, self.target_maker(record.instances, geometry))


class TestMapper:
    """Reads and resizes, without labels.

    Args:
        reader: of the pixels.
        augmentations: in their order; nothing in them is random.
    """

    __test__ = False  # not a test, whatever pytest makes of the name

    def __init__(self, reader: PixelReader, *, augmentations: Sequence[Augmentation]) -> None:
        self.reader = reader
        self.augmentations = tuple(augmentations)

    def __call__(self, record: ImageRecord, rng: np.random.Generator) -> Sample:
        """The sample of a record."""
        image, _ = augment(self.reader.read(record), self.augmentations, rng)
        return _as_sample(record, image, None)


def _as_sample(record: ImageRecord, image: Tensor, targets: Targets | None) -> Sample:
    return Sample(
        image=image.contiguous(),
        image_id=record.image_id,
        original_size=record.image_size,
        targets=targets,
        file_name=record.source.name,
    )


def build_train_mapper(cfg: CfgNode, dataset: Dataset) -> Mapper:
    """What makes training samples."""
    return TrainMapper(
        build_pixel_reader(cfg),
        augmentations=build_train_augmentations(cfg),
        target_maker=build_target_maker(cfg, dataset, is_cropped=cfg.INPUT.CROP.ENABLED),
    )


def build_test_mapper(cfg: CfgNode) -> Mapper:
    """What makes samples to predict on."""
    return TestMapper(build_pixel_reader(cfg), augmentations=build_test_augmentations(cfg))


def build_validation_mapper(cfg: CfgNode, dataset: Dataset) -> Mapper:
    """What makes test samples with labels, in pixels of the resized image, for the validation loss."""
    return TrainMapper(
        build_pixel_reader(cfg),
        augmentations=build_test_augmentations(cfg),
        target_maker=build_target_maker(cfg, dataset, is_cropped=False),
    )


def build_pixel_reader(cfg: CfgNode) -> PixelReader:
    """How INPUT wants its pixels."""
    return PixelReader(depth_reduction_of(cfg))


def build_target_maker(cfg: CfgNode, dataset: Dataset, *, is_cropped: bool) -> TargetMaker:
    """The labels that the model is trained on."""
    return TargetMaker(
        has_masks=cfg.MODEL.MASK_ON,
        num_keypoints=len(dataset.keypoint_names) if cfg.MODEL.KEYPOINT_ON else 0,
        flip_pairs=dataset.keypoint_flip_pairs,
        boxes_from_masks=is_cropped and cfg.MODEL.MASK_ON,
    )
