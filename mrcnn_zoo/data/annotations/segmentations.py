"""COCO segmentations: polygons and run-length encodings in any form, checked, with the boxes around them.

Besides COCO's own forms, these are read: points as pairs or objects, a single polygon, text, and lists of encodings.
"""

import ast
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.field_rules import ColumnReader, parse_number, short_repr
from mrcnn_zoo.data.masks import encode_clipped_polygons, max_outline_steps, num_outline_steps
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops import rle as rle_ops
from mrcnn_zoo.ops.rle import Rle
from mrcnn_zoo.structures import ImageSize

FORMS = (
    "is neither a list of polygons [[x1, y1, x2, y2, ...], ...] nor a run-length encoding "
    "{'size': [height, width], 'counts': ...}"
)
POINTS_READ = "polygons of points as pairs or objects read"
MIN_NUMBERS = 6  # x and y of three points
MAX_FLOAT = sys.float_info.max  # JSON integers have no limit

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Segmentations:
    """The usable segmentations of N annotations."""

    values: list[list[NDArray[np.float64]] | Rle | None]  # N; None if there is none
    boxes: NDArray[np.float64]  # (N, 4) x1 y1 x2 y2 around each; NaN if there is none
    is_doubtful: NDArray[np.bool_]  # (N,) where the box of the file is more likely right than the mask


class UnreadableSegmentationError(ValueError):
    """The problem of a segmentation, as the predicate of a sentence."""


