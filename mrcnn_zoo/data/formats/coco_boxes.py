"""The boxes of a COCO file, checked against their images and masks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.repairs import RepairLog

# A box and its mask contradict each other when they overlap by less than this and an edge is off by more than that:
# boxes of a few pixels, rounded by whoever drew them, overlap badly without being wrong.
MIN_AGREEMENT = 0.5  # IoU
MAX_DISTANCE = 2.0  # pixels
TOLERATED_OVERHANG = 1.0  # pixels; boxes rounded up at the border are not worth a note

Boxes = NDArray[np.float64]


def corner_boxes(raw: Sequence[Any]) -> Boxes:
    """(N, 4) x1 y1 x2 y2 of x, y, width, height as they stand in a file; NaN where that is no box with a size."""
    table = _as_table(raw)
    is_sized = np.isfinite(table).all(axis=1) & (table[:, 2:] > 0).all(axis=1)
    table[~is_sized] = np.nan
    table[:, 2:] += table[:, :2]
    return table


def repair_boxes(
    boxes: Boxes, mask_boxes: Boxes, sizes: NDArray[np.int64], *, ids: NDArray[np.int64], repairs: RepairLog
) -> Boxes:
    """Boxes that lie in their image and agree with their mask; the mask is trusted where the two contradict.

    Args:
        boxes: (N, 4) x1 y1 x2 y2, NaN where the file has no usable box.
        mask_boxes: (N, 4) around each mask, NaN where there is none.
        sizes: (N, 2) height and width of the image of each.
        ids: (N,) of the annotations.
        repairs: where repairs are counted.

    Returns:
        (N, 4), NaN where no box is left and the annotation must be left out.
    """
    has_box, has_mask_box = np.isfinite(boxes).all(axis=1), _is_sized(mask_boxes)
    repairs.add("boxes that are NaN, infinite or not above 0 in size taken from the mask", ids[~has_box & has_mask_box])
    repairs.add("boxes that are NaN, infinite or not above 0 in size left out", ids[~has_box & ~has_mask_box])
    contradicts = has_box & has_mask_box & _is_contradicting(boxes, mask_boxes)
    repairs.add("boxes that contradict their mask taken from the mask", ids[contradicts])
    from_mask = contradicts | (~has_box & has_mask_box)
    boxes = np.where(from_mask[:, None], mask_boxes, boxes)
    return _clip(boxes, sizes, ids=ids, repairs=repairs)


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
    low = np.maximum(boxes[:, :2], others[:, :2])
    high = np.minimum(boxes[:, 2:], others[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    areas = [(table[:, 2:] - table[:, :2]).prod(axis=1) for table in (boxes, others)]
    is_far = np.abs(boxes - others).max(axis=1, initial=0) > MAX_DISTANCE
    return is_far & (shared < MIN_AGREEMENT * (areas[0] + areas[1] - shared))


def _as_table(raw: Sequence[Any]) -> Boxes:
    try:
        table = np.array(raw, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        table = np.array([_as_row(value) for value in raw])
    if table.shape != (len(raw), 4):
        table = np.array([_as_row(value) for value in raw])
    return table.reshape(-1, 4)


def _as_row(value: Any) -> Boxes:
    try:
        row = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.full(4, np.nan)
    return row if row.shape == (4,) else np.full(4, np.nan)
