"""Writing of datasets: image files, polygons and masks for the writers of all formats, and counts of what was lost."""

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray
from PIL import Image

from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.masks import segmentation_rle
from mrcnn_zoo.data.records import ImageRecord, InstanceRecord, RepairLog
from mrcnn_zoo.data.splits import relative_names
from mrcnn_zoo.ops import rle
from mrcnn_zoo.ops.rle import Rle

MAX_NAME = 200  # characters


@dataclass(frozen=True)
class Outline:
    """One connected region of an object.

    Args:
        points: (N, 2) x, y of the outer border, without the first point at the end.
        holes: each (M, 2).
    """

    points: NDArray[np.float64]
    holes: tuple[NDArray[np.float64], ...] = ()


class DatasetWriter:
    """Serves the writers of all formats.

    Args:
        records: of all parts; their image files get distinct names.
        tolerance: in pixels, by which outlines of masks may differ from the mask to have fewer points.
        copies_images: whether images are copied into the written folder; otherwise annotations name the original files.
    """

    def __init__(self, records: Iterable[ImageRecord], *, tolerance: float = 0.0, copies_images: bool = True) -> None:
        self.lost = RepairLog("object")
        self.tolerance = tolerance
        self.copies_images = copies_images
        self._stems = _distinct_stems(list(records))

    def stem(self, record: ImageRecord) -> str:
        """The name of a record's image without its ending; distinct in the whole dataset.

        Args:
            record: of one of the parts.
        """
        return self._stems[id(record)]

    def place_image(self, record: ImageRecord, folder: Path) -> str:
        """Copy an image into a folder, which is created; images that are no files are written as PNG or TIFF.

        Args:
            record: of one of the parts.
            folder: below the folder of the dataset.

        Returns:
            The name of its file in the folder; the path of the original, relative to the folder, without copies.

        Raises:
            UserError: an image that cannot be read.
        """
        if not self.copies_images:
            return os.path.relpath(record.source.name, folder)
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(record.source, FileImage):
            name = f"{self.stem(record)}{Path(record.source.path).suffix}"
            shutil.copyfile(record.source.path, folder / name)
            return name
        name = f"{self.stem(record)}.png"
        Image.fromarray(np.asarray(record.source.read())).save(folder / name, compress_level=1)
        return name

    def outlines(self, record: ImageRecord, instance: InstanceRecord) -> list[Outline]:
        """The regions of an object: its polygons where it has some, else the borders of its mask, else of its box.

        Rasterised as COCO's polygons, holes taken out, the outlines of a mask give the mask again.

        Args:
            record: with the size of the image.
            instance: of the record.
        """
        if instance.segmentation is not None and not isinstance(instance.segmentation, dict):
            return [Outline(np.asarray(polygon, dtype=np.float64).reshape(-1, 2)) for polygon in instance.segmentation]
        if instance.segmentation is None:
            x1, y1, x2, y2 = instance.box
            return [Outline(np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]))]
        window = rle.decode_window(self.mask(record, instance))
        if window is None:
            return []
        shift = np.array([window.x, window.y])
        return [
            Outline(region.points + shift, tuple(hole + shift for hole in region.holes))
            for region in outlines_of_mask(window.bitmap)
        ]

    def polygons(self, record: ImageRecord, instance: InstanceRecord) -> list[list[float]]:
        """The outlines of an object without holes, which are counted in `lost`; each x1, y1, x2, y2, ...

        Args:
            record: with the size of the image.
            instance: of the record.
        """
        regions = self.outlines(record, instance)
        holes = sum(len(region.holes) for region in regions)
        if holes:
            self.lost.add("holes of polygons filled", [self.place_of(record, instance)] * holes)
        return [region.points.ravel().tolist() for region in regions]

    def mask(self, record: ImageRecord, instance: InstanceRecord) -> Rle:
        """The mask of an object as compressed run lengths; that of its box where it has none.

        Args:
            record: with the size of the image.
            instance: of the record.
        """
        if instance.segmentation is not None:
            return segmentation_rle(instance.segmentation, record.image_size)
        x1, y1, x2, y2 = instance.box
        return rle.encode_polygons([[x1, y1, x2, y1, x2, y2, x1, y2]], record.image_size)

    def place_of(self, record: ImageRecord, instance: InstanceRecord) -> str:
        """An object for messages: "photo_1, annotation 12".

        Args:
            record: of one of the parts.
            instance: of the record.
        """
        return f"{self.stem(record)}, annotation {instance.annotation_id}"


def outlines_of_mask(mask: NDArray[np.generic]) -> list[Outline]:
    """The borders of the connected regions of a mask, with their holes.

    Args:
        mask: (H, W).
    """
    padded = np.pad(np.asarray(mask, dtype=np.float64), 1)
    lines = contour_generator(z=padded, fill_type=FillType.OuterOffset).filled(0.5, np.inf)
    regions = []
    for points, offsets in zip(*lines, strict=True):
        rings = [points[start : end - 1] - 0.5 for start, end in pairwise(offsets.tolist())]
        regions.append(Outline(rings[0], tuple(rings[1:])))
    return regions


def _distinct_stems(records: Sequence[ImageRecord]) -> dict[int, str]:
    """A name per record: that of its file, with its folders where several files have it, else with its id."""
    paths = {
        id(record): Path(name).with_suffix("") for record, name in zip(records, relative_names(records), strict=True)
    }
    found: dict[int, str] = {}
    taken: set[str] = set()
    for record in records:
        path = paths[id(record)]
        parts = [re.sub(r"[^\w.-]+", "_", part) for part in path.parts]
        names = ["_".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]
        name = next((name for name in names if name and name not in taken), f"{names[0]}_{record.image_id}")
        taken.add(name)
        found[id(record)] = name[-MAX_NAME:]
    return found
