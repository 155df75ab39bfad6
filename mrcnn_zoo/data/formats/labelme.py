"""labelme's format: one JSON file per image; also the files of AnyLabeling and X-AnyLabeling."""

import base64
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from mrcnn_zoo.data.annotations.contract import AnnotationFormat, Annotations, Found, ReadOptions
from mrcnn_zoo.data.annotations.json_files import read_json
from mrcnn_zoo.data.annotations.listing import FileListing, ImageFinder, side_of_folders
from mrcnn_zoo.data.annotations.loading import annotation_format
from mrcnn_zoo.data.annotations.objects import AnnotatedImage, AnnotatedObject, class_names_of, read_score
from mrcnn_zoo.data.annotations.shapes import box_around, box_polygon, ellipse_polygon, placed_mask, united
from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.field_rules import short_repr
from mrcnn_zoo.data.images.embedded import EmbeddedImage, open_base64
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.paths import image_file_size
from mrcnn_zoo.data.records import Dataset, ImageRecord, ImageSource, InstanceRecord, RepairLog
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.ops import rle
from mrcnn_zoo.ops.rle import Rle
from mrcnn_zoo.structures import ImageSize

VERSION = "5.5.0"  # that is written
FILES_EXAMINED = 16
SHAPES = re.compile(r'"shapes"\s*:\s*\[')
OTHER_KEYS = re.compile(r'"(version|flags|imagePath|imageData|lineColor)"\s*:')
CLASS_FILE = "labels.txt"  # labelme's option --labels; gives the order of the classes
NO_CLASSES = ("__ignore__", "_background_")  # its first lines by convention
CROWD_FLAG = "crowd"
POLYGONS = ("polygon", "oriented_rectangle", "rotation", "quadrilateral")  # the last two are X-AnyLabeling's
LINES = ("line", "linestrip", "point", "points")
KNOWN = (*POLYGONS, "rectangle", "circle", "mask", *LINES)


@dataclass(frozen=True)
class _Part:
    """One shape: a polygon, a box or a mask."""

    label: str
    where: str
    polygon: list[float] | None = None
    box: list[float] | None = None
    mask: Rle | None = None
    score: float | None = None
    is_crowd: bool = False


