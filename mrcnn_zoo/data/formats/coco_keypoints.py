"""The keypoints of a COCO file: those of each annotation, and which of them change places in a mirror."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mrcnn_zoo.data.field_rules import FIELD_RULES, ColumnReader, number_in
from mrcnn_zoo.data.keypoints import FlipPairs, pairs_by_name, read_pairs, read_permutation
from mrcnn_zoo.data.records import RepairLog
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.structures import ImageSize

# COCO's keypoints are pixels, counted from 0; coordinates here are continuous, where a pixel's middle is at one half.
PIXEL_MIDDLE = 0.5
# What files call the pairs that change places in a mirror, and the list that says what each becomes.
PAIR_FIELDS = ("flip_pairs", "keypoint_flip_pairs", "keypoint_flip_map", "keypoints_flip_map", "symmetry")
PERMUTATION_FIELDS = ("flip_indices", "flip_idx", "flip_index")
COORDINATE = FIELD_RULES["annotations.keypoints"]
VISIBILITY = FIELD_RULES["annotations.keypoints.visibility"]
VISIBILITY_PLACE = 2  # of x, y, visibility

Points = tuple[float, ...]


def pairs_of_category(
    category: Mapping[str, Any], names: Sequence[str], *, source: str, repairs: RepairLog, is_strict: bool = True
) -> FlipPairs | None:
    """Which keypoints change places in a mirror, as the category says, or else by their names.

    Args:
        category: with the keypoints.
        names: of the keypoints.
        source: the file, for messages.
        repairs: where it is counted that pairs are left out.
        is_strict: refuse pairs that cannot be understood; otherwise they are left out.

    Returns:
        None where it is not known.

    Raises:
        UserError: pairs that are none.
    """
    for field in (*PAIR_FIELDS, *PERMUTATION_FIELDS):
        value = category.get(field)
        if value is None:
            continue
        read = read_pairs if field in PAIR_FIELDS else read_permutation
        try:
            return read(value, names, where=f"{source}: {field!r} of category {category.get('id')}")
        except UserError:
            if is_strict:
                raise
            repairs.add(f"{field!r} that cannot be understood left out", [category.get("id")], name="category")
    return pairs_by_name(names)


def read_keypoints(
    raw: Sequence[Any], count: int, sizes: Sequence[ImageSize], *, reader: ColumnReader, is_strict: bool = True
) -> list[Points | None]:
    """x, y and visibility of the keypoints of every annotation.

    Args:
        raw: one value per annotation, as it stands in the file.
        count: of the keypoints of the category; 0 leaves them all out.
        sizes: of the image of each annotation.
        reader: names the annotations in messages, and counts repairs.
        is_strict: refuse values that are no keypoints; otherwise they are left out.

    Returns:
        3 x `count` numbers, or None, per annotation.

    Raises:
        UserError: see `is_strict`.
    """
    if count == 0:
        return [None] * len(raw)
    points: list[Points | None] = []
    usual = _usual_points(raw, count, sizes)
    for row, (label, value, size) in enumerate(zip(reader.labels, raw, sizes, strict=True)):
        if row in usual:
            points.append(usual[row])
            continue
        try:
            points.append(_points(value, count, size, label=label, reader=reader))
        except UserError:
            if is_strict:
                raise
            reader.note("keypoints that cannot be read left out, as MODEL.KEYPOINT_ON is False", label, value)
            points.append(None)
    return points


def _usual_points(raw: Sequence[Any], count: int, sizes: Sequence[ImageSize]) -> dict[int, Points]:
    """Those of which nothing is to be repaired, by row; all at once, as there may be millions of numbers."""
    rows = [
        row
        for row, value in enumerate(raw)
        if type(value) is list and len(value) == 3 * count and set(map(type, value)) <= {int, float}
    ]
    try:
        table = np.array([raw[row] for row in rows], dtype=np.float64).reshape(len(rows), count, 3)
    except OverflowError:
        return {}
    frames = np.array([sizes[row][::-1] for row in rows], dtype=np.float64).reshape(-1, 1, 2)
    margin = frames.max(axis=2, keepdims=True)
    is_near = ((table[..., :2] >= -margin) & (table[..., :2] <= frames + margin)).all(axis=2)
    is_usual = np.isin(table[..., 2], (0, 1, 2)) & is_near
    shifted = (table + np.array([PIXEL_MIDDLE, PIXEL_MIDDLE, 0])).reshape(len(rows), 3 * count).tolist()
    return {rows[place]: tuple(shifted[place]) for place in np.flatnonzero(is_usual.all(axis=1)).tolist()}


def _points(value: Any, count: int, size: ImageSize, *, label: object, reader: ColumnReader) -> Points | None:
    values = _flat(value)
    if values is None or (
        isinstance(values, list) and all(COORDINATE.is_absent(item) or item == -1 for item in values)
    ):
        return None
    if not isinstance(values, list) or len(values) != 3 * count:
        found = f"{len(values)} keypoint values" if isinstance(values, list) else f"keypoints {value!r}"
        raise UserError(
            f"{reader.source}: annotation {label} has {found}; {count} keypoints need {3 * count} finite numbers, "
            "x, y and visibility of each."
        )
    numbers: list[float] = []
    for place in range(0, len(values), 3):
        numbers += _point([number_in(item) for item in values[place : place + 3]], size, label=label, reader=reader)
    if any(isinstance(item, str) for item in values):
        reader.note("keypoints written as text taken as numbers", label, value)
    return tuple(numbers)


def _point(values: list[Any], size: ImageSize, *, label: object, reader: ColumnReader) -> tuple[float, float, float]:
    x, y, visibility = values
    if VISIBILITY.is_absent(visibility):
        reader.note("keypoints whose visibility is a placeholder taken as not labelled", label, visibility)
        visibility = 0
    if not VISIBILITY.accepts(visibility):
        raise reader.refusal(label, "a keypoint visibility", visibility, VISIBILITY.words)
    if visibility == 0:
        is_number = COORDINATE.accepts(x) and COORDINATE.accepts(y)
        return (x + PIXEL_MIDDLE, y + PIXEL_MIDDLE, 0.0) if is_number else (PIXEL_MIDDLE, PIXEL_MIDDLE, 0.0)
    if not (COORDINATE.accepts(x) and COORDINATE.accepts(y)):
        raise reader.refusal(
            label, "a labelled keypoint at", [x, y], "finite numbers of pixels; set its visibility to 0"
        )
    longest = max(size)
    if not (-longest <= x <= size[1] + longest and -longest <= y <= size[0] + longest):
        reader.note("keypoints far outside their image taken as not labelled", label, [x, y])
        return PIXEL_MIDDLE, PIXEL_MIDDLE, 0.0
    return x + PIXEL_MIDDLE, y + PIXEL_MIDDLE, float(visibility)


def _flat(value: Any) -> Any:
    """One list of numbers; None where nothing is given. Text may hold the list, and the list one list per point."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except ValueError:
            return value
    if not value or value == -1 or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, list) and all(isinstance(item, list) and len(item) == VISIBILITY_PLACE + 1 for item in value):
        return [number for item in value for number in item]
    return value
