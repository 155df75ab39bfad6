"""The forms that segmentations come in besides COCO's own: points as pairs or objects, text, run lengths in a list."""

import ast
import json
from collections.abc import Sequence
from typing import Any

from mrcnn_zoo.data.field_rules import number_in, shown
from mrcnn_zoo.ops import rle as rle_ops
from mrcnn_zoo.ops.rle import Rle
from mrcnn_zoo.structures import ImageSize

FORMS = (
    "is neither a list of polygons [[x1, y1, x2, y2, ...], ...] nor a run-length encoding "
    "{'size': [height, width], 'counts': ...}"
)
PAIR = 2


class UnreadableSegmentationError(ValueError):
    """What a segmentation is that cannot be read, as the end of a sentence about it."""


def is_plain(value: Any) -> bool:
    """Whether a segmentation is a list of polygons in COCO's own form, each x1, y1, x2, y2, ...; or an empty list."""
    return type(value) is list and all(
        type(polygon) is list and len(polygon) > PAIR and type(polygon[0]) in (int, float) for polygon in value
    )


def is_absent(value: Any) -> bool:
    """Whether a value stands for no segmentation: null, "", 0, -1, false, {}, [], [[]] and the like."""
    if isinstance(value, list):
        return all(isinstance(item, list) and is_absent(item) for item in value)
    return not value or value == -1 or value != value or (isinstance(value, str) and not value.strip())


def polygons_in(value: Any) -> tuple[list[list[Any]], list[dict[str, Any]], str]:
    """Polygons as flat lists of coordinates, or run lengths, of a segmentation in any form.

    Returns:
        polygons, run-length encodings, and what was repaired, or "".

    Raises:
        UnreadableSegmentationError: a value of no known form.
    """
    if isinstance(value, str):
        polygons, rles, _ = polygons_in(_parsed(value))
        return polygons, rles, "segmentations written as text read"
    if isinstance(value, dict):
        return [], [value], ""
    if not isinstance(value, list):
        raise UnreadableSegmentationError(f"{FORMS}; it is {shown(value)}")
    if all(isinstance(item, dict) and "counts" in item for item in value):
        return [], value, ""
    if _is_points(value):
        return [_flat(value)], [], "polygons of points as pairs or objects read"
    if not any(isinstance(item, list | dict) for item in value):
        return [value], [], ""  # a single polygon that is not wrapped in a list, a common slip of hand-made files
    is_repaired = False
    polygons = []
    for item in value:
        if not isinstance(item, list):
            raise UnreadableSegmentationError(f"{FORMS}; it is {shown(value)}")
        is_repaired |= _is_points(item)
        polygons.append(_flat(item) if _is_points(item) else item)
        if any(isinstance(number, list | dict) for number in polygons[-1]):
            raise UnreadableSegmentationError(f"{FORMS}; it is {shown(value)}")
    return polygons, [], "polygons of points as pairs or objects read" if is_repaired else ""


def read_rle(rles: Sequence[dict[str, Any]], size: ImageSize) -> tuple[Rle | None, str]:
    """One compressed encoding of a mask that may come in several, and what was repaired; None for an empty mask.

    Raises:
        UnreadableSegmentationError: encodings that are incomplete, of another image's size or not of a mask of it.
    """
    repair = ""
    checked = []
    for rle in rles:
        if not isinstance(rle.get("counts"), str | list) or not isinstance(rle.get("size"), list):
            raise UnreadableSegmentationError(f"needs 'counts' and 'size' as run lengths, it has {', '.join(rle)}")
        sides = [number_in(side) for side in rle["size"]]
        if sides != list(size):  # before anything is decoded in a size that the image does not have
            raise UnreadableSegmentationError(
                f"is a mask of {shown(rle['size'])} pixels (height, width) where its image is {list(size)}"
            )
        counts, more = _read_counts(rle["counts"])
        repair = repair or more
        if not len(counts):
            continue
        plain = {"size": list(size), "counts": counts}
        try:
            rle_ops.read_runs(plain)
        except (ValueError, TypeError, OverflowError) as error:
            raise UnreadableSegmentationError(f"cannot be decoded: {error}") from error
        checked.append(rle_ops.compress(plain))
    if not checked:
        return None, repair
    return rle_ops.merge(checked), repair


def _parsed(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if isinstance(value, str):
        raise UnreadableSegmentationError(f"{FORMS}; it is {shown(text)}")
    return value


def _is_points(value: list[Any]) -> bool:
    """Whether a list holds points: [x, y] each, or {"x": ..., "y": ...}."""
    return bool(value) and (
        all(isinstance(item, list) and len(item) == PAIR and not _has_lists(item) for item in value)
        or all(isinstance(item, dict) and {"x", "y"} <= item.keys() for item in value)
    )


def _has_lists(value: list[Any]) -> bool:
    return any(isinstance(item, list | dict) for item in value)


def _flat(points: list[Any]) -> list[Any]:
    return [number for point in points for number in ((point["x"], point["y"]) if isinstance(point, dict) else point)]


def _read_counts(counts: str | list[Any]) -> tuple[str | list[int], str]:
    if isinstance(counts, str):
        if counts[:2] in ("b'", 'b"') and counts[-1:] == counts[1]:  # a bytes object written with str()
            try:
                return ast.literal_eval(counts).decode("ascii"), "run lengths written as b'...' read"
            except (ValueError, SyntaxError, UnicodeDecodeError):
                return counts, ""
        return counts, ""
    runs = []
    for value in counts:
        number = number_in(value)
        if isinstance(number, bool) or not isinstance(number, int | float) or number != number // 1:
            raise UnreadableSegmentationError(f"has the run length {shown(value)}, which is no whole number")
        runs.append(int(number))
    return runs, "run lengths written as text taken as numbers" if any(isinstance(run, str) for run in counts) else ""
