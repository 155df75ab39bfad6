"""The boxes of a COCO file, checked against their images and masks."""

import json
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.field_rules import FIELD_RULES, ColumnReader, number_in
from mrcnn_zoo.data.records import RepairLog
from mrcnn_zoo.errors import UserError

# A box and its mask contradict each other when they overlap by less than this and an edge is off by more than that:
# boxes of a few pixels, rounded by whoever drew them, overlap badly without being wrong.
MIN_AGREEMENT = 0.5  # IoU
MAX_DISTANCE = 2.0  # pixels
TOLERATED_OVERHANG = 1.0  # pixels; boxes rounded up at the border are not worth a note

Boxes = NDArray[np.float64]


class BoxState(IntEnum):
    """What stands in a file where a box should."""

    USABLE = 0
    ABSENT = 1
    WITHOUT_SIZE = 2
    UNREADABLE = 3


WHAT_IS_WRONG = {
    BoxState.ABSENT: "boxes that are absent",
    BoxState.WITHOUT_SIZE: "boxes that are NaN, infinite or not above 0 in size",
    BoxState.UNREADABLE: "boxes that are not four numbers",
}


def corner_boxes(raw: Sequence[Any], reader: ColumnReader) -> tuple[Boxes, NDArray[np.int64]]:
    """(N, 4) x1 y1 x2 y2 of x, y, width, height as they stand in a file, and (N,) states; NaN where not usable.

    Args:
        raw: one value per annotation.
        reader: counts what is repaired.
    """
    table, states = _as_table(raw, reader)
    with np.errstate(invalid="ignore", over="ignore"):
        corners = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:]], axis=1)
        is_sized = np.isfinite(table).all(axis=1) & (table[:, 2:] > 0).all(axis=1)
    states[(states == BoxState.USABLE) & ~is_sized] = BoxState.WITHOUT_SIZE
    corners[~is_sized] = np.nan
    return np.clip(corners, -np.finfo(float).max, np.finfo(float).max), states


def repair_boxes(
    boxes: Boxes,
    states: NDArray[np.int64],
    mask_boxes: Boxes,
    sizes: NDArray[np.int64],
    *,
    are_trusted: NDArray[np.bool_],
    ids: NDArray[np.int64],
    repairs: RepairLog,
) -> Boxes:
    """Boxes that lie in their image and agree with their mask; the mask is trusted where the two contradict.

    Args:
        boxes: (N, 4) x1 y1 x2 y2, NaN where the file has no usable box.
        states: (N,) of the boxes.
        mask_boxes: (N, 4) around each mask, NaN where there is none.
        sizes: (N, 2) height and width of the image of each.
        are_trusted: (N,) whether a box that contradicts its mask may be replaced.
        ids: (N,) of the annotations.
        repairs: where repairs are counted.

    Returns:
        (N, 4), NaN where no box is left and the annotation must be left out.
    """
    has_box, has_mask_box = states == BoxState.USABLE, _is_sized(mask_boxes)
    for state, what in WHAT_IS_WRONG.items():
        repairs.add(f"{what} taken from the mask", ids[(states == state) & has_mask_box])
    repairs.add("objects without a box and a mask left out", ids[(states == BoxState.ABSENT) & ~has_mask_box])
    repairs.add(
        f"{WHAT_IS_WRONG[BoxState.WITHOUT_SIZE]} left out", ids[(states == BoxState.WITHOUT_SIZE) & ~has_mask_box]
    )
    contradicts = has_box & has_mask_box & _is_contradicting(boxes, mask_boxes)
    repairs.add("boxes that contradict their mask taken from the mask", ids[contradicts & are_trusted])
    repairs.add("boxes that contradict their mask kept", ids[contradicts & ~are_trusted])
    from_mask = (contradicts & are_trusted) | (~has_box & has_mask_box)
    boxes = np.where(from_mask[:, None], mask_boxes, boxes)
    return _clip(boxes, sizes, ids=ids, repairs=repairs)


def check_readable(raw: Sequence[Any], states: NDArray[np.int64], mask_boxes: Boxes, reader: ColumnReader) -> None:
    """Stop at a box that is not four numbers where no mask can give it.

    Raises:
        UserError: with the annotation and the value.
    """
    rows = np.flatnonzero((states == BoxState.UNREADABLE) & ~_is_sized(mask_boxes))
    if len(rows):
        row = int(rows[0])
        raise reader.refusal(reader.labels[row], "bbox", raw[row], "four numbers: x, y, width and height in pixels")


