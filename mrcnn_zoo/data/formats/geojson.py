"""GeoJSON: features beside their image, in its pixels or in its map coordinates; also the exports of QuPath.

Source: RFC 7946, with the member "crs" of the earlier GeoJSON 2008.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mrcnn_zoo.data.annotations.contract import AnnotationFormat, Annotations, Found, ReadOptions
from mrcnn_zoo.data.annotations.json_files import read_json
from mrcnn_zoo.data.annotations.listing import FileListing, ImageFinder, side_of_folders
from mrcnn_zoo.data.annotations.loading import annotation_format
from mrcnn_zoo.data.annotations.objects import AnnotatedImage, AnnotatedObject, class_names_of
from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.field_rules import short_repr
from mrcnn_zoo.data.formats.geojson_coordinates import (
    Points,
    epsg_of,
    invalid_field,
    pixel_coordinates,
    read_polygons,
)
from mrcnn_zoo.data.formats.geojson_writing import write_geojson
from mrcnn_zoo.data.images.georeference import read_georeference
from mrcnn_zoo.data.images.reading import IMAGE_SUFFIXES, FileImage
from mrcnn_zoo.data.masks import encode_clipped_polygons
from mrcnn_zoo.data.paths import image_file_sizes
from mrcnn_zoo.data.records import Dataset, RepairLog
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.ops import rle
from mrcnn_zoo.structures import ImageSize

FEATURES = re.compile(r'"type"\s*:\s*"(FeatureCollection|Feature)"')
FILES_EXAMINED = 16
# Properties with the class of a feature, in lower case, in the order in which they are searched.
CLASS_PROPERTIES = ("class", "label", "category", "class_name", "classname", "type")  # then "name"
QUPATH_CLASS = "classification"  # {"name": ..., "color": ...}
SCORE_PROPERTIES = ("score", "confidence", "probability")
DEFAULT_CLASS = "object"
MAX_NAMES = 20  # distinct values of "name", of which more than half differ, are names of single features


@dataclass(frozen=True, slots=True)
class _Feature:
    """What is used of a feature."""

    where: str  # for messages
    polygons: list[list[Points]]  # each an outer ring and holes, in the coordinates of the file
    class_name: str  # "" where no property but "name" can be the class
    name: str
    score: float | None
    is_crowd: bool


@annotation_format("geojson")
class GeoJsonFormat(AnnotationFormat):
    """GeoJSON, one file per image."""

    title = "GeoJSON, one file per image"
    looked_for = "*.geojson files with a FeatureCollection, named as their image"

    def find(self, listing: FileListing) -> Found | None:
        """The .geojson files by the folders of sides, else .json files with features, of which some are examined."""
        names = listing.with_suffix(".geojson")
        if not names:
            names = listing.with_suffix(".json")
            examined = names[:: max(1, len(names) // FILES_EXAMINED)][:FILES_EXAMINED]
            names = names if any(FEATURES.search(listing.head(name)) for name in examined) else ()
        sides: dict[str, list[str]] = {}
        for name in names:
            sides.setdefault(side_of_folders(name), []).append(name)
        return Found(listing, sides, counted(len(names), "GeoJSON file")) if names else None

    def read_images(self, found: Found, options: ReadOptions) -> Annotations:
        """The images with a file; others are left out and counted."""
        reader = _Reader(found, options)
        images = list(reader.images())
        if not found.listing.file:
            left_out = sorted(reader.finder.paths - reader.used)
            reader.repairs.add("images without an annotation file left out", left_out, name="image")
        return Annotations(images, class_names_of(images), reader.repairs)

    def write(self, parts: Mapping[str, Dataset], folder: Path, writer: DatasetWriter) -> None:
        """A GeoJSON file beside each image, see `write_geojson`."""
        write_geojson(parts, folder, writer)


class _Reader:
    """Reads the files of a dataset."""

    def __init__(self, found: Found, options: ReadOptions) -> None:
        self.found = found
        self.root = found.listing.root
        self.finder = ImageFinder(options.images or found.listing)
        self.repairs = RepairLog("object")
        self.used: set[str] = set()

    def images(self) -> Iterator[AnnotatedImage]:
        files = [(name, side, *self._features(name)) for side, names in self.found.splits.items() for name in names]
        with_names = _names_are_classes([feature.name for *_, features in files for feature in features])
        if not with_names:
            self.repairs.add("names of features, almost all distinct, not taken as classes", [files[0][0]], name="file")
        images = [self._image_of(name, content, is_only_file=len(files) == 1) for name, _, content, _ in files]
        self.finder.check()
        self.used.update(images)
        paths = [self.finder.root / image for image in images]
        sizes = image_file_sizes([str(path) for path in paths])
        for (name, side, content, features), path, size in zip(files, paths, sizes, strict=True):
            objects = self._objects(name, path, size, epsg_of(content), features, with_names=with_names)
            file = str(self.root / name)
            yield AnnotatedImage(FileImage(str(path)), size, objects, annotation_file=file, split=side)

    def _features(self, name: str) -> tuple[dict[str, Any], list[_Feature]]:
        """The content of a file but for its features, and these: of a collection, a list, or a single one."""
        path = self.root / name
        content = read_json(path)
        items = content.pop("features", None) if isinstance(content, dict) else content
        if isinstance(content, dict) and content.get("type") == "Feature":
            items = [content]
        if not isinstance(items, list):
            kind = content.get("type") if isinstance(content, dict) else content
            raise UserError(
                f"{path} is not a collection of features: its type is {short_repr(kind)}. It must be "
                "{'type': 'FeatureCollection', 'features': [...]}, or a list of features."
            )
        features = [_read_feature(item, f"{path}: features[{number}]") for number, item in enumerate(items)]
        return content if isinstance(content, dict) else {}, features

    def _image_of(self, name: str, content: Mapping[str, Any], *, is_only_file: bool) -> str:
        """The image that a file names or is named as; the only image of a folder with one file."""
        path = PurePosixPath(name)
        near = "" if str(path.parent) == "." else str(path.parent)
        candidates = [path.name, *([path.stem] if PurePosixPath(path.stem).suffix.lower() in IMAGE_SUFFIXES else [])]
        if isinstance(content.get("image"), str):
            candidates = [content["image"], *candidates]
        found = next((image for text in candidates if (image := self.finder.find(text, near=near))), "")
        if not found and is_only_file and len(self.finder.paths) == 1:
            return next(iter(self.finder.paths))
        return found or self.finder.require(f"{path.stem}.*", near=near, listed_in=name)

    def _objects(
        self,
        name: str,
        path: Path,
        size: ImageSize,
        epsg: int | None,
        features: Sequence[_Feature],
        *,
        with_names: bool,
    ) -> list[AnnotatedObject]:
        to_pixels = pixel_coordinates(
            [ring for feature in features for rings in feature.polygons for ring in rings],
            size,
            read_georeference(path),
            file=str(self.root / name),
            epsg=epsg,
        )
        empty = [feature.where for feature in features if not feature.polygons]
        self.repairs.add("points, lines and empty geometries left out", empty, name="feature")
        return [
            AnnotatedObject(
                feature.class_name or (feature.name if with_names else "") or DEFAULT_CLASS,
                feature.where.rpartition(": ")[2],
                segmentation=_segmentation([[to_pixels(ring) for ring in rings] for rings in feature.polygons], size),
                is_crowd=feature.is_crowd,
                score=feature.score,
            )
            for feature in features
            if feature.polygons
        ]


def _read_feature(content: Any, where: str) -> _Feature:
    if not isinstance(content, dict) or content.get("type") != "Feature":
        raise UserError(
            f"{where} is {short_repr(content)}, which is not a feature: an object with 'type': 'Feature', 'geometry' "
            "and 'properties'."
        )
    if "geometry" not in content:
        raise invalid_field(where, "geometry", None, "a geometry, or null")
    properties = content.get("properties") or {}
    if not isinstance(properties, dict):
        raise invalid_field(where, "properties", properties, "an object or null")
    values = {str(key).lower(): value for key, value in properties.items()}
    return _Feature(
        where,
        read_polygons(content["geometry"], where=where),
        _class_of(values),
        _text(values.get("name")),
        _score_of(values),
        values.get("crowd") is True,
    )


def _segmentation(parts: Sequence[Sequence[Any]], size: ImageSize) -> Any:
    """Polygons, or run lengths where one has a hole."""
    if all(len(rings) == 1 for rings in parts):
        return [rings[0].ravel().tolist() for rings in parts]
    masks = []
    for outer, *holes in parts:
        mask = encode_clipped_polygons([outer], size)
        masks.append(rle.subtract(mask, encode_clipped_polygons(holes, size)) if holes else mask)
    return rle.merge(masks)


def _class_of(properties: Mapping[str, Any]) -> str:
    """The class that the properties of a feature name, but for "name"; "" if they name none."""
    qupath = properties.get(QUPATH_CLASS)
    found = [qupath.get("name")] if isinstance(qupath, dict) else []
    found += [properties.get(name) for name in CLASS_PROPERTIES]
    # QGIS writes QuPath's object as text.
    found += [qupath] if isinstance(qupath, str) and not qupath.lstrip().startswith("{") else []
    return next((text for value in found if (text := _text(value))), "")


def _text(value: Any) -> str:
    return str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _names_are_classes(names: Sequence[str]) -> bool:
    """Whether "name" has classes, and not the names of single buildings or cells."""
    distinct = {name for name in names if name}
    return len(distinct) <= MAX_NAMES or len(distinct) <= sum(map(bool, names)) / 2


def _score_of(properties: Mapping[str, Any]) -> float | None:
    for name in SCORE_PROPERTIES:
        value = properties.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value) and 0 <= value <= 1:
            return float(value)
    return None
