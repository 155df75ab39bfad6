"""Files of the VGG Image Annotator (VIA), versions 1 to 3, JSON and CSV, as images with regions.

Regions of all versions have the shape attributes of version 2: name, x, y, width, height, cx, cy, r, rx, ry, theta,
all_points_x, all_points_y.
"""

import csv
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrcnn_zoo.data.annotations.json_files import read_json
from mrcnn_zoo.data.annotations.listing import FileListing
from mrcnn_zoo.data.field_rules import short_repr
from mrcnn_zoo.errors import UserError

PROJECT_2 = re.compile(r'"_via_(img_metadata|settings|attributes)"\s*:')
EXPORT = (re.compile(r'"filename"\s*:'), re.compile(r'"(shape_attributes|file_attributes)"\s*:'))
PROJECT_3 = (re.compile(r'"pid"\s*:'), re.compile(r'"(vid_list|rev_timestamp|data_format_version)"\s*:'))
COLUMNS = ("filename", "region_shape_attributes", "region_attributes")
IMAGE_FILE = 2  # type of a file in version 3
CHECKBOX = 2  # type of an attribute in version 3
# Shapes of version 3 by number, with the fields of their coordinates; None for points x1, y1, x2, y2, ...
SHAPES_3: dict[int, tuple[str, tuple[str, ...] | None]] = {
    1: ("point", ("cx", "cy")),
    2: ("rect", ("x", "y", "width", "height")),
    3: ("circle", ("cx", "cy", "r")),
    4: ("ellipse", ("cx", "cy", "rx", "ry")),
    5: ("line", None),
    6: ("polyline", None),
    7: ("polygon", None),
    8: ("extreme_rect", None),
    9: ("extreme_circle", None),
}


@dataclass(frozen=True)
class Region:
    """One region.

    Args:
        where: its place in the file, for messages.
        shape: of version 2.
        attributes: values by name of the attribute.
    """

    where: str
    shape: Mapping[str, Any]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class ViaImage:
    """One image file and its regions."""

    file_name: str
    regions: Sequence[Region]


