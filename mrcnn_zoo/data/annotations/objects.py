"""Objects as annotation files have them, and the dataset that is built from them: checks and repairs of all formats."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, overload

import numpy as np

from mrcnn_zoo.data.annotations.boxes import read_boxes
from mrcnn_zoo.data.annotations.segmentations import SegmentationReader
from mrcnn_zoo.data.field_rules import ColumnReader, parse_number
from mrcnn_zoo.data.records import Dataset, ImageRecord, ImageSource, InstanceRecord, Polygons, RepairLog
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops.rle import Rle
from mrcnn_zoo.structures import ImageSize


@dataclass(frozen=True, slots=True)
class AnnotatedObject:
    """One object, in pixels of the upright image, where the centre of the first pixel is (0.5, 0.5).

    Args:
        class_name: one of the dataset's.
        where: its place in the annotation file, for messages: "line 3", "shape 2".
        segmentation: polygons, which are united, each x1, y1, x2, y2, ...; or run lengths of the image's size; None for
            an object that has a box alone.
        box: x1, y1, x2, y2; None takes the box around the segmentation.
        is_crowd: a region of uncounted objects.
        score: of a prediction, in [0, 1].
    """

    class_name: str
    where: str
    segmentation: Polygons | Rle | None = None
    box: Sequence[float] | None = None
    is_crowd: bool = False
    score: float | None = None


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """One image and its objects.

    Args:
        source: of the pixels, usually a `FileImage`.
        image_size: (height, width) of the upright image.
        objects: may be empty.
        annotation_file: for messages.
        split: "train", "val" or "test" where the format has sides; else "".
    """

    source: ImageSource
    image_size: ImageSize
    objects: Sequence[AnnotatedObject]
    annotation_file: str = ""
    split: str = ""


class _Places(Sequence[str]):
    """The place of each object, put together where a message needs it."""

    def __init__(self, images: Sequence[AnnotatedImage]) -> None:
        self.images = images
        self.ends = np.array(list(accumulate(len(image.objects) for image in images)), dtype=np.int64)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[str]: ...
    def __getitem__(self, row: int | slice) -> str | Sequence[str]:
        if isinstance(row, slice):
            return [self[place] for place in range(*row.indices(len(self)))]
        number = int(np.searchsorted(self.ends, row, side="right"))
        image = self.images[number]
        start = int(self.ends[number]) - len(image.objects)
        return f"{image.annotation_file or image.source.name}, {image.objects[row - start].where}"


def build_dataset(
    name: str,
    images: Sequence[AnnotatedImage],
    class_names: Sequence[str],
    *,
    repairs: RepairLog,
    needs_masks: bool = True,
) -> Dataset:
    """A dataset of annotated images, with the checks and repairs of COCO's reader.

    Boxes and polygons are clipped to the image or left out; images are numbered from 1 in their order.

    Args:
        name: of the dataset.
        images: in the order of the files.
        class_names: of all objects, in the order of the class indices.
        repairs: counts repairs.
        needs_masks: whether unreadable segmentations are errors; otherwise their objects keep the box alone.

    Raises:
        UserError: no image, no class, or an object that can be neither read nor repaired.
    """
    if not images:
        raise UserError(f"dataset {name!r}: there is no annotated image.")
    if not class_names:
        file = f" ({images[0].annotation_file})" if images[0].annotation_file else ""
        raise UserError(
            f"dataset {name!r}: there is no object in its {len(images)} images{file}, so nothing can be learned."
        )
    index_of = {class_name: index for index, class_name in enumerate(class_names)}
    objects = [item for image in images for item in image.objects]
    sizes = [image.image_size for image in images for _ in image.objects]
    reader = ColumnReader(f"dataset {name!r}", "annotations", _Places(images), repairs=repairs)
    raw = [item.segmentation for item in objects]
    segmentations = SegmentationReader(reader, sizes, is_strict=needs_masks).read(raw)
    around = segmentations.boxes.tolist()
    raw_boxes = [_as_coco_box(item.box, around[row]) for row, item in enumerate(objects)]
    boxes = read_boxes(raw_boxes, segmentations, sizes, reader=reader, needs_masks=needs_masks)
    is_usable: list[bool] = np.all(np.isfinite(boxes), axis=1).tolist()
    corners: list[list[float]] = boxes.tolist()
    records, row = [], 0
    for number, image in enumerate(images, start=1):
        instances = []
        for item in image.objects:
            if is_usable[row]:
                instances.append(
                    InstanceRecord(
                        box=tuple(corners[row]),  # type: ignore[arg-type]
                        class_index=index_of[item.class_name],
                        segmentation=segmentations.values[row],  # type: ignore[arg-type]
                        is_crowd=item.is_crowd,
                        annotation_id=row + 1,
                        score=item.score,
                    )
                )
            row += 1
        records.append(ImageRecord(number, image.source, image.image_size, tuple(instances), split=image.split))
    return Dataset(
        name=name,
        records=tuple(records),
        class_names=tuple(class_names),
        category_ids=tuple(range(1, len(class_names) + 1)),
        notes=repairs.notes(),
    )


def read_score(value: Any, *, place: str, repairs: RepairLog) -> float | None:
    """The score of a prediction; None without one. Values that are no scores are counted.

    Args:
        value: as in the file.
        place: of the object, for messages.
        repairs: counts what is left out.
    """
    score = parse_number(value)
    if value is None or (not isinstance(score, bool) and isinstance(score, int | float) and 0 <= score <= 1):
        return None if value is None else float(score)
    repairs.add("scores that are not numbers from 0 to 1 left out", [place])
    return None


def _as_coco_box(box: Sequence[float] | None, around: Sequence[float]) -> Any:
    """x, y, width, height of a box, else of the one around the segmentation; None if there is neither."""
    x1, y1, x2, y2 = around if box is None else box
    return None if math.isnan(x1) and box is None else [x1, y1, x2 - x1, y2 - y1]


def class_names_of(images: Sequence[AnnotatedImage]) -> tuple[str, ...]:
    """The sorted names of all classes with objects, for formats without a list of classes.

    Args:
        images: of all sides of a dataset, so that the sides have the same classes.
    """
    return tuple(sorted({item.class_name for image in images for item in image.objects}))
