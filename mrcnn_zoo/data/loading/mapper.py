"""Mappers from the record of an image to the sample of a model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.images.arrays import as_pixels
from mrcnn_zoo.data.images.pixels import (
    CHANNELS_WITH_ALPHA,
    DepthReduction,
    as_image_tensor,
    channels_fit,
    check_pixel_statistics,
    depth_reduction_of,
    fit_channels,
    note_unusual_values,
    num_channels_of,
)
from mrcnn_zoo.data.images.reading import MAX_PIXELS, FileImage
from mrcnn_zoo.data.images.stacks import StackPage
from mrcnn_zoo.data.keypoints import FlipPairs, read_pairs
from mrcnn_zoo.data.loading.proposals import ProposalMapper
from mrcnn_zoo.data.loading.targets import TargetBuilder
from mrcnn_zoo.data.records import Dataset, ImageRecord, ImageSource
from mrcnn_zoo.data.transforms import Augmentation, augment, build_eval_augmentations, build_train_augmentations
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.structures import Proposals, Sample, Targets

Mapper = Callable[[ImageRecord, np.random.Generator], Sample]


@dataclass(frozen=True)
class PixelReader:
    """Reads the pixels of a record.

    Args:
        reduce_depth: converts pixels of more than 8 bits.
        num_channels: of the model's input.
        max_pixels: the largest allowed number of pixels per image file; 0 for no limit.
        statistics: MODEL.PIXEL_MEAN and PIXEL_STD, to warn about float pixels that do not fit them; () never warns.
    """

    reduce_depth: DepthReduction
    num_channels: int = 3
    max_pixels: int = MAX_PIXELS
    statistics: tuple[Sequence[float], Sequence[float]] | tuple[()] = ()

    def open(self, source: ImageSource) -> NDArray[np.generic]:
        """(H, W, C) of any depth; RGB if the model's input is RGB or grey.

        Args:
            source: of the pixels.

        Raises:
            UserError: an image that cannot be read, or has another number of channels.
        """
        if not isinstance(source, FileImage | StackPage):
            return fit_channels(as_pixels(source.read(), source.name), self.num_channels, name=source.name)
        if self.num_channels in CHANNELS_WITH_ALPHA:
            pixels = source.read_with_alpha(max_pixels=self.max_pixels)
        else:
            pixels = source.read(max_pixels=self.max_pixels)
        pages = "" if channels_fit(pixels.shape[2], self.num_channels) else source.pages()
        return fit_channels(pixels, self.num_channels, name=source.name, pages=pages)

    def read(self, record: ImageRecord) -> Tensor:
        """(C, H, W) uint8 or float32 of the record's image.

        Args:
            record: of the image.

        Raises:
            UserError: an image that cannot be read, or has another size than in its annotations.
        """
        pixels = self.open(record.source)
        check_size(record, pixels)
        try:
            image = as_image_tensor(pixels, self.reduce_depth)
        except UserError as error:
            raise UserError(f"{record.source.name}: {error}") from error
        if self.statistics and image.is_floating_point():
            note_unusual_values(image, *self.statistics, name=record.source.name)
        return image


def _size_message(record: ImageRecord, size: tuple[int, int]) -> str:
    (height, width), (expected_height, expected_width) = size, record.image_size
    message = (
        f"{record.source.name} is {width} x {height} pixels (width x height) where its annotations have "
        f"{expected_width} x {expected_height}."
    )
    if (width, height) == (expected_height, expected_width):
        if isinstance(record.source, FileImage | StackPage) and record.source.is_turned():
            return f"{message} Its EXIF tag rotates it: save the image upright, or annotate the rotated image."
        return f"{message} They seem exchanged: correct 'width' and 'height' in the annotations."
    return f"{message} The annotations belong to another version of the image."


def check_size(record: ImageRecord, pixels: NDArray[np.generic]) -> None:
    """Refuse an image of another size than in its annotations.

    Args:
        record: of the image.
        pixels: (H, W, C) of the image.

    Raises:
        UserError: with both sizes.
    """
    size = (int(pixels.shape[0]), int(pixels.shape[1]))
    if size != tuple(record.image_size):
        raise UserError(_size_message(record, size))


class TrainMapper:
    """Maps records to augmented samples with targets.

    Args:
        reader: of the pixels.
        augmentations: in their order.
        target_builder: of the targets.
        proposal_mapper: of precomputed proposals; None for samples without.
    """

    def __init__(
        self,
        reader: PixelReader,
        *,
        augmentations: Sequence[Augmentation],
        target_builder: TargetBuilder,
        proposal_mapper: ProposalMapper | None = None,
    ) -> None:
        self.reader = reader
        self.augmentations = tuple(augmentations)
        self.target_builder = target_builder
        self.proposal_mapper = proposal_mapper

    def __call__(self, record: ImageRecord, rng: np.random.Generator) -> Sample:
        """The sample of a record, determined by the state of the generator.

        Args:
            record: of the image.
            rng: the only source of randomness.
        """
        may_mirror = self.target_builder.can_mirror(record.instances)
        image, affine = augment(self.reader.read(record), self.augmentations, rng, may_mirror=may_mirror)
        proposals = None if self.proposal_mapper is None else self.proposal_mapper(record, affine)
        return _as_sample(record, image, self.target_builder(record.instances, affine), proposals)


class EvalMapper:
    """Maps records to resized samples without targets.

    Args:
        reader: of the pixels.
        augmentations: in their order, without randomness.
        proposal_mapper: of precomputed proposals; None for samples without.
    """

    def __init__(
        self,
        reader: PixelReader,
        *,
        augmentations: Sequence[Augmentation],
        proposal_mapper: ProposalMapper | None = None,
    ) -> None:
        self.reader = reader
        self.augmentations = tuple(augmentations)
        self.proposal_mapper = proposal_mapper

    def __call__(self, record: ImageRecord, rng: np.random.Generator) -> Sample:
        """The sample of a record.

        Args:
            record: of the image.
            rng: is not used.
        """
        image, affine = augment(self.reader.read(record), self.augmentations, rng)
        proposals = None if self.proposal_mapper is None else self.proposal_mapper(record, affine)
        return _as_sample(record, image, None, proposals)


def _as_sample(record: ImageRecord, image: Tensor, targets: Targets | None, proposals: Proposals | None) -> Sample:
    return Sample(
        image=image.contiguous(),
        image_id=record.image_id,
        original_size=record.image_size,
        targets=targets,
        proposals=proposals,
        file_name=record.source.name,
    )


def build_train_mapper(cfg: CfgNode, dataset: Dataset, proposal_mapper: ProposalMapper | None = None) -> Mapper:
    """The mapper of training samples.

    Args:
        cfg: INPUT, MODEL, DATASETS.KEYPOINT_FLIP_PAIRS.
        dataset: the training data.
        proposal_mapper: of precomputed proposals.
    """
    return TrainMapper(
        build_pixel_reader(cfg),
        augmentations=build_train_augmentations(cfg),
        target_builder=build_target_builder(cfg, dataset, is_cropped=cfg.INPUT.CROP.ENABLED),
        proposal_mapper=proposal_mapper,
    )


def build_eval_mapper(cfg: CfgNode, proposal_mapper: ProposalMapper | None = None) -> EvalMapper:
    """The mapper of samples for prediction.

    Args:
        cfg: INPUT, MODEL.PIXEL_MEAN and PIXEL_STD.
        proposal_mapper: of precomputed proposals.
    """
    return EvalMapper(
        build_pixel_reader(cfg), augmentations=build_eval_augmentations(cfg), proposal_mapper=proposal_mapper
    )


def build_validation_mapper(cfg: CfgNode, dataset: Dataset, proposal_mapper: ProposalMapper | None = None) -> Mapper:
    """The mapper of samples for the validation loss: resized only, with targets in pixels of the resized image.

    Args:
        cfg: INPUT, MODEL, DATASETS.KEYPOINT_FLIP_PAIRS.
        dataset: the validation data.
        proposal_mapper: of precomputed proposals.
    """
    return TrainMapper(
        build_pixel_reader(cfg),
        augmentations=build_eval_augmentations(cfg),
        target_builder=build_target_builder(cfg, dataset, is_cropped=False),
        proposal_mapper=proposal_mapper,
    )


def build_pixel_reader(cfg: CfgNode) -> PixelReader:
    """The pixel reader of INPUT, MODEL.PIXEL_MEAN and PIXEL_STD."""
    statistics = tuple(cfg.MODEL.PIXEL_MEAN), tuple(cfg.MODEL.PIXEL_STD)
    num_channels = num_channels_of(cfg)
    check_pixel_statistics(*statistics, sixteen_bit=cfg.INPUT.SIXTEEN_BIT)
    return PixelReader(depth_reduction_of(cfg), num_channels, cfg.INPUT.MAX_IMAGE_PIXELS, statistics)


def build_flip_pairs(cfg: CfgNode, dataset: Dataset) -> FlipPairs | None:
    """The pairs of keypoints that a mirror exchanges: DATASETS.KEYPOINT_FLIP_PAIRS, or "auto": those of the dataset.

    Args:
        cfg: DATASETS.KEYPOINT_FLIP_PAIRS, MODEL.KEYPOINT_ON.
        dataset: with the names of the keypoints.

    Raises:
        UserError: pairs that cannot be read, or of keypoints that the dataset does not have.
    """
    pairs = cfg.DATASETS.KEYPOINT_FLIP_PAIRS
    if not dataset.keypoint_names or not cfg.MODEL.KEYPOINT_ON:
        return ()
    if isinstance(pairs, list):
        return read_pairs(pairs, dataset.keypoint_names, where="DATASETS.KEYPOINT_FLIP_PAIRS")
    if pairs != "auto":
        raise UserError(f"DATASETS.KEYPOINT_FLIP_PAIRS = {pairs!r} must be auto or a list of pairs of keypoint names.")
    return dataset.keypoint_flip_pairs


def build_target_builder(cfg: CfgNode, dataset: Dataset, *, is_cropped: bool) -> TargetBuilder:
    """The builder of targets with the columns of the model.

    Args:
        cfg: MODEL.MASK_ON, MODEL.KEYPOINT_ON, DATASETS.KEYPOINT_FLIP_PAIRS.
        dataset: with the names of the keypoints.
        is_cropped: whether images are cropped.
    """
    return TargetBuilder(
        has_masks=cfg.MODEL.MASK_ON,
        num_keypoints=len(dataset.keypoint_names) if cfg.MODEL.KEYPOINT_ON else 0,
        flip_pairs=build_flip_pairs(cfg, dataset),
        boxes_from_masks=is_cropped and cfg.MODEL.MASK_ON,
    )
