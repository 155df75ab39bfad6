"""The annotations of a COCO file as instance records, repaired where that is safe and refused where it is not."""

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.field_rules import FIELD_RULES, ColumnReader, number_in, shown
from mrcnn_zoo.data.formats.coco_boxes import check_readable, check_unit, corner_boxes, repair_boxes
from mrcnn_zoo.data.formats.coco_json import Categories, CocoJson, Images
from mrcnn_zoo.data.formats.coco_keypoints import read_keypoints
from mrcnn_zoo.data.formats.coco_segmentation import Segmentations
from mrcnn_zoo.data.records import InstanceRecord, RepairLog
from mrcnn_zoo.errors import UserError

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
    """The objects of each image, in the order of `images` and, within one, of the file.

    Args:
        document: the file.
        images: of the file.
        categories: of the file.
        repairs: where repairs are counted.
        needs_masks: refuse segmentations that cannot be read; otherwise their objects keep the box.
        needs_keypoints: refuse keypoints that cannot be read; otherwise they are left out.

    Raises:
        UserError: annotations with the same id or with an unknown category, or a mask that is none.
    """
    all_ids = document.ids("annotations", repairs=repairs)
    image_rows = _image_rows(document, all_ids, images, repairs)
    all_classes = _class_indices(document, all_ids, categories, repairs)
    known = [row for row, image_row in enumerate(image_rows) if image_row is not None]
    _leave_out_unlisted(document, all_ids, image_rows, images, repairs)

    annotations = [document.annotations[row] for row in known]
    ids = [all_ids[row] for row in known]
    sizes = [images.sizes[image_rows[row]] for row in known]  # type: ignore[index]
    reader = ColumnReader(str(document.path), "annotations", ids, repairs=repairs)

    def column(field: str) -> list[Any]:
        return [annotation.get(field) for annotation in annotations]

    segmentations = Segmentations(str(document.path), ids=ids, repairs=repairs, is_strict=needs_masks)
    segmentations.read(column("segmentation"), sizes)
    boxes = _read_boxes(column("bbox"), segmentations, sizes, reader=reader, needs_masks=needs_masks)
    is_crowd = reader.read(
        "iscrowd", [annotation.get("iscrowd", 0) for annotation in annotations], absent_note="taken as 0"
    )
    areas = _areas(column("area"), sizes, reader)
    keypoints = read_keypoints(
        column("keypoints"), len(categories.keypoint_names), sizes, reader=reader, is_strict=needs_keypoints
    )
    box_list = boxes.tolist()
    instances: list[list[InstanceRecord]] = [[] for _ in images.ids]
    for row in np.flatnonzero(np.isfinite(boxes).all(axis=1)).tolist():
        record = InstanceRecord(
            box=tuple(box_list[row]),
            class_index=all_classes[known[row]],
            segmentation=segmentations.usable[row],  # type: ignore[arg-type]  # an array is a sequence of floats
            keypoints=keypoints[row],
            is_crowd=bool(is_crowd[row]),
            area=areas[row],
            annotation_id=ids[row],
        )
        instances[image_rows[known[row]]].append(record)  # type: ignore[index]
    return instances


def _read_boxes(
    raw: list[Any],
    segmentations: Segmentations,
    sizes: Sequence[tuple[int, int]],
    *,
    reader: ColumnReader,
    needs_masks: bool,
) -> NDArray[np.float64]:
    """(N, 4) x1 y1 x2 y2 inside the images; NaN where there is neither box nor mask."""
    boxes, states = corner_boxes(raw, reader)
    check_readable(raw, states, segmentations.boxes, reader)
    size_table = np.array(sizes, dtype=np.int64).reshape(-1, 2)
    check_unit(boxes, segmentations.boxes, size_table, reader)
    return repair_boxes(
        boxes,
        states,
        segmentations.boxes,
        size_table,
        are_trusted=~segmentations.is_doubtful & needs_masks,
        ids=np.array(reader.labels, dtype=np.int64),
        repairs=reader.repairs,
    )


