"""The VGG Image Annotator's format (VIA): regions of many images in one JSON or CSV file."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from mrcnn_zoo.data.annotations.contract import AnnotationFormat, Annotations, Found, ReadOptions
from mrcnn_zoo.data.annotations.listing import FileListing, ImageFinder, side_of_folders, split_of
from mrcnn_zoo.data.annotations.loading import annotation_format
from mrcnn_zoo.data.annotations.objects import AnnotatedImage, AnnotatedObject, class_names_of, read_score
from mrcnn_zoo.data.annotations.shapes import box_around, ellipse_polygon
from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.classes import listed
from mrcnn_zoo.data.field_rules import parse_number, short_repr
from mrcnn_zoo.data.formats.via_files import Region, ViaFile, ViaImage, is_via, read_via_file
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.paths import image_file_size
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord, RepairLog
from mrcnn_zoo.errors import UserError

FILES_EXAMINED = 200
FILE_NAME = "via_project.json"  # that is written
CLASS, SCORE, CROWD = "class", "score", "iscrowd"  # region attributes that are written
PREFERRED = (CLASS, "label", "name", "type", "category", "object", "species")  # attributes that are likely the class
NO_CLASSES = (SCORE, CROWD, "confidence")
ONLY_CLASS = "object"  # of files without region attributes
LINES = ("point", "line")
KNOWN = ("rect", "polygon", "polyline", "circle", "ellipse", "extreme_rect", "extreme_circle", *LINES)


@annotation_format("via")
class ViaFormat(AnnotationFormat):
    """Projects and exports of the VGG Image Annotator, versions 1 to 3."""

    title = "VIA (VGG Image Annotator)"
    looked_for = "a .json project or export of the VGG Image Annotator, or its .csv with 'region_shape_attributes'"

    def find(self, listing: FileListing) -> Found | None:
        """JSON files by the names of their folders and their own; CSV files where there is no JSON."""
        sides: dict[str, list[str]] = {}
        for suffix in (".json", ".csv"):
            names = sorted(listing.with_suffix(suffix), key=lambda name: (name.count("/"), name))
            first = [name for name in names[:FILES_EXAMINED] if is_via(listing, name)]
            rest = [name for name in names[FILES_EXAMINED:] if is_via(listing, name)] if first else []
            for name in [*first, *rest]:
                sides.setdefault(_side_of(name), []).append(name)
            if sides:
                break
        if not sides:
            return None
        return Found(listing, sides, listed([name for names in sides.values() for name in names]))

    def read_images(self, found: Found, options: ReadOptions) -> Annotations:
        """The images that the files name; others in the folder are left out and counted."""
        reader = _Reader(found, options)
        images = list(reader.images())
        reader.finder.check()
        left_out = sorted(reader.finder.paths - reader.used.keys())
        reader.repairs.add("images that no annotation file names left out", left_out, name="image")
        return Annotations(images, reader.class_names(class_names_of(images)), reader.repairs)

    def write(self, parts: Mapping[str, Dataset], folder: Path, writer: DatasetWriter) -> None:
        """A project of VIA 2 beside the images, in a folder per side."""
        for side, dataset in parts.items():
            target = folder / side
            target.mkdir(parents=True, exist_ok=True)
            entries = {}
            for record in dataset.records:
                name = writer.place_image(record, target)
                size = (target / name).stat().st_size
                regions = [
                    region
                    for instance in record.instances
                    for region in _regions(record, instance, dataset.class_names, writer)
                ]
                entry = {"filename": name, "size": size, "regions": regions, "file_attributes": {}}
                entries[f"{name}{size}"] = entry
            text = json.dumps(_project(entries, dataset.class_names), ensure_ascii=False)
            (target / FILE_NAME).write_text(text, encoding="utf-8")


def _side_of(name: str) -> str:
    stem = PurePosixPath(name).stem
    return side_of_folders(name) or split_of(stem) or split_of(stem.rpartition("_")[2])


class _Reader:
    """Reads the files of a dataset."""

    def __init__(self, found: Found, options: ReadOptions) -> None:
        self.finder = ImageFinder(options.images or found.listing)
        self.repairs = RepairLog("region")
        self.used: dict[str, str] = {}  # annotation file by image
        self.files = [
            (name, side, read_via_file(found.listing.root / name))
            for side, names in found.splits.items()
            for name in names
        ]
        self.attribute = _class_attribute([file for _, _, file in self.files])
        self.options = {
            key: text for _, _, file in self.files for key, text in file.options.get(self.attribute, {}).items()
        }

    def class_names(self, present: Sequence[str]) -> Sequence[str]:
        """The classes in the order of the options of their attribute, where that has all of them."""
        names = list(dict.fromkeys(self._option_name(option) for option in self.options))
        return names if set(present) <= set(names) else present

    def images(self) -> Iterator[AnnotatedImage]:
        for name, side, file in self.files:
            self.repairs.add("videos and other files, and segments of time, left out", file.left_out, name="element")
            folder = str(PurePosixPath(name).parent)
            for image in file.images:
                annotated = self._image(file, image, near="" if folder == "." else folder, side=side)
                if annotated is not None:
                    yield annotated

    def _image(self, file: ViaFile, image: ViaImage, *, near: str, side: str) -> AnnotatedImage | None:
        """An image with its objects; None for a missing image."""
        path = self.finder.find(image.file_name, near=near) or self.finder.find(unquote(image.file_name), near=near)
        if not path and not image.regions:
            self.repairs.add("missing images without regions left out", [image.file_name], name="image")
            return None
        path = path or self.finder.require(image.file_name, near=near, listed_in=file.path.name)
        if not path:
            return None
        if path in self.used:
            raise UserError(
                f"{file.path} has regions of the image {path}, and {self.used[path]} has, too. Name the file to read "
                "as ANNOTATIONS, or remove the other."
            )
        self.used[path] = str(file.path)
        source = self.finder.root / path
        objects = [item for region in image.regions if (item := self._object(file.path, region)) is not None]
        return AnnotatedImage(
            FileImage(str(source)), image_file_size(source), objects, annotation_file=str(file.path), split=side
        )

    def _object(self, path: Path, region: Region) -> AnnotatedObject | None:
        """The object of a region; None for lines and points, and for a region without a class."""
        place = f"{path}: {region.where}"
        outline = _outline(place, region.shape)
        if outline is None:
            self.repairs.add("lines and points left out", [place])
            return None
        class_name = self._class_name(place, region)
        if not class_name:
            self.repairs.add(f"regions without a value of {self.attribute!r} left out", [place])
            return None
        is_box = region.shape.get("name") in ("rect", "extreme_rect")
        return AnnotatedObject(
            class_name,
            region.where,
            segmentation=None if is_box else [outline],
            box=outline if is_box else None,
            is_crowd=parse_number(region.attributes.get(CROWD)) in (1, True),
            score=read_score(region.attributes.get(SCORE) or None, place=place, repairs=self.repairs),
        )

    def _class_name(self, place: str, region: Region) -> str:
        if not self.attribute:
            self.repairs.add(f"regions without a class attribute taken as class {ONLY_CLASS!r}", [place])
            return ONLY_CLASS
        values = _values(region.attributes.get(self.attribute))
        if len(values) > 1:
            self.repairs.add(f"regions with several values of {self.attribute!r} given the first", [place])
        return self._option_name(values[0]) if values else ""

    def _option_name(self, value: str) -> str:
        """The description of an option whose id is a number, else the id."""
        return (self.options.get(value) or value) if value.isdigit() else value


def _class_attribute(files: Sequence[ViaFile]) -> str:
    """The region attribute with the class: a preferred name, else the most frequent one; "" if there is none."""
    counts = Counter(
        name
        for file in files
        for image in file.images
        for region in image.regions
        for name, value in region.attributes.items()
        if name.lower() not in NO_CLASSES and _values(value)
    )
    by_name = {name.lower(): name for name in counts}
    preferred = [by_name[name] for name in PREFERRED if name in by_name]
    return preferred[0] if preferred else max(counts, key=lambda name: counts[name], default="")


def _values(value: Any) -> list[str]:
    """The texts of an attribute's value: of a checkbox, those that are checked."""
    if isinstance(value, dict):
        return [str(key).strip() for key, is_checked in value.items() if is_checked]
    is_text = isinstance(value, str | int) and not isinstance(value, bool)
    return [str(value).strip()] if is_text and str(value).strip() else []


