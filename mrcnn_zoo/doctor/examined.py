"""What the checks get: the datasets with a sample of their images, and the settings of the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.rules import is_classifier
from mrcnn_zoo.data.images.pixels import num_channels_of, pixel_format_of
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.data.splits import nested_subset, rows_of, units_of
from mrcnn_zoo.data.transforms.crop import build_random_crop
from mrcnn_zoo.data.transforms.resize import shortest_edge_size
from mrcnn_zoo.doctor.estimate import Estimate
from mrcnn_zoo.doctor.finding import Finding
from mrcnn_zoo.doctor.pixels import ImageFacts
from mrcnn_zoo.evaluation.limits import Limit, build_limits
from mrcnn_zoo.evaluation.metrics.oracles import build_mask_side
from mrcnn_zoo.modeling.contracts import AnchorGenerator
from mrcnn_zoo.structures import ImageSize
from mrcnn_zoo.structures.samples import round_up

TRAIN, VAL = "train", "val"
PIXELS_READ, LEAST_READ = 2_000_000_000, 20  # pixels of the images of a sample at most; images at least


@dataclass(frozen=True)
class InputScale:
    """The factors from pixels of an image file to those of the network's input.

    Args:
        length: of the shorter side; 0 keeps the size.
        max_size: upper bound of the longer side.
        crop: size of an image -> size of the part that is resized.
    """

    length: int
    max_size: int
    crop: Callable[[ImageSize], ImageSize] = lambda size: size

    def __call__(self, size: ImageSize) -> tuple[float, float]:
        """Factors of height and width.

        Args:
            size: (height, width) of an image file.
        """
        part = self.crop(size)
        after = shortest_edge_size(part, self.length, self.max_size)
        return after[0] / part[0], after[1] / part[1]


@dataclass(frozen=True)
class ObjectTable:
    """The objects of a dataset without crowds, as columns of R rows.

    Args:
        boxes: (R, 4) x1 y1 x2 y2, pixels of the image files.
        classes: (R,) class indices.
        images: (R,) rows of their images.
        places: (R,) their places in the record of the image.
    """

    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]
    images: NDArray[np.int64]
    places: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.classes)


@dataclass(frozen=True)
class Side:
    """A dataset of the training or of the validation.

    Args:
        role: "train" or "val".
        dataset: with all its images.
        rows: of the images that are read.
        images: what was read, one per row.
        scale: to the input of the network.
    """

    role: str
    dataset: Dataset
    rows: tuple[int, ...]
    scale: InputScale
    images: tuple[ImageFacts, ...] = ()

    @property
    def name(self) -> str:
        """Of the dataset, for messages."""
        return self.dataset.name

    @property
    def sample(self) -> list[ImageRecord]:
        """The records of the images that are read."""
        return [self.dataset.records[row] for row in self.rows]

    @cached_property
    def objects(self) -> ObjectTable:
        """Of all images."""
        found = [
            (*item.box, item.class_index, row, place)
            for row, record in enumerate(self.dataset.records)
            for place, item in enumerate(record.instances)
            if not item.is_crowd
        ]
        table = np.array(found, dtype=np.float64).reshape(-1, 7)
        whole = table[:, 4:].astype(np.int64)
        return ObjectTable(table[:, :4], whole[:, 0], whole[:, 1], whole[:, 2])

    @cached_property
    def input_boxes(self) -> NDArray[np.float64]:
        """(R, 4) boxes of `objects` in pixels of the network's input."""
        scales = {record.image_size: self.scale(record.image_size) for record in self.dataset.records}
        factors = np.array([scales[record.image_size] for record in self.dataset.records]).reshape(-1, 2)
        return self.objects.boxes * factors[self.objects.images][:, [1, 0, 1, 0]]

    def item(self, row: int) -> tuple[ImageRecord, InstanceRecord]:
        """The image and the record of an object.

        Args:
            row: of `objects`.
        """
        record = self.dataset.records[int(self.objects.images[row])]
        return record, record.instances[int(self.objects.places[row])]


@dataclass(frozen=True)
class ModelSettings:
    """The settings of the config that data are checked against.

    Args:
        needs_masks: whether masks are trained.
        classifies: whether it is a classifier of whole images, without boxes.
        weights: that the training starts from; "" for random ones.
        pixel_mean: of each input channel.
        pixel_std: of each input channel.
        pixel_format: order of the channels: "BGR", "RGB" or "L".
        sixteen_bit: how pixels of more than 8 bits are converted.
        leaves_out_empty: whether images without objects are not trained on.
        limits: on the objects per image, of training and of inference.
        mask_side: cells per side of predicted masks.
        iterations: of the training; 0 where its length is in minutes.
        minutes: of the training; 0 where its length is in iterations.
        batch_size: images per iteration.
        num_workers: processes that load images.
    """

    needs_masks: bool
    classifies: bool
    weights: str
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    pixel_format: str
    sixteen_bit: str
    leaves_out_empty: bool
    limits: dict[str, tuple[Limit, ...]]
    mask_side: int
    iterations: int
    minutes: float
    batch_size: int
    num_workers: int

    @property
    def num_channels(self) -> int:
        """Of the input."""
        return len(self.pixel_mean)