def _image_rows(document: CocoJson, ids: Sequence[int], images: Images, repairs: RepairLog) -> list[int | None]:
    """Which image each annotation is of; None for one that is not listed."""
    rows = {number: row for row, number in enumerate(images.ids)}
    raw = document.column("annotations", "image_id")
    if set(map(type, raw)) <= {int}:
        return [rows.get(number) for number in raw]
    names = _rows_by_name(images)
    found: list[int | None] = []
    for label, value in zip(ids, raw, strict=True):
        number = number_in(value)
        if isinstance(value, list | dict | bool):
            raise UserError(
                f"{document.path}: annotation {label} has image_id {shown(value)}, which is no id of one image."
            )
        row = rows.get(number)
        if row is not None and isinstance(value, str):
            repairs.add("image_id values written as text taken as numbers", [f"{label}: {value!r}"])
        elif row is None and isinstance(value, str) and value in names:
            row = names[value]
            repairs.add("image_id values that are file names taken for the image", [f"{label}: {value!r}"])
        found.append(row)
    return found


def _rows_by_name(images: Images) -> dict[str, int]:
    """Images by their file names, with and without folder and suffix, where only one has that name."""
    names = [
        (name, row)
        for row, path in enumerate(images.file_names)
        for name in {path, PurePath(path).name, PurePath(path).stem}
    ]
    counts = Counter(name for name, _ in names)
    return {name: row for name, row in names if counts[name] == 1}


def _leave_out_unlisted(
    document: CocoJson, ids: Sequence[int], image_rows: Sequence[int | None], images: Images, repairs: RepairLog
) -> None:
    unlisted = [row for row, image_row in enumerate(image_rows) if image_row is None]
    if unlisted and len(unlisted) == len(ids):
        value = document.annotations[unlisted[0]]["image_id"]
        known = ", ".join(map(str, images.ids[:IDS_SHOWN])) + (", ..." if len(images.ids) > IDS_SHOWN else "")
        raise UserError(
            f"{document.path}: no annotation is of an image that 'images' lists. The first, annotation "
            f"{ids[unlisted[0]]}, has image_id {shown(value)}; the images have the ids {known}."
        )
    repairs.add("annotations of images that are not listed left out", [ids[row] for row in unlisted])


def _class_indices(document: CocoJson, ids: Sequence[int], categories: Categories, repairs: RepairLog) -> list[int]:
    indices: dict[Any, int] = {number: index for index, number in enumerate(categories.ids)}
    raw = document.column("annotations", "category_id")
    if set(map(type, raw)) <= {int} and set(raw) <= indices.keys():
        return [indices[number] for number in raw]
    counts = Counter(categories.names)
    by_name = {name: index for index, name in enumerate(categories.names) if counts[name] == 1}
    found = []
    for label, value in zip(ids, raw, strict=True):
        number = number_in(value)
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if is_number and number in indices:
            found.append(indices[number])
            if isinstance(value, str):
                repairs.add("category_id values written as text taken as numbers", [f"{label}: {value!r}"])
        elif isinstance(value, str) and value in by_name:
            found.append(by_name[value])
            repairs.add("category_id values that are names taken for the category", [f"{label}: {value!r}"])
        else:
            known = [f"{number} ({name})" for number, name in zip(categories.ids, categories.names, strict=True)]
            more = ", ..." if len(known) > CATEGORIES_SHOWN else ""
            raise UserError(
                f"{document.path}: annotation {label} has category_id {shown(value)}, which 'categories' does not "
                f"list: {', '.join(known[:CATEGORIES_SHOWN])}{more}."
            )
    return found


def _areas(raw: Sequence[Any], sizes: Sequence[tuple[int, int]], reader: ColumnReader) -> list[float | None]:
    """The areas of the file; None where they are to be computed from the mask or the box."""
    rule = FIELD_RULES["annotations.area"]
    areas: list[float | None] = []
    for label, value, (height, width) in zip(reader.labels, raw, sizes, strict=True):
        number = value if type(value) in (int, float) else number_in(value)
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
