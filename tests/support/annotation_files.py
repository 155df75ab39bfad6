"""Datasets that are written in a format of annotation files and read again."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from mrcnn_zoo.data.annotations.contract import ReadOptions
from mrcnn_zoo.data.annotations.detection import find_format
from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.masks import segmentation_rle
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.ops import rle
from mrcnn_zoo.registries import ANNOTATION_FORMATS

SIZE = (40, 60)  # height, width of the images of `example_dataset`
TRIANGLE = [5.0, 5.0, 25.5, 8.0, 12.25, 30.0]
SQUARES = ([30.0, 2.0, 38.0, 2.0, 38.0, 10.0, 30.0, 10.0], [44.0, 2.0, 52.0, 2.0, 52.0, 10.0, 44.0, 10.0])


def save_image(path: Path, size: tuple[int, int] = SIZE) -> Path:
    """An image file of grey noise; its folder is created.

    Args:
        path: of the file.
        size: (height, width).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def ring() -> np.ndarray:
    """(40, 60) bitmap of a square of 12 pixels with a hole of 4 at its centre."""
    bitmap = np.zeros(SIZE, dtype=bool)
    bitmap[20:32, 40:52] = True
    bitmap[24:28, 44:48] = False
    return bitmap


def example_dataset(folder: Path, *, split: str = "") -> Dataset:
    """Two images: a triangle, two squares that are one object, a mask with a hole; and no object.

    Args:
        folder: where the image files are written.
        split: of the records.
    """
    squares = tuple(list(square) for square in SQUARES)
    instances = (
        InstanceRecord((5.0, 5.0, 25.5, 30.0), 1, segmentation=[TRIANGLE], annotation_id=1, score=0.75),
        InstanceRecord((30.0, 2.0, 52.0, 10.0), 0, segmentation=squares, annotation_id=2),
        InstanceRecord((40.0, 20.0, 52.0, 32.0), 1, segmentation=rle.encode(ring()), annotation_id=3),
    )
    prefix = f"{split}_" if split else ""
    files = [save_image(folder / f"{prefix}{name}.png") for name in ("first", "second")]
    records = [
        ImageRecord(number, FileImage(str(file)), SIZE, items, split=split)
        for number, file, items in zip((1, 2), files, (instances, ()), strict=True)
    ]
    return Dataset("example", tuple(records), ("cat", "dog"), (1, 2))


def boxes_and_crowd(dataset: Dataset) -> Dataset:
    """A dataset whose first image has a box without a mask and a region of uncounted objects instead.

    Args:
        dataset: of `example_dataset`.
    """
    box = InstanceRecord((5.5, 6.0, 30.0, 20.25), 0, annotation_id=1)
    crowd = InstanceRecord((5.0, 5.0, 25.5, 30.0), 1, segmentation=[TRIANGLE], annotation_id=2, is_crowd=True)
    return replace(dataset, records=(replace(dataset.records[0], instances=(box, crowd)), *dataset.records[1:]))


def write_dataset(
    format_name: str, parts: Mapping[str, Dataset], folder: Path, *, copies_images: bool = True
) -> DatasetWriter:
    """Write the parts of a dataset.

    Args:
        format_name: a registered one.
        parts: by side.
        folder: is created.
        copies_images: see `DatasetWriter`.
    """
    folder.mkdir(parents=True)
    records = (record for dataset in parts.values() for record in dataset.records)
    writer = DatasetWriter(records, copies_images=copies_images)
    ANNOTATION_FORMATS.get(format_name)().write(parts, folder, writer)
    return writer


def read_dataset(path: Path, *, format_name: str) -> Dataset:
    """The dataset of a folder or file whose format must be detected as the given one.

    Args:
        path: of the folder or file.
        format_name: the expected format.
    """
    kind, found = find_format(path, dataset="mine")
    assert kind.name == format_name
    return kind.read(found, ReadOptions("mine"))


def masks_of(record: ImageRecord) -> list[np.ndarray]:
    """(H, W) bitmaps of the objects with a segmentation, in their order."""
    segmentations = [item.segmentation for item in record.instances if item.segmentation is not None]
    return [rle.decode(segmentation_rle(item, record.image_size)) for item in segmentations]