class SegmentationReader:
    """Reads the segmentations of a file.

    Args:
        reader: names annotations in messages and counts repairs.
        sizes: (height, width) of each annotation's image.
        is_strict: whether unreadable segmentations are errors; otherwise they are left out and counted.
    """

    def __init__(self, reader: ColumnReader, sizes: Sequence[ImageSize], *, is_strict: bool) -> None:
        self.reader = reader
        self.sizes = sizes
        self.is_strict = is_strict
        count = len(sizes)
        self.table = Segmentations([None] * count, np.full((count, 4), np.nan), np.zeros(count, dtype=bool))

    def read(self, raw: Sequence[Any]) -> Segmentations:
        """Read the values of the file, one per annotation.

        Raises:
            UserError: a segmentation that is neither polygons nor an encoding, or an encoding of another image size.
        """
        polygons: list[list[Any]] = []
        owners: list[int] = []
        for row, value in enumerate(raw):
            found = value if _is_list_of_polygons(value) else self._read_other_form(row, value)
            polygons += found
            owners += [row] * len(found)
        self._read_polygons(polygons, np.array(owners, dtype=np.int64))
        return self.table

    def _read_other_form(self, row: int, value: Any) -> list[list[Any]]:
        """The polygons of a segmentation; an encoding is stored instead."""
        if _is_absent(value):
            return []
        try:
            polygons, rles, repair = parse_segmentation(value)
            self._note(repair, [row])
            if rles:
                rle, repair = read_rles(rles, self.sizes[row])
                self._note(repair, [row])
                self._store_rle(row, rle, note_if_empty="empty masks left out")
        except UnreadableSegmentationError as error:
            self._refuse(row, str(error))
            return []
        return polygons

    def _store_rle(self, row: int, rle: Rle | None, *, note_if_empty: str) -> None:
        box = None if rle is None else rle_ops.bounding_box(rle)
        if box is None:
            self._note(note_if_empty, [row])
            return
        self.table.values[row] = rle
        self.table.boxes[row] = box

    def _read_polygons(self, polygons: list[list[Any]], owners: Integers) -> None:
        lengths = np.array([len(polygon) for polygon in polygons], dtype=np.int64)
        for place in np.flatnonzero((lengths % 2 == 1) & (lengths > MIN_NUMBERS)).tolist():
            owner = int(owners[place])
            self.reader.repairs.add(
                "polygons with an odd number of coordinates read without the last one",  # as pycocotools reads them
                [f"{self.reader.labels[owner]}: {lengths[place]} numbers"],
            )
            polygons[place] = polygons[place][:-1]
            lengths[place] -= 1
            self.table.is_doubtful[owner] = True
        is_long = lengths >= MIN_NUMBERS
        self._note("polygons with fewer than 3 points left out", owners[~is_long].tolist())
        kept = np.flatnonzero(is_long)
        if len(kept):
            self._store_polygons([polygons[place] for place in kept], owners[kept], lengths[kept])

    def _store_polygons(self, polygons: list[list[Any]], owners: Integers, lengths: Integers) -> None:
        """Store polygons as views of one array, which takes a quarter of the memory of lists of floats."""
        numbers = self._coordinates(polygons, owners, int(lengths.sum()))
        starts = np.cumsum(lengths) - lengths
        is_finite = np.logical_and.reduceat(np.isfinite(numbers), starts)
        self._note("polygons with NaN, infinite or null coordinates left out", owners[~is_finite].tolist())
        points, first_points = numbers.reshape(-1, 2), starts // 2
        low = np.minimum.reduceat(points, first_points)
        high = np.maximum.reduceat(points, first_points)
        is_point = is_finite & (low == high).all(axis=1)
        self._note("polygons whose points are all the same left out", owners[is_point].tolist())
        is_kept = is_finite & ~is_point
        spans = zip(*(column[is_kept].tolist() for column in (owners, starts, starts + lengths)), strict=True)
        for owner, start, end in spans:
            polygons_of_owner = self.table.values[owner]
            if polygons_of_owner is None:
                self.table.values[owner] = [numbers[start:end]]
            else:
                polygons_of_owner.append(numbers[start:end])  # type: ignore[union-attr]
        boxes, owners, lengths = np.concatenate([low, high], axis=1)[is_kept], owners[is_kept], lengths[is_kept]
        if len(owners):
            first = np.flatnonzero(np.diff(owners, prepend=-1))  # of each owner; owners are in ascending order
            self.table.boxes[owners[first], :2] = np.minimum.reduceat(boxes[:, :2], first)
            self.table.boxes[owners[first], 2:] = np.maximum.reduceat(boxes[:, 2:], first)
        self._encode_large_polygons(boxes, owners, lengths)

    def _encode_large_polygons(self, boxes: NDArray[np.float64], owners: Integers, lengths: Integers) -> None:
        """Encode polygons that would take much more memory than their image when they are drawn."""
        frames = np.array(self.sizes, dtype=np.float64).reshape(-1, 2)[owners, ::-1]
        longest = frames.max(axis=1, keepdims=True)
        is_far = ((boxes[:, :2] < -longest) | (boxes[:, 2:] > frames + longest)).any(axis=1)
        limits = {size: max_outline_steps(size) for size in set(self.sizes)}
        allowed = np.array([limits[self.sizes[owner]] for owner in owners.tolist()])
        with np.errstate(over="ignore"):
            upper_bound = lengths * (boxes[:, 2:] - boxes[:, :2]).max(axis=1) * 5
        far_owners = set(owners[is_far].tolist())
        for owner in sorted(far_owners | set(owners[upper_bound > allowed].tolist())):
            size = self.sizes[owner]
            polygons = [np.asarray(polygon).reshape(-1, 2) for polygon in self.table.values[owner] or ()]
            if owner not in far_owners and sum(map(num_outline_steps, polygons)) <= max_outline_steps(size):
                continue
            self.table.values[owner], self.table.boxes[owner] = None, np.nan
            rle = encode_clipped_polygons(polygons, size)
            self._store_rle(owner, rle, note_if_empty="masks outside their image left out")
            if owner in far_owners:
                self.table.is_doubtful[owner] = True
                self._note("masks with points far outside their image clipped to it", [owner])

    def _coordinates(self, polygons: list[list[Any]], owners: Integers, count: int) -> NDArray[np.float64]:
        """(count,) all coordinates; NaN for null, which leaves the polygon out."""
        if all(type(polygon) is np.ndarray for polygon in polygons):
            return np.concatenate(polygons)
        try:
            return np.fromiter(chain.from_iterable(polygons), dtype=np.float64, count=count)
        except (TypeError, ValueError, OverflowError):
            rows = zip(owners.tolist(), polygons, strict=True)
            return np.array([self._coordinate(item, row) for row, polygon in rows for item in polygon])

    def _coordinate(self, value: Any, row: int) -> float:
        number = parse_number(value)
        if number is None or number == "":
            return float("nan")
        if isinstance(number, bool) or not isinstance(number, int | float):
            self._refuse(row, f"has the coordinate {short_repr(value)}, which is not a number")
            return float("nan")
        if isinstance(number, int) and abs(number) > MAX_FLOAT:
            return MAX_FLOAT if number > 0 else -MAX_FLOAT
        return float(number)

    def _note(self, kind: str, rows: Sequence[int]) -> None:
        if kind:
            self.reader.repairs.add(kind, [self.reader.labels[row] for row in rows])

    def _refuse(self, row: int, problem: str) -> None:
        if self.is_strict:
            raise UserError(
                f"{self.reader.source}: the segmentation of annotation {self.reader.labels[row]} {problem}. Correct "
                "it, or train on boxes with MODEL.MASK_ON False."
            )
        self._note("segmentations that cannot be read left out, as MODEL.MASK_ON is False", [row])


