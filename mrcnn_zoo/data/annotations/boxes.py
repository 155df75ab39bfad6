"""Boxes of annotations: repaired where that is safe, refused where it is not, and compared with their masks."""

import json
from collections.abc import Sequence
from enum import IntEnum
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.annotations.segmentations import Segmentations
from mrcnn_zoo.data.field_rules import FIELD_RULES, ColumnReader, parse_number
from mrcnn_zoo.data.records import RepairLog
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.structures import ImageSize

# A box contradicts its mask if their IoU is below this and an edge is farther away than that: boxes of a few pixels
# that an annotator rounded overlap badly without being wrong.
MIN_IOU_WITH_MASK = 0.5
MAX_EDGE_DISTANCE = 2.0  # pixels
# Of the boxes with a mask; if more contradict theirs, all have another order than COCO's, such as y, x, h, w.
MOST = 0.5
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


class _Labels:
    """Labels of annotations, of which a mask of rows selects some."""

    def __init__(self, labels: Sequence[object]) -> None:
        self.labels = labels

    def __getitem__(self, is_chosen: NDArray[np.bool_]) -> list[object]:
        return [self.labels[row] for row in np.flatnonzero(is_chosen).tolist()]


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
    mask_boxes, ids, repairs = segmentations.boxes, _Labels(reader.labels), reader.repairs
    is_valid, has_mask = states == BoxState.VALID, _has_area(mask_boxes)
    unreadable = np.flatnonzero((states == BoxState.UNREADABLE) & ~has_mask)
    if len(unreadable):
        row = int(unreadable[0])
        raise reader.error(reader.labels[row], "bbox", raw[row], "four numbers: x, y, width and height in pixels")
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
    if is_replaced.sum() > MOST * (is_valid & has_mask).sum():
        others = is_valid & has_mask & ~is_replaced
        repairs.add("boxes taken from the mask, as most boxes contradict theirs", ids[others])
        is_replaced |= others
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
    is_plain = set(map(type, raw)) <= {list} and set(map(len, raw)) <= {4}
    is_plain = is_plain and set(map(type, chain.from_iterable(raw))) <= {int, float}
    table = np.full((len(raw), 4), np.nan)
    try:
        if is_plain:
            table = np.fromiter(chain.from_iterable(raw), dtype=np.float64, count=4 * len(raw)).reshape(-1, 4)
    except OverflowError:
        is_plain = False
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


def _clip(boxes: Boxes, frames: NDArray[np.int64], *, ids: "_Labels", repairs: RepairLog) -> Boxes:
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
