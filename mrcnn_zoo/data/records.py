"""Records of images and annotated objects, datasets of them, and counts of repairs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.errors import counted
from mrcnn_zoo.ops.rle import Rle
from mrcnn_zoo.structures import ImageSize
from mrcnn_zoo.structures.summary import summary

# Each x1 y1 x2 y2 ..., 3 points or more, pixels of the original image; lists of floats or float64 arrays.
Polygons = Sequence[Sequence[float]]


class ImageSource(Protocol):
    """The source of an image's pixels; picklable, for loader processes."""

    @property
    def name(self) -> str:
        """The path, or another name for messages."""
        ...

    def read(self) -> NDArray[np.generic]:
        """(H, W, 3) RGB, upright, or (H, W, C) of other channels; uint8, uint16 or float32."""
        ...


@dataclass(frozen=True)
class InstanceRecord:
    """One annotated object."""

    box: tuple[float, float, float, float]  # x1 y1 x2 y2, pixels of the original image
    class_index: int  # in [0, K)
    segmentation: Polygons | Rle | None = None
    keypoints: tuple[float, ...] | None = None  # x y visibility of J keypoints; pixel centres are at one half
    is_crowd: bool = False
    area: float | None = None  # square pixels; selects small, medium or large in COCO's tables
    annotation_id: int = 0
    score: float | None = None  # of a prediction, in [0, 1]


def filling_object(image_size: ImageSize, class_index: int, *, annotation_id: int) -> InstanceRecord:
    """The only object of an image, as large as the image.

    Args:
        image_size: (height, width).
        class_index: in [0, K).
        annotation_id: of the object.
    """
    height, width = map(float, image_size)
    return InstanceRecord((0.0, 0.0, width, height), class_index, area=height * width, annotation_id=annotation_id)


@dataclass(frozen=True, slots=True)
class FederatedLabels:
    """Classes of an image of which more is known than its objects, where not every class is annotated in every image.

    Source: Gupta et al. 2019 (LVIS), section 3.
    """

    absent: tuple[int, ...] = ()  # indices of classes without any object in the image
    incomplete: tuple[int, ...] = ()  # indices of classes with objects in the image that are not annotated

    def mapped(self, places: Sequence[int]) -> "FederatedLabels":
        """The same of other classes; merged ones are absent where all of them are, incomplete where one is.

        Args:
            places: new index of each class; -1 leaves it out.
        """
        counts = Counter(places[index] for index in self.absent)
        absent = {place for place, count in counts.items() if count == places.count(place)} - {-1}
        incomplete = {places[index] for index in self.incomplete} - {-1}
        return FederatedLabels(tuple(sorted(absent)), tuple(sorted(incomplete)))


@dataclass(frozen=True, repr=False)
class ImageRecord:
    """One image and its annotated objects."""

    image_id: int
    source: ImageSource
    image_size: ImageSize  # (height, width) of the original
    instances: tuple[InstanceRecord, ...] = ()
    split: str = ""  # "train", "val" or "test" where the annotation files have sides
    stratum: str = ""  # the kind of image, of which the sides of a split have equal shares; "" if unknown
    federated: FederatedLabels | None = None  # None: all objects of all classes are annotated

    def __repr__(self) -> str:
        return summary(self)


@dataclass(frozen=True, repr=False)
class Dataset:
    """Images with annotations, and the classes, numbered from 0 without gaps."""

    name: str
    records: tuple[ImageRecord, ...]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # class index -> id in annotation and result files
    keypoint_names: tuple[str, ...] = ()
    keypoint_flip_pairs: tuple[tuple[int, int], ...] | None = ()  # rows that a mirror exchanges; None: unknown
    keypoint_skeleton: tuple[tuple[int, int], ...] = ()  # pairs of rows connected in pictures
    annotation_file: str = ""  # the COCO JSON, if there is one
    class_frequencies: tuple[str, ...] = ()  # of LVIS: "r", "c" or "f" per class; empty in other datasets
    is_labelled: bool = True  # False: images without annotations, such as those of COCO's test server
    format_name: str = ""  # of the annotation files, as in FORMAT
    notes: tuple[str, ...] = field(default=())  # repairs and omissions while reading, for the log

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return summary(self)

    def summary(self) -> str:
        """The counts, e.g. "24 images, 827 objects, 1 class"; crowds are counted separately."""
        instances = [item for record in self.records for item in record.instances]
        num_crowds = sum(item.is_crowd for item in instances)
        parts = [counted(len(self.records), "image"), counted(len(instances) - num_crowds, "object")]
        parts += [counted(num_crowds, "crowd")] if num_crowds else []
        return ", ".join([*parts, counted(len(self.class_names), "class")])


class RepairLog:
    """Counts repairs by kind and keeps the first of each.

    Args:
        element: the usual kind of element.
    """

    def __init__(self, element: str = "annotation") -> None:
        self.element = element
        self._counts: dict[str, int] = {}
        self._firsts: dict[str, str] = {}

    def add(self, kind: str, where: Sequence[object] | NDArray[Any], *, name: str = "") -> None:
        """Count repairs of one kind.

        Args:
            kind: the problem and the repair, e.g. "boxes outside their image left out".
            where: ids of the repaired elements; may be empty.
            name: the kind of element, if not the usual one.
        """
        if len(where) == 0:
            return
        self._counts[kind] = self._counts.get(kind, 0) + len(where)
        self._firsts.setdefault(kind, f"{name or self.element} {where[0]}")

    def notes(self) -> tuple[str, ...]:
        """One line per kind, with the count and the first case."""
        return tuple(f"{kind}: {count} (first: {self._firsts[kind]})" for kind, count in self._counts.items())