def _outline(place: str, shape: Mapping[str, Any]) -> list[float] | None:
    """The polygon of a shape, or x1, y1, x2, y2 of a box; None for lines and points."""
    kind = shape.get("name")
    if kind not in KNOWN:
        raise UserError(f"{place} has the shape {short_repr(kind)}, which must be one of {', '.join(KNOWN)}.")
    if kind in LINES:
        return None
    if kind == "rect":
        x, y, width, height = (_number(place, shape, key) for key in ("x", "y", "width", "height"))
        return [x, y, x + width, y + height]
    if kind in ("circle", "ellipse"):
        center = [_number(place, shape, key) for key in ("cx", "cy")]
        radii = [_number(place, shape, key) for key in (("r", "r") if kind == "circle" else ("rx", "ry"))]
        return ellipse_polygon(center, radii=radii, angle=_number(place, {"theta": 0, **shape}, "theta"))
    points = _points(place, shape)
    if kind == "extreme_rect":
        return box_around(points) if points else None
    if kind == "extreme_circle":
        return _circle_through(points)
    return points if len(points) >= 6 else None


def _number(place: str, shape: Mapping[str, Any], key: str) -> float:
    value = parse_number(shape.get(key))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{place} has {key} {short_repr(shape.get(key))}, which must be a number of pixels.")
    return float(value)