@annotation_format("labelme")
class LabelmeFormat(AnnotationFormat):
    """labelme's JSON files, versions 3 to 6."""

    title = "labelme JSON, one file per image"
    looked_for = "*.json files with 'shapes' and 'imagePath', one per image"

    def find(self, listing: FileListing) -> Found | None:
        """JSON files by the folders of sides; some of them are examined."""
        names = listing.with_suffix(".json")
        examined = names[:: max(1, len(names) // FILES_EXAMINED)][:FILES_EXAMINED]
        if not any(_is_labelme(listing, name) for name in examined):
            return None
        sides: dict[str, list[str]] = {}
        for name in names:
            sides.setdefault(side_of_folders(name), []).append(name)
        return Found(listing, sides, counted(len(names), "JSON file"))

    def read_images(self, found: Found, options: ReadOptions) -> Annotations:
        """The images with a JSON file; others are left out and counted."""
        reader = _Reader(found, options)
        images = list(reader.images())
        reader.finder.check()
        if not found.listing.file:
            left_out = sorted(reader.finder.paths - reader.used)
            reader.repairs.add("images without an annotation file left out", left_out, name="image")
        return Annotations(images, _ordered(class_names_of(images), found.listing), reader.repairs)

    def write(self, parts: Mapping[str, Dataset], folder: Path, writer: DatasetWriter) -> None:
        """A JSON beside each image, in a folder per side, and labels.txt with the classes."""
        for side, dataset in parts.items():
            target = folder / side
            target.mkdir(parents=True, exist_ok=True)
            for record in dataset.records:
                content = _content(record, writer.place_image(record, target), dataset.class_names, writer)
                text = json.dumps(content, indent=2, ensure_ascii=False)
                (target / f"{writer.stem(record)}.json").write_text(text, encoding="utf-8")
            (folder / CLASS_FILE).write_text("".join(f"{name}\n" for name in dataset.class_names), encoding="utf-8")


def _is_labelme(listing: FileListing, name: str) -> bool:
    start = listing.head(name)
    if SHAPES.search(start):
        return bool(OTHER_KEYS.search(start) or OTHER_KEYS.search(listing.tail(name)))
    if not re.search(r'"image(Data|Path)"\s*:', start):
        return False
    content = listing.json(name)  # other tools sort the keys: shapes come after the image
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def _ordered(class_names: Sequence[str], listing: FileListing) -> Sequence[str]:
    """The classes in the order of labels.txt, where that has all of them."""
    lines = listing.head(CLASS_FILE, 1 << 20).splitlines() if CLASS_FILE in listing.files else []
    names = list(dict.fromkeys(line.strip() for line in lines if line.strip() and line.strip() not in NO_CLASSES))
    return names if set(class_names) <= set(names) else class_names


class _Reader:
    """Reads the files of a dataset."""

    def __init__(self, found: Found, options: ReadOptions) -> None:
        self.found = found
        self.root = found.listing.root
        self.finder = ImageFinder(options.images or found.listing)
        self.repairs = RepairLog("object")
        self.used: set[str] = set()

    def images(self) -> Iterator[AnnotatedImage]:
        for side, names in self.found.splits.items():
            for name in names:
                image = self._read(name, side)
                if image is not None:
                    yield image

    def _read(self, name: str, side: str) -> AnnotatedImage | None:
        """An image with its objects; None for a JSON of another kind and for a missing image."""
        path = self.root / name
        content = read_json(path)
        if not isinstance(content, dict) or not content.keys() & {"shapes", "imagePath", "imageData"}:
            self.repairs.add("JSON files of another kind left out", [name], name="file")
            return None
        shapes = content.get("shapes")
        if not isinstance(shapes, list):
            raise UserError(
                f"{path}: 'shapes' is {short_repr(shapes)}, which must be a list of shapes. Save the file again in "
                "labelme, or remove it."
            )
        source = self._source(name, content)
        if source is None:
            return None
        size = self._size(path, content, source)
        parts = [_Shape(path, number, shape, size).read(self.repairs) for number, shape in enumerate(shapes)]
        groups: dict[Any, list[_Part]] = {}
        for shape, part in zip(shapes, parts, strict=True):
            if part is not None:
                group = shape.get("group_id")
                groups.setdefault((part.label, part.where if group is None else str(group)), []).append(part)
        objects = [_united(group, size) for group in groups.values()]
        return AnnotatedImage(source, size, objects, annotation_file=str(path), split=side)

    def _source(self, name: str, content: Mapping[str, Any]) -> ImageSource | None:
        """The image that the file names, else the one with the file's own name, else the embedded one."""
        folder = str(PurePosixPath(name).parent)
        near = "" if folder == "." else folder
        image_path = content.get("imagePath")
        found = ""
        if isinstance(image_path, str) and image_path.strip():
            found = self.finder.find(image_path, near=near)
        found = found or self.finder.find(PurePosixPath(name).name, near=near)
        if found:
            self.used.add(found)
            return FileImage(str(self.finder.root / found))
        if content.get("imageData"):
            self.repairs.add("images without a file read from the imageData of the JSON", [name], name="file")
            return EmbeddedImage(str(self.root / name), "imageData")
        self.finder.require(str(image_path or PurePosixPath(name).stem), near=near, listed_in=name)
        return None

    def _size(self, path: Path, content: Mapping[str, Any], source: ImageSource) -> ImageSize:
        sides = [content.get(key) for key in ("imageHeight", "imageWidth")]
        if all(side in (None, 0) for side in sides):
            if isinstance(source, FileImage):
                return image_file_size(Path(source.path))
            height, width = source.read().shape[:2]
            return height, width
        for key, side in zip(("imageHeight", "imageWidth"), sides, strict=True):
            if isinstance(side, bool) or not isinstance(side, int) or side <= 0:
                raise UserError(
                    f"{path}: {key!r} is {short_repr(side)}, which must be a whole number of pixels above 0. Correct "
                    "it, or set imageHeight and imageWidth to null: they are then measured."
                )
        return sides[0], sides[1]  # type: ignore[return-value]


class _Shape:
    """One element of "shapes"."""

    def __init__(self, path: Path, number: int, shape: Any, size: ImageSize) -> None:
        self.place = f"{path}: shapes[{number}]"
        self.where = f"shapes[{number}]"
        self.shape = shape
        self.size = size

    def read(self, repairs: RepairLog) -> _Part | None:
        """The part; None for lines and points, which have no area."""
        if not isinstance(self.shape, dict):
            raise UserError(
                f"{self.place} is {short_repr(self.shape)}, which must be an object with 'label' and 'points'."
            )
        label = self.shape.get("label")
        if isinstance(label, bool) or not isinstance(label, str | int) or not str(label).strip():
            raise self._error("label", label, "a text: the name of the class")
        kind = self.shape.get("shape_type") or "polygon"
        if kind not in KNOWN:
            raise self._error("shape_type", kind, f"one of {', '.join(KNOWN)}")
        points = self._points()
        if kind in LINES or (kind in ("rectangle", "circle") and len(points) < 4):
            repairs.add("lines and points left out", [self.place])
            return None
        flags = self.shape.get("flags")
        return _Part(
            str(label).strip(),
            self.where,
            polygon=_polygon(kind, points) if kind in (*POLYGONS, "circle") else None,
            box=box_around(points) if kind == "rectangle" else None,
            mask=self._mask(points) if kind == "mask" else None,
            score=read_score(self.shape.get("score"), place=self.place, repairs=repairs),
            is_crowd=isinstance(flags, dict) and flags.get(CROWD_FLAG) is True,
        )

    def _points(self) -> list[float]:
        """x1, y1, x2, y2, ..."""
        points = self.shape.get("points")
        try:
            flat = [number for x, y in points for number in (x, y)]  # type: ignore[union-attr]
        except (TypeError, ValueError):
            flat = []
        if not flat or not all(isinstance(number, int | float) and not isinstance(number, bool) for number in flat):
            raise self._error("points", points, "a list of points [x, y] in pixels")
        return flat

    def _mask(self, points: Sequence[float]) -> Rle:
        """The run lengths of a bitmap whose first pixel is at the first of the two points."""
        pixels = np.asarray(open_base64(self.shape.get("mask"), what=f"{self.place}: 'mask'"))
        if len(points) < 2 or not all(map(math.isfinite, points[:2])):
            raise self._error("points", self.shape.get("points"), "the first and the last pixel of the mask")
        bitmap = (pixels if pixels.ndim == 2 else pixels[..., :3].any(axis=2)) != 0
        return placed_mask(bitmap, corner=(int(points[0]), int(points[1])), image_size=self.size)

    def _error(self, field: str, value: Any, words: str) -> UserError:
        return UserError(
            f"{self.place} has {field} {short_repr(value)}, which must be {words}. Correct it, or remove the shape."
        )


def _polygon(kind: str, points: Sequence[float]) -> list[float]:
    """The polygon of a shape; a circle is given as its center and a point on it."""
    if kind != "circle":
        return list(points)
    radius = math.dist(points[:2], points[2:4])
    return ellipse_polygon(points[:2], radii=(radius, radius))


def _united(parts: Sequence[_Part], size: ImageSize) -> AnnotatedObject:
    """The object of the shapes of one group."""
    first = parts[0]
    segmentation: Any = None
    if len(parts) > 1 or first.box is None:
        polygons = [part.polygon or box_polygon(part.box or ()) for part in parts if part.mask is None]
        segmentation = united(polygons, [part.mask for part in parts if part.mask is not None], size)
    scores = [part.score for part in parts if part.score is not None]
    return AnnotatedObject(
        first.label,
        first.where,
        segmentation=segmentation,
        box=first.box if segmentation is None else None,
        is_crowd=any(part.is_crowd for part in parts),
        score=max(scores, default=None),
    )


def _content(record: ImageRecord, image: str, class_names: Sequence[str], writer: DatasetWriter) -> dict[str, Any]:
    """The JSON of one image."""
    groups = count(1)
    shapes = []
    for instance in record.instances:
        drawn = _drawn(record, instance, writer)
        common: dict[str, Any] = {
            "label": class_names[instance.class_index],
            "group_id": next(groups) if len(drawn) > 1 else None,
            "description": "",
            "flags": {CROWD_FLAG: True} if instance.is_crowd else {},
        }
        if instance.score is not None:
            common["score"] = instance.score  # labelme keeps further fields of a shape
        shapes += [{**common, **shape} for shape in drawn]
    height, width = record.image_size
    return {
        "version": VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": image,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def _drawn(record: ImageRecord, instance: InstanceRecord, writer: DatasetWriter) -> list[dict[str, Any]]:
    """The shapes of an object: a rectangle, polygons, or a mask if it has holes."""
    if instance.keypoints is not None:
        writer.lost.add("keypoints left out", [writer.place_of(record, instance)])
    if instance.segmentation is None:
        x1, y1, x2, y2 = instance.box
        return [{"shape_type": "rectangle", "points": [[x1, y1], [x2, y2]], "mask": None}]
    outlines = writer.outlines(record, instance)
    if not any(outline.holes for outline in outlines):
        return [{"shape_type": "polygon", "points": item.points.tolist(), "mask": None} for item in outlines]
    window = rle.decode_window(writer.mask(record, instance))
    if window is None:
        return []
    left, top, bitmap = window
    file = io.BytesIO()
    Image.fromarray(bitmap.astype(np.uint8)).save(file, format="PNG")
    corners = [[left, top], [left + bitmap.shape[1] - 1, top + bitmap.shape[0] - 1]]
    return [{"shape_type": "mask", "points": corners, "mask": base64.b64encode(file.getvalue()).decode("ascii")}]
