"""The segmentations of a COCO file: polygons and run lengths, checked, with the boxes around them."""

import sys
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from mrcnn_zoo.data.records import Rle
from mrcnn_zoo.data.repairs import RepairLog
from mrcnn_zoo.data.rle import box_of
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.structures import ImageSize

FEWEST_NUMBERS = 6  # x and y of three points
MAX_FLOAT = sys.float_info.max  # JSON's integers have no limit


class Segmentations:
    """The usable segmentation of every annotation, and the box around it.

    Args:
        source: the file, for messages.
        ids: of the annotations.
        repairs: where what is left out is counted.
    """

    def __init__(self, source: str, *, ids: Sequence[int], repairs: RepairLog) -> None:
        self.source = source
        self.ids = ids
        self.repairs = repairs
        self.usable: list[list[NDArray[np.float64]] | Rle | None] = [None] * len(ids)
        self.boxes: NDArray[np.float64] = np.full((len(ids), 4), np.nan)  # x1 y1 x2 y2; NaN where there is none
        self.is_lost: NDArray[np.bool_] = np.zeros(len(ids), dtype=bool)  # had a segmentation, has none left

    def read(self, raw: Sequence[Any], sizes: Sequence[ImageSize]) -> None:
        """Take the segmentations as they stand in the file.

        Args:
            raw: one an annotation: list of polygons, run lengths, or None.
            sizes: of the image of each.

        Raises:
            UserError: a segmentation that is neither polygons nor run lengths, or run lengths of another image.
        """
        self._read_polygons([value if isinstance(value, list) else [] for value in raw])
        for row, value in enumerate(raw):
            if isinstance(value, dict):
                self._read_rle(row, value, sizes[row])
            elif value is not None and not isinstance(value, list):
                raise self._not_a_segmentation(row)
        had_one = np.array([bool(value) for value in raw], dtype=bool)
        has_none = np.array([value is None for value in self.usable], dtype=bool)
        self.is_lost = had_one & has_none

    def _read_polygons(self, shapes: Sequence[list[Any]]) -> None:
        # A single polygon that is not wrapped in a list is a common slip of hand-made files.
        shapes = [[shape] if shape and isinstance(shape[0], int | float) else shape for shape in shapes]
        polygons = list(chain.from_iterable(shapes))
        owners = np.repeat(np.arange(len(shapes)), [len(shape) for shape in shapes])
        for row, polygon in zip(owners.tolist(), polygons, strict=True):
            if not isinstance(polygon, list):
                raise self._not_a_segmentation(row)
        lengths = np.array([len(polygon) for polygon in polygons], dtype=np.int64)
        is_long = (lengths >= FEWEST_NUMBERS) & (lengths % 2 == 0)
        self._note("polygons with fewer than 3 points left out", owners[~is_long])
        kept = np.flatnonzero(is_long)
        self._keep_finite([polygons[row] for row in kept], owners[kept], lengths[kept])

    def _keep_finite(self, polygons: list[list[Any]], owners: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        """Keep polygons as views of one array, which takes a quarter of the memory of lists of floats."""
        if not polygons:
            return
        numbers = self._as_numbers(polygons, owners, int(lengths.sum()))
        starts = np.cumsum(lengths) - lengths
        is_finite = np.logical_and.reduceat(np.isfinite(numbers), starts)
        self._note("polygons with NaN or infinite coordinates left out", owners[~is_finite])
        points, first_points = numbers.reshape(-1, 2), starts // 2
        low = np.minimum.reduceat(points, first_points)
        high = np.maximum.reduceat(points, first_points)
        views = np.split(numbers, starts[1:])
        for row in np.flatnonzero(is_finite).tolist():
            owner = int(owners[row])
            polygons_of_owner = self.usable[owner]
            if polygons_of_owner is None:
                self.usable[owner] = [views[row]]
            else:
                polygons_of_owner.append(views[row])  # type: ignore[union-attr]
        boxes = np.concatenate([low, high], axis=1)[is_finite]
        self.boxes = _boxes_around(boxes, owners[is_finite], len(self.ids))

    def _as_numbers(self, polygons: list[list[Any]], owners: NDArray[np.int64], count: int) -> NDArray[np.float64]:
        try:
            return np.fromiter(chain.from_iterable(polygons), dtype=np.float64, count=count)
        except (TypeError, ValueError, OverflowError):
            for row, polygon in zip(owners, polygons, strict=True):
                if not all(isinstance(number, int | float) and not abs(number) > MAX_FLOAT for number in polygon):
                    raise self._not_a_segmentation(row) from None
            raise

    def _read_rle(self, row: int, value: dict[str, Any], size: ImageSize) -> None:
        where = f"{self.source}: annotation {self.ids[row]}"
        if not isinstance(value.get("counts"), str | list) or not isinstance(value.get("size"), list):
            raise UserError(f"{where}: a run-length encoding needs 'counts' and 'size', it has {', '.join(value)}.")
        if tuple(value["size"]) != size:
            raise UserError(
                f"{where}: its mask is {value['size']} pixels (height, width) where its image is {list(size)}."
            )
        try:
            box = box_of(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise UserError(f"{where}: {error}.") from error
        if box is None:
            self._note("empty masks left out", np.array([row]))
            return
        self.usable[row] = _compress(value)
        self.boxes[row] = box

    def _note(self, kind: str, rows: NDArray[np.int64]) -> None:
        self.repairs.add(kind, [self.ids[row] for row in rows.tolist()])

    def _not_a_segmentation(self, row: int) -> UserError:
        return UserError(
            f"{self.source}: the segmentation of annotation {self.ids[row]} is neither a list of polygons "
            "[[x1, y1, x2, y2, ...], ...] nor a run-length encoding {'size': [height, width], 'counts': ...}."
        )


def _compress(rle: Rle) -> Rle:
    if isinstance(rle["counts"], str):
        return {"size": rle["size"], "counts": rle["counts"]}
    height, width = rle["size"]
    encoded = coco_mask.frPyObjects(rle, height, width)
    return {"size": rle["size"], "counts": encoded["counts"].decode("ascii")}


def _boxes_around(boxes: NDArray[np.float64], owners: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """The box around all boxes of one owner; NaN for owners without. Owners come in rising order."""
    around = np.full((count, 4), np.nan)
    if len(owners):
        first = np.flatnonzero(np.diff(owners, prepend=-1))
        around[owners[first], :2] = np.minimum.reduceat(boxes[:, :2], first)
        around[owners[first], 2:] = np.maximum.reduceat(boxes[:, 2:], first)
    return around
