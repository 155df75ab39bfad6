"""The annotations of a COCO file as instance records: repaired where that is safe, refused where it is not."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.field_rules import FIELD_RULES, ColumnReader, parse_number, short_repr
from mrcnn_zoo.data.formats.coco_json import Categories, CocoJson, Images
from mrcnn_zoo.data.formats.coco_keypoints import read_keypoints
from mrcnn_zoo.data.formats.coco_segmentation import SegmentationReader, Segmentations
from mrcnn_zoo.data.records import InstanceRecord, RepairLog
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.structures import ImageSize

CATEGORIES_SHOWN = 20
IDS_SHOWN = 5

# A box contradicts its mask if their IoU is below this and an edge is farther away than that: boxes of a few pixels
# that an annotator rounded overlap badly without being wrong.
MIN_IOU_WITH_MASK = 0.5
MAX_EDGE_DISTANCE = 2.0  # pixels
TOLERATED_OVERHANG = 1.0  # pixels; boxes rounded up at the border are not noted

Boxes = NDArray[np.float64]  # (N, 4) x1 y1 x2 y2; NaN if there is none
States = NDArray[np.int64]  # (N,) of BoxState


class BoxState(IntEnum):
    """The kind of value in the field "bbox"."""

    VALID = 0
    ABSENT = 1
    DEGENERATE = 2
    UNREADABLE = 3


PROBLEMS = {
    BoxState.ABSENT: "boxes that are absent",
    BoxState.DEGENERATE: "boxes that are NaN, infinite or not above 0 in size",
    BoxState.UNREADABLE: "boxes that are not four numbers",
}


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
        document: the file.
        images: of the file.
        categories: of the file.
        repairs: counts repairs.
        needs_masks: whether unreadable segmentations are errors; otherwise their objects keep the box alone.
        needs_keypoints: whether unreadable keypoints are errors; otherwise they are left out.

    Raises:
        UserError: a value that cannot be repaired, with the file, the annotation and the value.
    """
    all_ids = document.ids("annotations", repairs=repairs)
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
    if set(map(type, raw)) <= {int}:
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


def read_boxes(
    raw: Sequence[Any],
    segmentations: Segmentations,
    sizes: Sequence[ImageSize],
    *,
    reader: ColumnReader,
    needs_masks: bool,
) -> Boxes:
    """Boxes inside their images that agree with their masks; a mask is trusted where the two contradict.

    Args:
        raw: one value per annotation, x, y, width and height.
        segmentations: of the annotations.
        sizes: (height, width) of each annotation's image.
        reader: names annotations in messages and counts repairs.
        needs_masks: whether a box that contradicts its mask is replaced.

    Returns:
        (N, 4) x1 y1 x2 y2, NaN if the annotation must be left out.

    Raises:
        UserError: a value that is not four numbers and has no mask, or boxes as fractions of the image.
    """
    boxes, states = _corner_boxes(raw, reader)
    mask_boxes, ids, repairs = segmentations.boxes, np.array(reader.labels, dtype=np.int64), reader.repairs
    is_valid, has_mask = states == BoxState.VALID, _has_area(mask_boxes)
    unreadable = np.flatnonzero((states == BoxState.UNREADABLE) & ~has_mask)
    if len(unreadable):
        row = int(unreadable[0])
        raise reader.error(ids[row], "bbox", raw[row], "four numbers: x, y, width and height in pixels")
    frames = np.array(sizes, dtype=np.int64).reshape(-1, 2)[:, ::-1]  # width, height
    _check_unit(boxes, mask_boxes, frames, reader)

    for state, problem in PROBLEMS.items():
        repairs.add(f"{problem} taken from the mask", ids[(states == state) & has_mask])
    repairs.add("objects without a box and a mask left out", ids[(states == BoxState.ABSENT) & ~has_mask])
    degenerate = (states == BoxState.DEGENERATE) & ~has_mask
    repairs.add(f"{PROBLEMS[BoxState.DEGENERATE]} left out", ids[degenerate])
    contradicts = is_valid & has_mask & _contradicts(boxes, mask_boxes)
    is_replaced = contradicts & ~segmentations.is_doubtful & needs_masks
    repairs.add("boxes that contradict their mask taken from the mask", ids[is_replaced])
    repairs.add("boxes that contradict their mask kept", ids[contradicts & ~is_replaced])
    boxes = np.where((is_replaced | (~is_valid & has_mask))[:, None], mask_boxes, boxes)
    return _clip(boxes, frames, ids=ids, repairs=repairs)


def _corner_boxes(raw: Sequence[Any], reader: ColumnReader) -> tuple[Boxes, States]:
    """(N, 4) x1 y1 x2 y2 of x, y, width, height as they are in the file, and (N,) states."""
    table, states = _read_numbers(raw, reader)
    with np.errstate(invalid="ignore", over="ignore"):
        corners = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:]], axis=1)
        has_area = np.isfinite(table).all(axis=1) & (table[:, 2:] > 0).all(axis=1)
    states[(states == BoxState.VALID) & ~has_area] = BoxState.DEGENERATE
    corners[~has_area] = np.nan
    return np.clip(corners, -np.finfo(float).max, np.finfo(float).max), states


