"""Records of images and of the objects in them, counts of repairs, and the choice of a validation set."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.errors import counted
from mrcnn_zoo.ops.rle import Rle
from mrcnn_zoo.structures import ImageSize
from mrcnn_zoo.structures.summary import summary

# Each x1 y1 x2 y2 ..., at least 3 points, pixels of the original image; lists of floats or arrays of float64.
Polygons = Sequence[Sequence[float]]


class ImageSource(Protocol):
    """Where the pixels of one image come from; picklable, so that loader processes can read it."""

    @property
    def name(self) -> str:
        """The file, or what stands for it in messages."""
        ...

    def read(self) -> NDArray[np.generic]:
        """(H, W, 3) RGB, EXIF rotation applied, or as many other channels as there are; uint8, uint16 or float32."""
        ...


@dataclass(frozen=True)
class InstanceRecord:
    """One annotated object."""

    box: tuple[float, float, float, float]  # x1 y1 x2 y2, pixels of the original image
    class_index: int  # in [0, K)
    segmentation: Polygons | Rle | None = None
    keypoints: tuple[float, ...] | None = None  # x y visibility, 3 J numbers; a pixel's middle is at one half
    is_crowd: bool = False
    area: float | None = None  # square pixels, decides small, medium or large in COCO's tables
    annotation_id: int = 0


@dataclass(frozen=True, repr=False)
class ImageRecord:
    """One image and what is in it."""

    image_id: int
    source: ImageSource
    image_size: ImageSize  # (height, width) of the original
    instances: tuple[InstanceRecord, ...] = ()

    def __repr__(self) -> str:
        return summary(self)


@dataclass(frozen=True, repr=False)
class Dataset:
    """Images with their annotations, classes numbered from 0 without gaps."""

    name: str
    records: tuple[ImageRecord, ...]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # class index -> the id that the source files and COCO results use
    keypoint_names: tuple[str, ...] = ()
    keypoint_flip_pairs: tuple[tuple[int, int], ...] | None = ()  # None: which change places in a mirror is not known
    keypoint_skeleton: tuple[tuple[int, int], ...] = ()  # pairs of rows that pictures connect by a line
    annotation_file: str = ""  # the COCO JSON it came from, if it did
    is_labelled: bool = True  # False for images without annotations, such as those of COCO's test server
    notes: tuple[str, ...] = field(default=())  # what was repaired or left out while reading, for the log

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return summary(self)

    def summary(self) -> str:
        """How much there is, e.g. "24 images, 827 objects, 1 class"; crowds are counted apart."""
        instances = [item for record in self.records for item in record.instances]
        num_crowds = sum(item.is_crowd for item in instances)
        parts = [counted(len(self.records), "image"), counted(len(instances) - num_crowds, "object")]
        parts += [counted(num_crowds, "crowd")] if num_crowds else []
        return ", ".join([*parts, counted(len(self.class_names), "class")])


class RepairLog:
    """Counts repairs by kind and remembers the first of each."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._firsts: dict[str, str] = {}

    def add(self, kind: str, where: Sequence[object] | NDArray[Any], *, name: str = "annotation") -> None:
        """Count repairs of one kind.

        Args:
            kind: what was wrong and what was done, e.g. "boxes outside their image left out".
            where: ids of what was repaired; may be empty.
            name: what the ids are of.
        """
        if len(where) == 0:
            return
        self._counts[kind] = self._counts.get(kind, 0) + len(where)
        self._firsts.setdefault(kind, f"{name} {where[0]}")

    def notes(self) -> tuple[str, ...]:
        """A line for each kind, with the count and the first case."""
        return tuple(f"{kind}: {count} (first: {self._firsts[kind]})" for kind, count in self._counts.items())


def choose_validation(strata: Mapping[str, str], fraction: float, *, seed: int = 0) -> set[str]:
    """Names of the images to validate on: a share of each stratum, chosen by a hash of the name.

    The choice depends on names, strata and seed alone, not on their order or the machine. The share is exact over all
    images; seats that whole numbers leave over go to the strata that are owed most (largest remainders).

    Args:
        strata: image name -> name of its stratum.
        fraction: of the images to validate on, 0 to 1.
        seed: another seed, another choice.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for name, stratum in strata.items():
        members[stratum].append(name)
    shares = {stratum: len(names) * fraction for stratum, names in members.items()}
    seats = {stratum: int(share) for stratum, share in shares.items()}
    left_over = int(len(strata) * fraction + 0.5) - sum(seats.values())
    owed = sorted(members, key=lambda stratum: (seats[stratum] - shares[stratum], stratum))
    for stratum in owed[:left_over]:
        seats[stratum] += 1
    chosen: set[str] = set()
    for stratum, names in members.items():
        chosen.update(sorted(names, key=lambda name: _digest(name, seed))[: seats[stratum]])
    return chosen


def _digest(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()