@dataclass
class ViaFile:
    """The content of one file.

    Args:
        path: of the file.
        images: in their order.
        options: by name of a region attribute the names of its values, by id, in their order.
        left_out: places of what is no region of an image, such as segments of videos.
    """

    path: Path
    images: list[ViaImage]
    options: dict[str, dict[str, str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def is_via(listing: FileListing, name: str) -> bool:
    """Whether a JSON or CSV file is VIA's, by its first characters."""
    start = listing.head(name)
    if name.lower().endswith(".csv"):
        header = start.split("\n", 1)[0]
        return all(column in header for column in COLUMNS)
    return bool(PROJECT_2.search(start)) or any(all(key.search(start) for key in keys) for keys in (EXPORT, PROJECT_3))


def read_via_file(path: Path) -> ViaFile:
    """The content of a project or an export.

    Raises:
        UserError: naming the file and the field or line.
    """
    if path.suffix.lower() == ".csv":
        return ViaFile(path, _read_csv(path))
    content = read_json(path)
    if isinstance(content, dict) and {"metadata", "file", "view"} <= content.keys():
        return _read_version_3(path, content)
    entries, options = content, {}
    if isinstance(content, dict) and "_via_img_metadata" in content:
        entries = content["_via_img_metadata"]
        options = _options(content.get("_via_attributes", {}))
    if not isinstance(entries, dict | list):
        raise UserError(
            f"{path}: {short_repr(entries)} is no mapping of images. Export the annotations again from VIA."
        )
    return ViaFile(path, [_image(path, key, entry) for key, entry in _items(entries)], options)


def _items(values: Any) -> Iterable[tuple[Any, Any]]:
    return values.items() if isinstance(values, dict) else enumerate(values)


def _options(attributes: Any) -> dict[str, dict[str, str]]:
    regions = attributes.get("region") if isinstance(attributes, dict) else None
    found = {}
    for name, attribute in (regions if isinstance(regions, dict) else {}).items():
        options = attribute.get("options") if isinstance(attribute, dict) else None
        if isinstance(options, dict):
            found[name] = {str(key): str(value or "") for key, value in options.items()}
    return found


def _image(path: Path, key: Any, entry: Any) -> ViaImage:
    """An image of versions 1 and 2; the regions of version 1 are a mapping."""
    if not isinstance(entry, dict) or not isinstance(entry.get("filename"), str) or not entry["filename"]:
        raise UserError(
            f"{path}: the entry {short_repr(key)} has no 'filename'. Export the annotations again from VIA."
        )
    name, regions = entry["filename"], entry.get("regions", [])
    if not isinstance(regions, dict | list):
        raise UserError(f"{path}: the regions of {name} are {short_repr(regions)}, which must be a list.")
    found = []
    for number, region in _items(regions):
        where = f"{name}, regions[{number}]"
        shape = region.get("shape_attributes") if isinstance(region, dict) else None
        attributes = region.get("region_attributes") if isinstance(region, dict) else None
        if not isinstance(shape, dict) or not isinstance(attributes or {}, dict):
            raise UserError(
                f"{path}: {where} is {short_repr(region)}, which must have 'shape_attributes' and 'region_attributes'."
            )
        found.append(Region(where, shape, attributes or {}))
    return ViaImage(name, found)


def _read_csv(path: Path) -> list[ViaImage]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a polygon of many points is one field
    images: dict[str, list[Region]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            header = [column.strip().lstrip("#") for column in next(rows, [])]
            for row in rows:
                if row:
                    _add_row(path, rows.line_num, dict(zip(header, row, strict=False)), images)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}. Export the annotations again from VIA as CSV.") from error
    return [ViaImage(name, regions) for name, regions in images.items()]


def _add_row(path: Path, line: int, row: Mapping[str, str], images: dict[str, list[Region]]) -> None:
    missing = [column for column in COLUMNS if column not in row]
    if missing:
        raise UserError(f"{path}, line {line}: the column {missing[0]} is missing. The line may be cut off.")
    values = []
    for column in COLUMNS[1:]:
        try:
            value = json.loads(row[column] or "{}")
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise UserError(f"{path}, line {line}: {column} is {short_repr(row[column])}, which must be a JSON object.")
        values.append(value)
    regions = images.setdefault(row["filename"], [])
    if values[0]:
        regions.append(Region(f"line {line}", *values))


def _read_version_3(path: Path, content: Mapping[str, Any]) -> ViaFile:
    sections = {name: content.get(name) for name in ("file", "view", "metadata", "attribute")}
    for name, section in sections.items():
        if not isinstance(section or {}, dict):
            raise UserError(f"{path}: {name!r} is {short_repr(section)}, which must be an object.")
    files, views, metadata, attributes = (
        {str(key): item for key, item in _items(part or {})} for part in sections.values()
    )
    names = {key: item.get("fname") or item.get("src") for key, item in files.items() if isinstance(item, dict)}
    is_image = {key: item.get("type", IMAGE_FILE) == IMAGE_FILE for key, item in files.items() if key in names}
    images: dict[str, list[Region]] = {key: [] for key in files if is_image.get(key) and names.get(key)}
    left_out = [f"{path}: file {names.get(key) or key}" for key in files if key not in images]
    for key, item in metadata.items():
        where = f"metadata {key}"
        if not isinstance(item, dict) or not isinstance(item.get("xy"), list):
            raise UserError(f"{path}: {where} is {short_repr(item)}, which must have 'vid', 'xy' and 'av'.")
        view = views.get(str(item.get("vid")))
        fids = [str(fid) for fid in view.get("fid_list", ())] if isinstance(view, dict) else []
        if not fids:
            raise UserError(f"{path}: {where} is of the view {short_repr(item.get('vid'))}, which 'view' lacks.")
        if item.get("z") or not item["xy"] or fids[0] not in images:
            left_out.append(f"{path}: {where}")
            continue
        images[fids[0]].append(Region(where, _shape_3(path, where, item["xy"]), _attributes_3(item, attributes)))
    options = {
        str(item.get("aname")): {str(value): "" for value in (item.get("options") or {}).values()}
        for item in attributes.values()
        if isinstance(item, dict) and isinstance(item.get("options") or {}, dict)
    }
    return ViaFile(path, [ViaImage(str(names[key]), regions) for key, regions in images.items()], options, left_out)


def _shape_3(path: Path, where: str, values: Sequence[Any]) -> dict[str, Any]:
    """The shape attributes of version 2 of an `xy` list: the number of the shape and its coordinates."""
    kind, fields = SHAPES_3.get(values[0], ("", None)) if isinstance(values[0], int) else ("", None)
    if not kind:
        known = ", ".join(f"{number} {name}" for number, (name, _) in SHAPES_3.items())
        raise UserError(f"{path}: {where} has the shape {short_repr(values[0])}, which must be one of {known}.")
    if fields is None:
        return {"name": kind, "all_points_x": list(values[1::2]), "all_points_y": list(values[2::2])}
    return {"name": kind, **dict(zip(fields, values[1:], strict=False))}


def _attributes_3(item: Mapping[str, Any], attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the attributes by name; the ids of options replaced by their texts."""
    found: dict[str, Any] = {}
    given = item.get("av")
    for key, value in (given if isinstance(given, dict) else {}).items():
        attribute = attributes.get(str(key))
        attribute = attribute if isinstance(attribute, dict) else {}
        options = attribute.get("options") or {}
        name = str(attribute.get("aname") or key)
        if attribute.get("type") == CHECKBOX and isinstance(value, str):
            found[name] = {str(options.get(part, part)): True for part in value.split(",") if part}
        else:
            found[name] = options.get(value, value) if isinstance(value, str) else value
    return found
