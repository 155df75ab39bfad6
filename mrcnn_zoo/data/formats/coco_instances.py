"""The annotations of a COCO file as instance records, repaired where that is safe and refused where it is not."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mrcnn_zoo.data.formats.coco_boxes import corner_boxes, repair_boxes
from mrcnn_zoo.data.formats.coco_json import Categories, CocoJson, Images
from mrcnn_zoo.data.formats.coco_segmentation import MAX_FLOAT, Segmentations
from mrcnn_zoo.data.records import InstanceRecord
from mrcnn_zoo.data.repairs import RepairLog
from mrcnn_zoo.errors import UserError

# COCO's key points are pixels, counted from 0; coordinates here are continuous, where a pixel's middle is at one half.
PIXEL_MIDDLE = 0.5
CATEGORIES_SHOWN = 20


def read_instances(
    document: CocoJson, *, images: Images, categories: Categories, repairs: RepairLog
) -> list[list[InstanceRecord]]:
    """The objects of each image, in the order of `images` and, within one, of the file.

    Raises:
        UserError: annotations with the same id or with an unknown category, or a mask that is none.
    """
    all_ids = document.ids("annotations")
    image_rows = _image_rows(document, all_ids, images)
    all_classes = _class_indices(document, all_ids, categories)
    known = [row for row, image_row in enumerate(image_rows) if image_row is not None]
    unlisted = [all_ids[row] for row, image_row in enumerate(image_rows) if image_row is None]
    repairs.add("annotations of images that are not listed left out", unlisted)

    annotations = [document.annotations[row] for row in known]
    ids = [all_ids[row] for row in known]
    sizes = [images.sizes[image_rows[row]] for row in known]  # type: ignore[index]
    segmentations = Segmentations(str(document.path), ids=ids, repairs=repairs)
    segmentations.read([annotation.get("segmentation") for annotation in annotations], sizes)
    id_array = np.array(ids, dtype=np.int64)
    repairs.add("objects without any usable mask left out", id_array[segmentations.is_lost])
    boxes = repair_boxes(
        corner_boxes([annotation.get("bbox") for annotation in annotations]),
        segmentations.boxes,
        np.array(sizes, dtype=np.int64).reshape(-1, 2),
        ids=id_array,
        repairs=repairs,
    )
    is_kept = np.isfinite(boxes).all(axis=1) & ~segmentations.is_lost
    box_list = boxes.tolist()

    instances: list[list[InstanceRecord]] = [[] for _ in images.ids]
    for row in np.flatnonzero(is_kept).tolist():
        annotation = annotations[row]
        record = InstanceRecord(
            box=tuple(box_list[row]),
            class_index=all_classes[known[row]],
            segmentation=segmentations.usable[row],  # type: ignore[arg-type]  # an array is a sequence of floats
            keypoints=_keypoints(annotation, len(categories.keypoint_names), document),
            is_crowd=bool(annotation.get("iscrowd", 0)),
            area=_area(annotation.get("area")),
            annotation_id=ids[row],
        )
        instances[image_rows[known[row]]].append(record)  # type: ignore[index]
    return instances


def _image_rows(document: CocoJson, ids: Sequence[int], images: Images) -> list[int | None]:
    """Which image each annotation is of; None for one that is not listed."""
    rows = {number: row for row, number in enumerate(images.ids)}
    raw = document.column("annotations", "image_id")
    try:
        return [rows.get(number) for number in raw]
    except TypeError:  # lists and objects are no keys of a dictionary
        row = next(row for row, number in enumerate(raw) if isinstance(number, list | dict))
        raise UserError(
            f"{document.path}: annotation {ids[row]} has image_id {raw[row]!r}, which is no id of one image."
        ) from None


def _class_indices(document: CocoJson, ids: Sequence[int], categories: Categories) -> list[int]:
    indices = {number: index for index, number in enumerate(categories.ids)}
    raw = document.column("annotations", "category_id")
    try:
        return [indices[number] for number in raw]
    except (KeyError, TypeError):
        row = next(row for row, number in enumerate(raw) if not isinstance(number, int) or number not in indices)
        known = [f"{number} ({name})" for number, name in zip(categories.ids, categories.names, strict=True)]
        more = ", ..." if len(known) > CATEGORIES_SHOWN else ""
        raise UserError(
            f"{document.path}: annotation {ids[row]} has category_id {raw[row]!r}, which 'categories' does not list: "
            f"{', '.join(known[:CATEGORIES_SHOWN])}{more}."
        ) from None


def _keypoints(annotation: dict[str, Any], count: int, document: CocoJson) -> tuple[float, ...] | None:
    values = annotation.get("keypoints")
    if not values or count == 0:
        return None
    if not isinstance(values, list) or len(values) != 3 * count or not all(map(_is_finite, values)):
        found = f"{len(values)} key point values" if isinstance(values, list) else f"'keypoints' {values!r}"
        raise UserError(
            f"{document.path}: annotation {annotation['id']} has {found}; {count} key points "
            f"need {3 * count} finite numbers, x, y and visibility of each."
        )
    return tuple(float(value) if place % 3 == 2 else float(value) + PIXEL_MIDDLE for place, value in enumerate(values))


def _area(value: Any) -> float | None:
    return float(value) if _is_finite(value) and value >= 0 else None


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= MAX_FLOAT  # math.isfinite overflows at long integers