@dataclass(frozen=True)
class AnchorLevels:
    """The anchors of a model.

    Args:
        generator: of the anchors of given feature maps.
        strides: pixels per cell of each level, from fine to coarse.
        size_divisibility: to which the input is padded.
        sizes_per_level: number of sizes.
        num_ratios: number of aspect ratios.
        offset: centre of the anchors in their cell, in strides.
    """

    generator: AnchorGenerator
    strides: tuple[int, ...]
    size_divisibility: int
    sizes_per_level: int = 1
    num_ratios: int = 3
    offset: float = 0.0

    def map_sizes(self, input_size: ImageSize) -> tuple[ImageSize, ...]:
        """(height, width) of the feature map of each level.

        Args:
            input_size: of an image, before it is padded.
        """
        height, width = (round_up(side, max(self.size_divisibility, 1)) for side in input_size)
        return tuple((-(-height // stride), -(-width // stride)) for stride in self.strides)


@dataclass(frozen=True)
class DoctorInput:
    """The input of all checks.

    Args:
        sides: the datasets that could be loaded.
        settings: of the config.
        loading: what was refused or repaired while the data were loaded and the training was planned.
        class_check: message about the number of classes; "" where it fits.
        anchors: of the model; None for a model without, or one that cannot be built.
        estimate: memory and time; None where it was not measured.
        not_estimated: why not.
    """

    sides: tuple[Side, ...]
    settings: ModelSettings
    loading: tuple[Finding, ...] = ()
    class_check: str = ""
    anchors: AnchorLevels | None = None
    estimate: Estimate | None = None
    not_estimated: str = ""

    def of_role(self, role: str) -> list[Side]:
        """The sides of training or of validation.

        Args:
            role: "train" or "val".
        """
        return [side for side in self.sides if side.role == role]


def build_input_scale(cfg: CfgNode, role: str) -> InputScale:
    """The scale of training or test images; of several lengths the middle one.

    Args:
        cfg: INPUT.
        role: "train" or "val".
    """
    if role == VAL:
        return InputScale(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    lengths = sorted(cfg.INPUT.MIN_SIZE_TRAIN)
    is_range = cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range"
    length = round((lengths[0] + lengths[-1]) / 2) if is_range else lengths[len(lengths) // 2]
    if not cfg.INPUT.CROP.ENABLED:
        return InputScale(length, cfg.INPUT.MAX_SIZE_TRAIN)
    crop_size = build_random_crop(cfg).crop_size  # type: ignore[attr-defined]
    return InputScale(length, cfg.INPUT.MAX_SIZE_TRAIN, lambda size: crop_size(size, np.random.default_rng(0)))


def build_model_settings(cfg: CfgNode) -> ModelSettings:
    """The settings of a config.

    Args:
        cfg: of the training, with lengths that fit the data.
    """
    num_channels_of(cfg)  # refuses a mean and a deviation of different lengths
    classifies = is_classifier(cfg)
    return ModelSettings(
        needs_masks=cfg.MODEL.MASK_ON and not classifies,
        classifies=classifies,
        weights=cfg.MODEL.WEIGHTS,
        pixel_mean=tuple(map(float, cfg.MODEL.PIXEL_MEAN)),
        pixel_std=tuple(map(float, cfg.MODEL.PIXEL_STD)),
        pixel_format=pixel_format_of(cfg),
        sixteen_bit=cfg.INPUT.SIXTEEN_BIT,
        leaves_out_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        limits={TRAIN: build_limits(cfg, is_training=True), VAL: build_limits(cfg)},
        mask_side=build_mask_side(cfg),
        iterations=0 if cfg.SOLVER.MAX_MINUTES > 0 else cfg.SOLVER.MAX_ITER,
        minutes=cfg.SOLVER.MAX_MINUTES,
        batch_size=cfg.SOLVER.IMS_PER_BATCH,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def sampled_rows(dataset: Dataset, count: int) -> tuple[int, ...]:
    """Rows of a sample of the images in which each class has about its share; fewer of huge images.

    Args:
        dataset: any.
        count: of images; 0 takes all.
    """
    pixels = sum(record.image_size[0] * record.image_size[1] for record in dataset.records) / max(len(dataset), 1)
    count = min(count, max(LEAST_READ, int(PIXELS_READ / max(pixels, 1))))
    if count <= 0 or len(dataset) <= count:
        return tuple(range(len(dataset)))
    units = units_of([dataset])
    kept = nested_subset(units, count / len(dataset), seed=0)
    return tuple(sorted(rows_of([units[number] for number in kept])))


def images_read(sides: Sequence[Side]) -> str:
    """How many images of the datasets were read, e.g. "500 of 2,000 images"; "all 40 images".

    Args:
        sides: any.
    """
    total, read = sum(len(side.dataset) for side in sides), sum(len(side.rows) for side in sides)
    return f"all {total:,} images" if read == total else f"{read:,} of {total:,} images"
