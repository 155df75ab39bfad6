"""The annotations of a COCO file as instance records: repaired where that is safe, refused where it is not."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from mrcnn_zoo.data.annotations.boxes import read_boxes
from mrcnn_zoo.data.annotations.objects import read_score
from mrcnn_zoo.data.annotations.segmentations import SegmentationReader
from mrcnn_zoo.data.field_rules import FIELD_RULES, ColumnReader, parse_number, short_repr
from mrcnn_zoo.data.formats.coco_json import Categories, CocoJson, Images
from mrcnn_zoo.data.formats.coco_keypoints import read_keypoints
from mrcnn_zoo.data.records import InstanceRecord, RepairLog
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.structures import ImageSize

CATEGORIES_SHOWN = 20
IDS_SHOWN = 5


def read_instances(
    document: CocoJson,
    *,
    images: Images,
    categories: Categories,
    repairs: RepairLog,
    needs_masks: bool = True,
    needs_keypoints: bool = True,
) -> list[list[InstanceRecord]]:
    """The objects of each image, in the order of `images` and, within an image, of the file.

    Args:
        document: the file; loses its annotations, whose memory is freed before the records are created.
        images: of the file.
        categories: of the file.
        repairs: counts repairs.
        needs_masks: whether unreadable segmentations are errors; otherwise their objects keep the box alone.
        needs_keypoints: whether unreadable keypoints are errors; otherwise they are left out.

    Raises:
        UserError: a value that cannot be repaired, with the file, the annotation and the value.
    """
    # Numbers of its own: those of the file would keep most of the memory of the file.
    all_ids = np.array(document.ids("annotations", repairs=repairs), dtype=np.int64).tolist()
    image_rows = _image_rows(document, all_ids, images, repairs)
    classes = _class_indices(document, all_ids, categories, repairs)
    listed = [row for row, image_row in enumerate(image_rows) if image_row is not None]
    _note_unlisted(document, all_ids, image_rows, images, repairs)

    annotations = [document.annotations[row] for row in listed]
    sizes = [images.sizes[image_rows[row]] for row in listed]  # type: ignore[index]
    reader = ColumnReader(str(document.path), "annotations", [all_ids[row] for row in listed], repairs=repairs)

    def column(field: str, default: Any = None) -> list[Any]:
        return [annotation.get(field, default) for annotation in annotations]

    segmentations = SegmentationReader(reader, sizes, is_strict=needs_masks).read(column("segmentation"))
    boxes = read_boxes(column("bbox"), segmentations, sizes, reader=reader, needs_masks=needs_masks)
    is_crowd = reader.read("iscrowd", column("iscrowd", 0), absent_note="taken as 0")
    areas = _read_areas(column("area"), sizes, reader)
    num_keypoints = len(categories.keypoint_names)
    keypoints = read_keypoints(column("keypoints"), num_keypoints, sizes, reader=reader, is_strict=needs_keypoints)
    scores = [
        None if value is None else read_score(value, place=str(reader.labels[row]), repairs=repairs)
        for row, value in enumerate(column("score"))
    ]
    document.annotations.clear()
    annotations.clear()
    corners = boxes.tolist()
    instances: list[list[InstanceRecord]] = [[] for _ in images.ids]
    for row in np.flatnonzero(np.isfinite(boxes).all(axis=1)).tolist():
        record = InstanceRecord(
            box=tuple(corners[row]),
            class_index=classes[listed[row]],
            segmentation=segmentations.values[row],  # type: ignore[arg-type]  # an array is a sequence of floats
            keypoints=keypoints[row],
            is_crowd=bool(is_crowd[row]),
            area=areas[row],
            annotation_id=all_ids[listed[row]],
            score=scores[row],
        )
        instances[image_rows[listed[row]]].append(record)  # type: ignore[index]
    return instances


def _image_rows(document: CocoJson, ids: Sequence[int], images: Images, repairs: RepairLog) -> list[int | None]:
    """The row of each annotation's image; None if `images` does not list it."""
    raw = document.column("annotations", "image_id")
    for label, value in zip(ids, raw, strict=True):
        if isinstance(value, list | dict | bool):
            raise UserError(
                f"{document.path}: annotation {label} has image_id {short_repr(value)}, which is not the id of an "
                "image."
            )
    by_id = {number: row for row, number in enumerate(images.ids)}
    if _are_ids(raw):
        return [by_id.get(number) for number in raw]
    names = [
        (name, row)
        for row, path in enumerate(images.file_names)
        for name in {path, PurePath(path).name, PurePath(path).stem}
    ]
    note = "image_id values that are file names taken for the image"
    return _resolve("image_id", raw, ids, by_id, _unambiguous(names), note_of_names=note, repairs=repairs)


