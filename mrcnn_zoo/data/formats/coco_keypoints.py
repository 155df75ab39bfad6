"""The keypoints of a COCO file: those of each annotation, and the pairs that a mirror exchanges."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mrcnn_zoo.data.field_rules import FIELD_RULES, ColumnReader, parse_number
from mrcnn_zoo.data.keypoints import PIXEL_CENTER, FlipPairs, pairs_by_name, read_pairs, read_permutation
from mrcnn_zoo.data.records import RepairLog
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.structures import ImageSize

# Fields of a category with the pairs that a mirror exchanges, and with the permutation of all keypoints.
PAIR_FIELDS = ("flip_pairs", "keypoint_flip_pairs", "keypoint_flip_map", "keypoints_flip_map", "symmetry")
PERMUTATION_FIELDS = ("flip_indices", "flip_idx", "flip_index")
COORDINATE = FIELD_RULES["annotations.keypoints"]
VISIBILITY = FIELD_RULES["annotations.keypoints.visibility"]

Points = tuple[float, ...]  # x, y, visibility of J keypoints, 3 J numbers


def read_flip_pairs(
    category: Mapping[str, Any], names: Sequence[str], *, source: str, repairs: RepairLog, is_strict: bool = True
) -> FlipPairs | None:
    """The keypoints that a mirror exchanges, from the fields of the category or else from the names.

    Args:
        category: with the keypoints.
        names: of the keypoints.
        source: the file, for messages.
        repairs: counts repairs.
        is_strict: whether unreadable pairs are errors; otherwise they are left out.

    Returns:
        pairs of rows; None if they are unknown.

    Raises:
        UserError: pairs that cannot be read.
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
    """x, y and visibility of the keypoints of every annotation, in continuous pixels.

    Args:
        raw: one value per annotation.
        count: keypoints of the category; 0 leaves all out.
        sizes: (height, width) of each annotation's image.
        reader: names annotations in messages and counts repairs.
        is_strict: whether unreadable values are errors; otherwise they are left out.

    Returns:
        per annotation 3 x `count` numbers, or None.

    Raises:
        UserError: values that cannot be read, if `is_strict`.
    """
    if count == 0:
        return [None] * len(raw)
    keypoints: list[Points | None] = []
    valid = _read_valid(raw, count, sizes)
    for row, (label, value, size) in enumerate(zip(reader.labels, raw, sizes, strict=True)):
        if row in valid:
            keypoints.append(valid[row])
            continue
        try:
            keypoints.append(_read_points(value, count, size, label=label, reader=reader))
        except UserError:
            if is_strict:
                raise
            reader.note("keypoints that cannot be read left out, as MODEL.KEYPOINT_ON is False", label, value)
            keypoints.append(None)
    return keypoints


def _read_valid(raw: Sequence[Any], count: int, sizes: Sequence[ImageSize]) -> dict[int, Points]:
    """The keypoints that need no repair, by row, in one array operation: there may be millions of numbers."""
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
    is_valid = np.isin(table[..., 2], (0, 1, 2)) & is_near
    shifted = (table + np.array([PIXEL_CENTER, PIXEL_CENTER, 0])).reshape(len(rows), 3 * count).tolist()
    return {rows[place]: tuple(shifted[place]) for place in np.flatnonzero(is_valid.all(axis=1)).tolist()}


def _read_points(value: Any, count: int, size: ImageSize, *, label: object, reader: ColumnReader) -> Points | None:
    values = _flatten(value)
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
        point = [parse_number(item) for item in values[place : place + 3]]
        numbers += _read_point(point, size, label=label, reader=reader)
    if any(isinstance(item, str) for item in values):
        reader.note("keypoints written as text taken as numbers", label, value)
    return tuple(numbers)


def _read_point(values: list[Any], size: ImageSize, *, label: object, reader: ColumnReader) -> Points:
    x, y, visibility = values
    if VISIBILITY.is_absent(visibility):
        reader.note("keypoints whose visibility is a placeholder taken as not labelled", label, visibility)
        visibility = 0
    if not VISIBILITY.accepts(visibility):
        raise reader.error(label, "a keypoint visibility", visibility, VISIBILITY.words)
    is_number = COORDINATE.accepts(x) and COORDINATE.accepts(y)
    if visibility > 0:
        if not is_number:
            raise reader.error(
                label, "a labelled keypoint at", [x, y], "finite numbers of pixels; set its visibility to 0"
            )
        longest = max(size)
        if not (-longest <= x <= size[1] + longest and -longest <= y <= size[0] + longest):
            reader.note("keypoints far outside their image taken as not labelled", label, [x, y])
            x, y, visibility = 0, 0, 0
    elif not is_number:
        x, y = 0, 0
    return x + PIXEL_CENTER, y + PIXEL_CENTER, float(visibility)


def _flatten(value: Any) -> Any:
    """One list of numbers, from text or from one list per point; None if there is none."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except ValueError:
            return value
    if not value or value == -1 or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, list) and all(isinstance(item, list) and len(item) == 3 for item in value):
        return [number for item in value for number in item]
    return value