def _points(place: str, shape: Mapping[str, Any]) -> list[float]:
    """x1, y1, x2, y2, ... without the first point at the end, as version 1 writes it."""
    columns = [shape.get(key) for key in ("all_points_x", "all_points_y")]
    lists = [column if isinstance(column, list) else [] for column in columns]
    is_number = all(isinstance(item, int | float) and not isinstance(item, bool) for column in lists for item in column)
    if not is_number or len(lists[0]) != len(lists[1]) or not all(isinstance(column, list) for column in columns):
        raise UserError(
            f"{place} has all_points_x {short_repr(columns[0])} and all_points_y {short_repr(columns[1])}, which must "
            "be two lists of as many numbers."
        )
    points = list(zip(*lists, strict=True))
    if len(points) > 1 and points[0] == points[-1]:
        points.pop()
    return [float(number) for point in points for number in point]


def _circle_through(points: Sequence[float]) -> list[float] | None:
    """The polygon of the circle through three points; None if they are on one line."""
    if len(points) != 6:
        return None
    (ax, ay), (bx, by) = ((points[index] - points[0], points[index + 1] - points[1]) for index in (2, 4))
    twice_area = 2 * (ax * by - ay * bx)
    if twice_area == 0:
        return None
    a, b = ax * ax + ay * ay, bx * bx + by * by
    x, y = (by * a - ay * b) / twice_area, (ax * b - bx * a) / twice_area
    radius = math.hypot(x, y)
    return ellipse_polygon((points[0] + x, points[1] + y), radii=(radius, radius))


def _regions(
    record: ImageRecord, instance: InstanceRecord, class_names: Sequence[str], writer: DatasetWriter
) -> list[dict[str, Any]]:
    """The regions of an object: a rectangle, or a polygon for each of its parts."""
    attributes = {CLASS: class_names[instance.class_index]}
    if instance.score is not None:
        attributes[SCORE] = f"{instance.score:.6g}"
    if instance.is_crowd:
        attributes[CROWD] = "1"
    place = [writer.place_of(record, instance)]
    if instance.keypoints is not None:
        writer.lost.add("keypoints left out", place)
    if instance.segmentation is None:
        x1, y1, x2, y2 = instance.box
        shapes: list[dict[str, Any]] = [{"name": "rect", "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}]
    else:
        polygons = writer.polygons(record, instance)
        if len(polygons) > 1:
            writer.lost.add("objects of several parts written as an object per part", place)
        shapes = [{"name": "polygon", "all_points_x": item[0::2], "all_points_y": item[1::2]} for item in polygons]
    return [{"shape_attributes": shape, "region_attributes": attributes} for shape in shapes]


def _project(entries: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    """A project of version 2, with the classes as the options of a dropdown."""
    region = {
        CLASS: {"type": "dropdown", "description": "", "options": dict.fromkeys(class_names, ""), "default_options": {}}
    }
    names = {
        attribute for entry in entries.values() for item in entry["regions"] for attribute in item["region_attributes"]
    }
    for name in (SCORE, CROWD):
        if name in names:
            region[name] = {"type": "text", "description": "", "default_value": ""}
    grid = {
        "img_height": 80,
        "rshape_fill": "none",
        "rshape_fill_opacity": 0.3,
        "rshape_stroke": "yellow",
        "rshape_stroke_width": 2,
        "show_region_shape": True,
        "show_image_policy": "all",
    }
    image = {
        "region_label": CLASS,
        "region_color": CLASS,
        "region_label_font": "10px Sans",
        "on_image_annotation_editor_placement": "NEAR_REGION",
    }
    sizes = {"annotation_editor_height": 25, "annotation_editor_fontsize": 0.8, "leftsidebar_width": 18}
    return {
        "_via_settings": {
            "ui": {**sizes, "image_grid": grid, "image": image},
            "core": {"buffer_size": 18, "filepath": {}, "default_filepath": ""},
            "project": {"name": "via_project"},
        },
        "_via_img_metadata": entries,
        "_via_attributes": {"region": region, "file": {}},
        "_via_data_format_version": "2.0.10",
        "_via_image_id_list": list(entries),
    }
