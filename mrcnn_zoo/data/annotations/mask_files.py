"""Images whose objects are drawn in mask files: reading in parallel, and the records of what was read."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.images.stacks import StackPage
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord, RepairLog
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops import rle
from mrcnn_zoo.structures import ImageSize

READERS = 4  # threads; decoding releases the GIL

Files = TypeVar("Files")
Masks = TypeVar("Masks")


class ObjectMask(NamedTuple):
    """The mask of one object."""

    counts: str  # compressed run lengths
    box: tuple[int, int, int, int]  # x1, y1, x2, y2 in whole pixels
    area: int  # pixels
    name: str = ""  # its class, or its number in a label image


@dataclass(frozen=True)
class MaskedImage:
    """An image and the masks of its objects.

    Args:
        image: path of the image, relative to the root of the dataset.
        size: (height, width).
        objects: with at least one pixel each.
        empty_masks: mask files without a pixel set.
        overlapping_masks: mask files that share pixels with an earlier one.
        modality: the kind of image, for splits; "" if unknown.
        page: of a TIFF whose pages are images, from 0; None for the whole file.
        clipped: places of objects that reach outside the image.
    """

    image: str
    size: ImageSize
    objects: tuple[ObjectMask, ...]
    empty_masks: tuple[str, ...] = ()
    overlapping_masks: tuple[str, ...] = ()
    modality: str = ""
    page: int | None = None
    clipped: tuple[str, ...] = ()

    def as_json(self) -> list[Any]:
        """The fields as plain values for JSON, without the page and what is clipped."""
        return [self.image, self.size, self.objects, self.empty_masks, self.overlapping_masks, self.modality]

    @classmethod
    def from_json(cls, fields: Sequence[Any]) -> Self:
        """The inverse of `as_json`; JSON turns tuples into lists."""
        image, (height, width), objects, empty, overlapping, modality = fields
        masks = tuple(ObjectMask(counts, tuple(box), area, name) for counts, box, area, name in objects)
        return cls(image, (height, width), masks, tuple(empty), tuple(overlapping), modality)


def read_masks(files: Sequence[Files], read: Callable[[Files], Masks]) -> list[Masks]:
    """The masks of a dataset, in the order of `files`.

    Args:
        files: of each image file.
        read: reads the masks of one image file.

    Raises:
        UserError: of `read`.
    """
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(read, files))


def masked_record(
    image: MaskedImage,
    path: Path,
    *,
    image_id: int,
    annotation_ids: "count[int]",
    classify: Callable[[ObjectMask], tuple[int, float | None]],
    split: str = "",
    stratum: str = "",
) -> ImageRecord:
    """The record of an image. Masks of files are valid and need none of the checks of `build_dataset`.

    Args:
        image: as read.
        path: of the image file.
        image_id: of the record.
        annotation_ids: counts through the objects of the dataset.
        classify: class index of an object, and its score if it is a prediction.
        split: the side of the image.
        stratum: the kind of image, of which a split that is made has equal shares.
    """
    size = list(image.size)
    instances = []
    for item in image.objects:
        x1, y1, x2, y2 = item.box
        class_index, score = classify(item)
        instances.append(
            InstanceRecord(
                box=(float(x1), float(y1), float(x2), float(y2)),
                class_index=class_index,
                segmentation={"size": size, "counts": item.counts},
                area=float(item.area),
                annotation_id=next(annotation_ids),
                score=score,
            )
        )
    source = FileImage(str(path)) if image.page is None else StackPage(str(path), image.page)
    return ImageRecord(image_id, source, image.size, tuple(instances), split=split, stratum=stratum)


def masked_dataset(
    name: str, records: Sequence[ImageRecord], class_names: Sequence[str], *, repairs: RepairLog
) -> Dataset:
    """The dataset of records that `masked_record` has made.

    Args:
        name: of the dataset.
        records: of all images.
        class_names: in the order of the class indices.
        repairs: counts what was left out.

    Raises:
        UserError: no image, or no object in any.
    """
    if not any(record.instances for record in records):
        raise UserError(
            f"dataset {name!r}: there is no object in the masks of its {len(records)} images, so nothing can be "
            "learned."
        )
    return Dataset(
        name=name,
        records=tuple(records),
        class_names=tuple(class_names),
        category_ids=tuple(range(1, len(class_names) + 1)),
        notes=repairs.notes(),
    )


def add_mask_repairs(repairs: RepairLog, images: Sequence[MaskedImage]) -> None:
    """Count the empty and the overlapping mask files of some images.

    Args:
        repairs: of the dataset.
        images: as read.
    """
    for image in images:
        repairs.add("empty mask files left out", image.empty_masks, name="file")
    for image in images:
        repairs.add("masks that overlap another kept as they are", image.overlapping_masks, name="file")


def paint_labels(
    record: ImageRecord, instances: Mapping[int, InstanceRecord], writer: DatasetWriter
) -> tuple[NDArray[np.int32], set[int], set[int]]:
    """The label image of some objects; in front is the highest score or the smallest area.

    Args:
        record: with the size of the image.
        instances: by their numbers in the label image.
        writer: gives the masks.

    Returns:
        (H, W), the numbers of the objects without a visible pixel, and those of objects in part behind others.
    """
    masks = {number: writer.mask(record, item) for number, item in instances.items()}
    areas = {number: rle.area(mask) for number, mask in masks.items()}
    labels = np.zeros(record.image_size, dtype=np.int32)
    for number in sorted(masks, key=lambda number: (instances[number].score or 0.0, -areas[number])):
        window = rle.decode_window(masks[number])
        if window is not None:
            height, width = window.bitmap.shape
            labels[window.y : window.y + height, window.x : window.x + width][window.bitmap != 0] = number
    visible = np.bincount(labels.reshape(-1), minlength=max(masks, default=0) + 1)
    hidden = {number for number in masks if visible[number] == 0}
    cut = {number for number in masks if 0 < visible[number] < areas[number]}
    return labels, hidden, cut