def check_unit(boxes: Boxes, mask_boxes: Boxes, sizes: NDArray[np.int64], reader: ColumnReader) -> None:
    """Stop where boxes are fractions of the image instead of pixels: all would be less than a pixel in size.

    Raises:
        UserError: with the first box.
    """
    rows = np.flatnonzero(np.isfinite(boxes).all(axis=1))
    if not len(rows):
        return
    found = np.concatenate([boxes[rows], mask_boxes[rows][_is_sized(mask_boxes[rows])]])
    is_relative = found.min() >= 0 and found.max() <= 1 and (found != np.round(found)).any()
    if is_relative and sizes[rows].min() > 1:
        x1, y1, x2, y2 = boxes[rows[0]].tolist()
        raise UserError(
            f"{reader.source}: all boxes lie between 0 and 1 (annotation {reader.labels[rows[0]]}: "
            f"{[x1, y1, x2 - x1, y2 - y1]}), so they seem to be fractions of the image. COCO's boxes are x, y, width "
            "and height in pixels: multiply them by the width and height of the image."
        )


def _clip(boxes: Boxes, sizes: NDArray[np.int64], *, ids: NDArray[np.int64], repairs: RepairLog) -> Boxes:
    limits = np.concatenate([sizes[:, ::-1], sizes[:, ::-1]], axis=1)
    clipped = np.clip(boxes, 0, limits)
    is_box = np.isfinite(boxes).all(axis=1)
    is_left = _is_sized(clipped)
    overhang = np.abs(np.nan_to_num(boxes - clipped)).max(axis=1, initial=0)
    repairs.add("boxes outside their image left out", ids[is_box & ~is_left])
    repairs.add("boxes that reach outside their image clipped", ids[is_left & (overhang > TOLERATED_OVERHANG)])
    clipped[~is_left] = np.nan
    return clipped


def _is_sized(boxes: Boxes) -> NDArray[np.bool_]:
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def _is_contradicting(boxes: Boxes, others: Boxes) -> NDArray[np.bool_]:
    with np.errstate(over="ignore", invalid="ignore"):
        low = np.maximum(boxes[:, :2], others[:, :2])
        high = np.minimum(boxes[:, 2:], others[:, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=1)
        areas = [(table[:, 2:] - table[:, :2]).prod(axis=1) for table in (boxes, others)]
        is_far = np.abs(boxes - others).max(axis=1, initial=0) > MAX_DISTANCE
        return is_far & (shared < MIN_AGREEMENT * (areas[0] + areas[1] - shared))


def _as_table(raw: Sequence[Any], reader: ColumnReader) -> tuple[Boxes, NDArray[np.int64]]:
    """(N, 4) numbers as they stand there, NaN where there are not four, and (N,) states."""
    states = np.full(len(raw), BoxState.USABLE, dtype=np.int64)
    is_plain = all(type(value) is list and len(value) == 4 and set(map(type, value)) <= {int, float} for value in raw)
    try:
        table = np.array(raw, dtype=np.float64).reshape(-1, 4) if is_plain else np.full((len(raw), 4), np.nan)
    except OverflowError:
        is_plain, table = False, np.full((len(raw), 4), np.nan)
    if not is_plain:
        for row, value in enumerate(raw):
            states[row] = _read_row(value, table[row], reader, row)
    has_no_box = (table == 0).all(axis=1) | (table == -1).all(axis=1)
    states[(states == BoxState.USABLE) & has_no_box] = BoxState.ABSENT
    return table, states


def _read_row(value: Any, row: Boxes, reader: ColumnReader, place: int) -> BoxState:
    """Write four numbers into a row, from whatever stands for them."""
    numbers = _parsed(value) if isinstance(value, str) else value
    if isinstance(numbers, list) and len(numbers) == 1 and isinstance(numbers[0], list):
        numbers = numbers[0]
    rule = FIELD_RULES["annotations.bbox"]
    if not isinstance(numbers, list):
        is_absent = rule.is_absent(numbers) or (not isinstance(numbers, str | dict) and numbers in (0, -1, False))
        return BoxState.ABSENT if is_absent or numbers == {} else BoxState.UNREADABLE
    numbers = [number_in(number) for number in numbers]
    if all(rule.is_absent(number) for number in numbers):
        return BoxState.ABSENT
    is_number = [isinstance(number, int | float) and not isinstance(number, bool) for number in numbers]
    if len(numbers) != 4 or not all(is_number):
        return BoxState.UNREADABLE
    try:
        row[:] = numbers
    except OverflowError:
        return BoxState.WITHOUT_SIZE
    if numbers != value:
        reader.note("boxes written as text or in a list of their own read", reader.labels[place], value)
    return BoxState.USABLE


def _parsed(text: str) -> Any:
    try:
        return json.loads(text) if text.strip() else None
    except ValueError:
        return text
