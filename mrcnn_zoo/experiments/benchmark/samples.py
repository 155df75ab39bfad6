"""The images that models are measured on."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.class_count import class_count
from mrcnn_zoo.data.catalog import load_dataset
from mrcnn_zoo.data.classes import check_num_classes
from mrcnn_zoo.data.formats.coco_layout import find_coco_layout
from mrcnn_zoo.data.images import FileImage
from mrcnn_zoo.data.mapper import build_test_mapper, build_validation_mapper
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inspection.image_inputs import image_files
from mrcnn_zoo.structures import BoxedBitmaps, ImageSize, Sample, Targets

LARGEST_OBJECT = 0.5  # side of a generated object as a share of the image's shorter side
SMALLEST_OBJECT = 0.05


def generated_samples(
    count: int, *, image_size: ImageSize, num_classes: int, num_objects: int = 10, num_keypoints: int = 0, seed: int = 0
) -> list[Sample]:
    """Images of noise with coloured ellipses, in no need of files; the same for the same arguments on every machine.

    Args:
        count: images.
        image_size: (height, width) of all of them.
        num_classes: K; an object's class is random.
        num_objects: of each image.
        num_keypoints: J, placed inside each object and visible; 0 for targets without keypoints.
        seed: of the generator.
    """
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        boxes = _random_boxes(rng, image_size, num_objects)
        bitmaps = np.stack([_ellipse(box, image_size) for box in boxes])
        image = rng.integers(0, 80, (3, *image_size), dtype=np.uint8)
        for bitmap in bitmaps:
            image[:, bitmap] += rng.integers(20, 170, (3, 1), dtype=np.uint8)
        targets = Targets(
            image_size,
            torch.from_numpy(boxes.astype(np.float32)),
            torch.from_numpy(rng.integers(0, num_classes, num_objects)),
            masks=BoxedBitmaps.from_full(bitmaps),
            keypoints=_keypoints_inside(rng, boxes, num_keypoints) if num_keypoints else None,
        )
        samples.append(Sample(torch.from_numpy(image), number, image_size, targets, file_name=f"generated {number}"))
    return samples


def build_batches(
    cfg: CfgNode, images: str, *, num_batches: int, batch_size: int, is_training: bool
) -> list[list[Sample]]:
    """Batches resized as for testing (INPUT.MIN_SIZE_TEST, MAX_SIZE_TEST), whose results count in that size.

    Args:
        cfg: says how images are loaded.
        images: a dataset's name or a folder; empty takes the first of DATASETS.TEST.
        num_batches: at least 1.
        batch_size: at least 1.
        is_training: take images with objects only, and load these too.

    Raises:
        UserError: no dataset, more classes to train on than the model has, or fewer images than asked for.
    """
    dataset = build_dataset(cfg, images)
    if is_training and len(dataset.class_names) > (class_count(cfg) or 0) > 0:
        check_num_classes(cfg, dataset)  # a label beyond the last class cannot be trained on, not even for its time
    records = tuple(record for record in dataset.records if not is_training or _is_trainable(record))
    needed = num_batches * batch_size
    if len(records) < needed:
        raise UserError(
            f"{dataset.name} has {len(records)} images{' with objects' if is_training else ''}, the benchmark needs "
            f"{needed} ({num_batches} batches of {batch_size}). Ask for fewer, or name more images."
        )
    mapper = build_validation_mapper(cfg, dataset) if is_training else build_test_mapper(cfg)
    samples = [_in_its_own_size(mapper(record, np.random.default_rng(0))) for record in records[:needed]]
    return [samples[start : start + batch_size] for start in range(0, needed, batch_size)]


def build_dataset(cfg: CfgNode, images: str) -> Dataset:
    """The dataset of a name, of a COCO folder, or of a folder of images without annotations."""
    if not images:
        if not cfg.DATASETS.TEST:
            raise UserError("no images to measure on: name a dataset or a folder with --images, or set DATASETS.TEST.")
        return load_dataset(cfg, cfg.DATASETS.TEST[0])
    folder = Path(images)
    if folder.is_dir() and not _has_annotations(folder):
        return Dataset(images, tuple(_unlabelled(folder)), class_names=(), category_ids=())
    return load_dataset(cfg, images)


def _has_annotations(folder: Path) -> bool:
    try:
        find_coco_layout(folder)
    except UserError:
        return bool(list(folder.glob("*.json")))  # more than one: let the loader ask which
    return True


def _unlabelled(folder: Path) -> Iterator[ImageRecord]:
    for number, path in enumerate(image_files([folder]), start=1):
        source = FileImage(str(path))
        height, width = source.read().shape[:2]
        yield ImageRecord(image_id=number, source=source, image_size=(height, width))


def _is_trainable(record: ImageRecord) -> bool:
    return any(not instance.is_crowd and instance.segmentation is not None for instance in record.instances)


def _in_its_own_size(sample: Sample) -> Sample:
    """Both models report in the size they are given, so that neither scales masks to a size the other does not."""
    return replace(sample, original_size=sample.image_size)


def _random_boxes(rng: np.random.Generator, image_size: ImageSize, count: int) -> np.ndarray:
    """(R, 4) whole pixels inside the image."""
    shorter = min(image_size)
    sides = np.exp(rng.uniform(np.log(SMALLEST_OBJECT * shorter), np.log(LARGEST_OBJECT * shorter), (count, 2)))
    sides = np.ceil(sides) + 1
    starts = np.floor(rng.uniform(0, 1, (count, 2)) * (np.array(image_size[::-1]) - sides))
    return np.concatenate((starts, starts + sides), axis=1)


def _ellipse(box: np.ndarray, image_size: ImageSize) -> np.ndarray:
    """(H, W) bool, the pixels whose centres lie in the ellipse that fills the box."""
    rows, columns = np.ogrid[: image_size[0], : image_size[1]]
    (x, y), (radius_x, radius_y) = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    inside: np.ndarray = ((columns + 0.5 - x) / radius_x) ** 2 + ((rows + 0.5 - y) / radius_y) ** 2 <= 1
    return inside


def _keypoints_inside(rng: np.random.Generator, boxes: np.ndarray, count: int) -> Tensor:
    """(R, J, 3)."""
    shares = rng.uniform(0.1, 0.9, (len(boxes), count, 2))
    points = boxes[:, None, :2] + shares * (boxes[:, None, 2:] - boxes[:, None, :2])
    return torch.from_numpy(np.concatenate((points, np.full((len(boxes), count, 1), 2.0)), axis=2).astype(np.float32))
