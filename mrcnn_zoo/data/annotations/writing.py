"""Writing of datasets: image files, polygons and masks for the writers of all formats, and counts of what was lost."""

import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from mrcnn_zoo.data.images.arrays import as_pixels
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.images.writing import write_pixels
from mrcnn_zoo.data.loading.mapper import check_size
from mrcnn_zoo.data.masks import segmentation_rle
from mrcnn_zoo.data.records import ImageRecord, InstanceRecord, RepairLog
from mrcnn_zoo.data.splits import relative_names
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops import rle
from mrcnn_zoo.ops.outlines import Outline, outlines_of_mask
from mrcnn_zoo.ops.rle import Rle

__all__ = ["DatasetWriter", "Outline", "distinct_stems"]

MAX_NAME = 200  # bytes of a file name without its ending
FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]+')  # in names of files on Windows or elsewhere


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
        self._records = list(records)  # kept, because names are found by the identity of a record
        self._stems = dict(zip(map(id, self._records), distinct_stems(self._records), strict=True))

    def stem(self, record: ImageRecord) -> str:
        """The name of a record's image without its ending; distinct in the whole dataset.

        Args:
            record: of one of the parts.
        """
        return self._stems[id(record)]

    def place_image(self, record: ImageRecord, folder: Path) -> str:
        """Copy an image file as it is into a folder, which is created; other images are written as PNG or TIFF.

        Args:
            record: of one of the parts.
            folder: below the folder of the dataset.

        Returns:
            The name of its file in the folder; the path of the original, relative to the folder, without copies.

        Raises:
            UserError: an image that cannot be read.
        """
        source = record.source
        if not isinstance(source, FileImage):
            folder.mkdir(parents=True, exist_ok=True)
            pixels = as_pixels(source.read(), source.name)
            check_size(record, pixels)
            return write_pixels(pixels, folder, self.stem(record))
        if not self.copies_images:
            return os.path.relpath(source.path, folder).replace(os.sep, "/")
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{self.stem(record)}{Path(source.path).suffix}"
        try:
            shutil.copyfile(source.path, folder / name)
        except FileNotFoundError as error:
            raise UserError(f"the image {source.path} is missing; copy it there, or remove its annotations.") from error
        return name

    def outlines(self, record: ImageRecord, instance: InstanceRecord) -> list[Outline]:
        """The regions of an object: its polygons where it has some, else the borders of its mask, else of its box.

        Rasterised as COCO's polygons, holes taken out, the outlines of a mask are the mask again (without tolerance).

        Args:
            record: with the size of the image.
            instance: of the record.
        """
        if instance.segmentation is not None and not isinstance(instance.segmentation, dict):
            return [Outline(np.asarray(polygon, dtype=np.float64).reshape(-1, 2)) for polygon in instance.segmentation]
        if instance.segmentation is not None:
            window = rle.decode_window(instance.segmentation)
            if window is not None:
                return outlines_of_mask(window.bitmap, left=window.x, top=window.y, tolerance=self.tolerance)
            self.lost.add("empty masks replaced by their box", [self.place_of(record, instance)])
        x1, y1, x2, y2 = instance.box
        return [Outline(np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]))]

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
        """The mask of an object as compressed run lengths; of its box where it has none, which is counted in `lost`.

        Args:
            record: with the size of the image.
            instance: of the record.
        """
        if instance.segmentation is not None:
            return segmentation_rle(instance.segmentation, record.image_size)
        self.lost.add("boxes written as masks", [self.place_of(record, instance)])
        x1, y1, x2, y2 = instance.box
        return rle.encode_polygons([[x1, y1, x2, y1, x2, y2, x1, y2]], record.image_size)

    def place_of(self, record: ImageRecord, instance: InstanceRecord) -> str:
        """An object for messages: "photo_1, annotation 12".

        Args:
            record: of one of the parts.
            instance: of the record.
        """
        return f"{self.stem(record)}, annotation {instance.annotation_id}"


def distinct_stems(records: Sequence[ImageRecord]) -> list[str]:
    """A file name without its ending per image: that of its file, as far as it is distinct.

    Images that are no files have the name of the attribute `stem` of their source, else their id in 12 digits.
    Files of the same name have the parts of their paths in which they differ, too: `a/images/1.png` and
    `b/images/1.png` become `a_1` and `b_1`. Upper and lower case are the same.

    Args:
        records: of one or several datasets.
    """
    parts = [_path_parts(record, name) for record, name in zip(records, relative_names(records), strict=True)]
    members: dict[str, list[int]] = defaultdict(list)
    for row, (*_, stem, _) in enumerate(parts):
        members[stem.casefold()].append(row)
    stems = [""] * len(records)
    taken: set[str] = set()
    for rows in sorted(members.values(), key=len):  # names of one file alone come first, and stay as they are
        for row, name in zip(rows, _differing([parts[row] for row in rows]), strict=True):
            number, stem = 1, _shortened(name)
            while stem.casefold() in taken:
                number += 1
                stem = f"{_shortened(name)}_{number}"
            taken.add(stem.casefold())
            stems[row] = stem
    return stems


def _path_parts(record: ImageRecord, relative_name: str) -> tuple[str, ...]:
    """The folders, the name without ending, and the ending of an image."""
    path = PurePosixPath(relative_name)
    if isinstance(record.source, FileImage):
        stem, suffix = path.stem, path.suffix
    else:
        stem, suffix = getattr(record.source, "stem", "") or f"{record.image_id:012d}", ""
    *folders, stem, suffix = (FORBIDDEN.sub("_", part) for part in (*path.parts[:-1], stem, suffix))
    return (*folders, stem.strip(" .") or "image", suffix.removeprefix("."))


def _differing(paths: Sequence[tuple[str, ...]]) -> list[str]:
    """Names of several files whose own names, the endings aside, are equal: with their folders, as few as possible."""
    if len(paths) == 1:
        return [paths[0][-2]]
    folders = [path[:-2] for path in paths]
    depth = max(map(len, folders))
    rows = [path + ("",) * (depth - len(path)) for path in folders]
    differs = [len({row[column].casefold() for row in rows}) > 1 for column in range(depth)]
    names = [path[-2] for path in paths]
    for number in range(1, depth + 1):
        chosen = [
            [part for part, is_used in zip(row[:number], differs, strict=False) if part and is_used] for row in rows
        ]
        names = ["_".join([*parts, path[-2]]) for parts, path in zip(chosen, paths, strict=True)]
        if len({name.casefold() for name in names}) == len(names):
            return names
    has_endings = len({path[-1].casefold() for path in paths}) > 1
    return [f"{name}_{path[-1]}" if has_endings else name for name, path in zip(names, paths, strict=True)]


def _shortened(name: str) -> str:
    return name.encode()[-MAX_NAME:].decode(errors="ignore")