def _read_numbers(raw: Sequence[Any], reader: ColumnReader) -> tuple[Boxes, States]:
    """(N, 4) numbers of the file, NaN if there are not four, and (N,) states."""
    states = np.full(len(raw), BoxState.VALID, dtype=np.int64)
    is_plain = all(type(value) is list and len(value) == 4 and set(map(type, value)) <= {int, float} for value in raw)
    try:
        table = np.array(raw, dtype=np.float64).reshape(-1, 4) if is_plain else np.full((len(raw), 4), np.nan)
    except OverflowError:
        is_plain, table = False, np.full((len(raw), 4), np.nan)
    if not is_plain:
        for row, value in enumerate(raw):
            states[row] = _read_row(value, table[row], reader, reader.labels[row])
    is_placeholder = (table == 0).all(axis=1) | (table == -1).all(axis=1)
    states[(states == BoxState.VALID) & is_placeholder] = BoxState.ABSENT
    return table, states


def _read_row(value: Any, row: NDArray[np.float64], reader: ColumnReader, label: object) -> BoxState:
    """Write the four numbers of a value in any form into a row."""
    numbers = _parse_text(value) if isinstance(value, str) else value
    if isinstance(numbers, list) and len(numbers) == 1 and isinstance(numbers[0], list):
        numbers = numbers[0]
    rule = FIELD_RULES["annotations.bbox"]
    if not isinstance(numbers, list):
        is_absent = rule.is_absent(numbers) or (not isinstance(numbers, str | dict) and numbers in (0, -1, False))
        return BoxState.ABSENT if is_absent or numbers == {} else BoxState.UNREADABLE
    numbers = [parse_number(number) for number in numbers]
    if all(rule.is_absent(number) for number in numbers):
        return BoxState.ABSENT
    is_number = [isinstance(number, int | float) and not isinstance(number, bool) for number in numbers]
    if len(numbers) != 4 or not all(is_number):
        return BoxState.UNREADABLE
    try:
        row[:] = numbers
    except OverflowError:
        return BoxState.DEGENERATE
    if numbers != value:
        reader.note("boxes written as text or in a list of their own read", label, value)
    return BoxState.VALID


def _parse_text(text: str) -> Any:
    try:
        return json.loads(text) if text.strip() else None
    except ValueError:
        return text


def _check_unit(boxes: Boxes, mask_boxes: Boxes, frames: NDArray[np.int64], reader: ColumnReader) -> None:
    """Refuse boxes that are fractions of the image: in pixels, all would be smaller than one."""
    rows = np.flatnonzero(np.isfinite(boxes).all(axis=1))
    if not len(rows):
        return
    found = np.concatenate([boxes[rows], mask_boxes[rows][_has_area(mask_boxes[rows])]])
    is_relative = found.min() >= 0 and found.max() <= 1 and (found != np.round(found)).any()
    if is_relative and frames[rows].min() > 1:
        x1, y1, x2, y2 = boxes[rows[0]].tolist()
        raise UserError(
            f"{reader.source}: all boxes lie between 0 and 1 (annotation {reader.labels[rows[0]]}: "
            f"{[x1, y1, x2 - x1, y2 - y1]}), so they seem to be fractions of the image. COCO's boxes are x, y, width "
            "and height in pixels: multiply them by the width and height of the image."
        )


def _clip(boxes: Boxes, frames: NDArray[np.int64], *, ids: NDArray[np.int64], repairs: RepairLog) -> Boxes:
    clipped = np.clip(boxes, 0, np.concatenate([frames, frames], axis=1))
    is_box, is_inside = np.isfinite(boxes).all(axis=1), _has_area(clipped)
    overhang = np.abs(np.nan_to_num(boxes - clipped)).max(axis=1, initial=0)
    repairs.add("boxes outside their image left out", ids[is_box & ~is_inside])
    repairs.add("boxes that reach outside their image clipped", ids[is_inside & (overhang > TOLERATED_OVERHANG)])
    clipped[~is_inside] = np.nan
    return clipped


def _has_area(boxes: Boxes) -> NDArray[np.bool_]:
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def _contradicts(boxes: Boxes, others: Boxes) -> NDArray[np.bool_]:
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = np.maximum(boxes[:, :2], others[:, :2]), np.minimum(boxes[:, 2:], others[:, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=1)
        areas = [(table[:, 2:] - table[:, :2]).prod(axis=1) for table in (boxes, others)]
        is_far = np.abs(boxes - others).max(axis=1, initial=0) > MAX_EDGE_DISTANCE
        return is_far & (shared < MIN_IOU_WITH_MASK * (areas[0] + areas[1] - shared))