def parse_segmentation(value: Any) -> tuple[list[list[Any]], list[dict[str, Any]], str]:
    """The polygons, as flat lists of coordinates, or the encodings of a segmentation in any form.

    Returns:
        polygons, encodings, and the kind of repair or "".

    Raises:
        UnreadableSegmentationError: a value of an unknown form.
    """
    if isinstance(value, str):
        polygons, rles, _ = parse_segmentation(_parse_text(value))
        return polygons, rles, "segmentations written as text read"
    if isinstance(value, dict):
        return [], [value], ""
    if not isinstance(value, list):
        raise _unknown_form(value)
    if all(isinstance(item, dict) and "counts" in item for item in value):
        return [], value, ""
    if _is_list_of_points(value):
        return [_flatten_points(value)], [], POINTS_READ
    if not _has_containers(value):
        return [value], [], ""  # a single polygon without the outer list, a common slip of hand-made files
    is_repaired = False
    polygons = []
    for item in value:
        if not isinstance(item, list):
            raise _unknown_form(value)
        is_repaired |= _is_list_of_points(item)
        polygons.append(_flatten_points(item) if _is_list_of_points(item) else item)
        if _has_containers(polygons[-1]):
            raise _unknown_form(value)
    return polygons, [], POINTS_READ if is_repaired else ""


def read_rles(rles: Sequence[dict[str, Any]], size: ImageSize) -> tuple[Rle | None, str]:
    """The compressed encoding of a mask that is given as one or several encodings.

    Args:
        rles: as in the file.
        size: (height, width) of the image.

    Returns:
        the union, None for an empty mask, and the kind of repair or "".

    Raises:
        UnreadableSegmentationError: encodings that are incomplete, of another size, or damaged.
    """
    repairs, checked = [], []
    for rle in rles:
        if not isinstance(rle.get("counts"), str | list) or not isinstance(rle.get("size"), list):
            raise UnreadableSegmentationError(f"needs 'counts' and 'size' as run lengths, it has {', '.join(rle)}")
        if [parse_number(side) for side in rle["size"]] != list(size):  # before anything is decoded in that size
            raise UnreadableSegmentationError(
                f"is a mask of {short_repr(rle['size'])} pixels (height, width) where its image is {list(size)}"
            )
        counts, repair = _read_counts(rle["counts"])
        repairs += [repair] if repair else []
        if not len(counts):
            continue
        plain = {"size": list(size), "counts": counts}
        try:
            rle_ops.read_runs(plain)
        except (ValueError, TypeError, OverflowError) as error:
            raise UnreadableSegmentationError(f"cannot be decoded: {error}") from error
        checked.append(rle_ops.compress(plain))
    return rle_ops.merge(checked) if checked else None, repairs[0] if repairs else ""


def _read_counts(counts: str | list[Any]) -> tuple[str | list[int], str]:
    """The counts and the kind of repair or ""."""
    if isinstance(counts, str):
        if counts[:2] in ("b'", 'b"') and counts[-1:] == counts[1]:  # a bytes object written with str()
            try:
                return ast.literal_eval(counts).decode("ascii"), "run lengths written as b'...' read"
            except (ValueError, SyntaxError, UnicodeDecodeError):
                return counts, ""
        return counts, ""
    if set(map(type, counts)) <= {int}:
        return counts, ""
    runs = []
    for value in counts:
        number = parse_number(value)
        if isinstance(number, bool) or not isinstance(number, int | float) or number != number // 1:
            raise UnreadableSegmentationError(f"has the run length {short_repr(value)}, which is not a whole number")
        runs.append(int(number))
    return runs, "run lengths written as text taken as numbers" if any(isinstance(run, str) for run in counts) else ""


def _unknown_form(value: Any) -> UnreadableSegmentationError:
    return UnreadableSegmentationError(f"{FORMS}; it is {short_repr(value)}")


def _parse_text(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if isinstance(value, str):
        raise _unknown_form(text)
    return value


def _is_list_of_polygons(value: Any) -> bool:
    """Whether a value is COCO's own form, polygons as x1, y1, x2, y2, ..., also as arrays; also an empty list."""
    if type(value) is not list:
        return False
    for polygon in value:  # a generator in `all` would take three times as long
        if type(polygon) is np.ndarray and polygon.ndim == 1 and polygon.dtype == np.float64:
            continue
        if type(polygon) is not list or len(polygon) <= 2 or type(polygon[0]) not in (int, float):
            return False
    return True


def _is_absent(value: Any) -> bool:
    """Whether a value means "no segmentation": null, "", 0, -1, false, {}, [], [[]] and the like."""
    if isinstance(value, list):
        return all(isinstance(item, list) and _is_absent(item) for item in value)
    return not value or value == -1 or value != value or (isinstance(value, str) and not value.strip())


def _is_list_of_points(value: list[Any]) -> bool:
    """Whether a list holds points: [x, y] each, or {"x": ..., "y": ...}."""
    return bool(value) and (
        all(isinstance(item, list) and len(item) == 2 and not _has_containers(item) for item in value)
        or all(isinstance(item, dict) and {"x", "y"} <= item.keys() for item in value)
    )


def _has_containers(value: list[Any]) -> bool:
    return any(isinstance(item, list | dict) for item in value)


def _flatten_points(points: list[Any]) -> list[Any]:
    return [number for point in points for number in ((point["x"], point["y"]) if isinstance(point, dict) else point)]