def _class_indices(document: CocoJson, ids: Sequence[int], categories: Categories, repairs: RepairLog) -> list[int]:
    raw = document.column("annotations", "category_id")
    by_id = {number: index for index, number in enumerate(categories.ids)}
    by_name = _unambiguous([(name, index) for index, name in enumerate(categories.names)])
    note = "category_id values that are names taken for the category"
    indices = _resolve("category_id", raw, ids, by_id, by_name, note_of_names=note, repairs=repairs)
    if None in indices:
        row = indices.index(None)
        known = [f"{number} ({name})" for number, name in zip(categories.ids, categories.names, strict=True)]
        more = ", ..." if len(known) > CATEGORIES_SHOWN else ""
        raise UserError(
            f"{document.path}: annotation {ids[row]} has category_id {short_repr(raw[row])}, which 'categories' does "
            f"not list: {', '.join(known[:CATEGORIES_SHOWN])}{more}."
        )
    return indices  # type: ignore[return-value]


def _are_ids(raw: Sequence[Any]) -> bool:
    return set(map(type, raw)) <= {int}


def _unambiguous(names: Sequence[tuple[str, int]]) -> dict[str, int]:
    counts = Counter(name for name, _ in names)
    return {name: row for name, row in names if counts[name] == 1}


def _resolve(
    field: str,
    raw: Sequence[Any],
    labels: Sequence[int],
    by_id: Mapping[Any, int],
    by_name: Mapping[str, int],
    *,
    note_of_names: str,
    repairs: RepairLog,
) -> list[int | None]:
    """The row that each value refers to, by id or else by name; None if there is none."""
    if _are_ids(raw):
        return [by_id.get(number) for number in raw]
    found: list[int | None] = []
    for label, value in zip(labels, raw, strict=True):
        number = parse_number(value)
        row = by_id.get(number) if isinstance(number, int | float) and not isinstance(number, bool) else None
        if row is not None and isinstance(value, str):
            repairs.add(f"{field} values written as text taken as numbers", [f"{label}: {value!r}"])
        elif row is None and isinstance(value, str) and value in by_name:
            row = by_name[value]
            repairs.add(note_of_names, [f"{label}: {value!r}"])
        found.append(row)
    return found


def _note_unlisted(
    document: CocoJson, ids: Sequence[int], image_rows: Sequence[int | None], images: Images, repairs: RepairLog
) -> None:
    unlisted = [row for row, image_row in enumerate(image_rows) if image_row is None]
    if unlisted and len(unlisted) == len(ids):
        value = document.annotations[unlisted[0]]["image_id"]
        known = ", ".join(map(str, images.ids[:IDS_SHOWN])) + (", ..." if len(images.ids) > IDS_SHOWN else "")
        raise UserError(
            f"{document.path}: no annotation is of an image that 'images' lists. The first, annotation "
            f"{ids[unlisted[0]]}, has image_id {short_repr(value)}; the images have the ids {known}."
        )
    repairs.add("annotations of images that are not listed left out", [ids[row] for row in unlisted])


def _read_areas(raw: Sequence[Any], sizes: Sequence[ImageSize], reader: ColumnReader) -> list[float | None]:
    """The areas of the file; None for those to be computed from the mask or the box."""
    rule = FIELD_RULES["annotations.area"]
    if rule.accepts_all(raw):
        table = np.array(raw, dtype=np.float64)
        if (table <= np.array(sizes, dtype=np.float64).reshape(-1, 2).prod(axis=1)).all():
            return table.tolist()
    areas: list[float | None] = []
    for label, value, (height, width) in zip(reader.labels, raw, sizes, strict=True):
        number = value if type(value) in (int, float) else parse_number(value)
        if rule.accepts(number) and number <= height * width:
            areas.append(float(number))
            if isinstance(value, str):
                reader.note("area values written as text taken as numbers", label, value)
            continue
        areas.append(None)
        if rule.is_absent(number):
            reader.repairs.add("areas that are absent computed from mask or box", [label])
        else:
            reader.note("areas that are not above 0, or larger than the image, computed from mask or box", label, value)
    return areas
