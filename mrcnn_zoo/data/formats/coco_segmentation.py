"""The segmentations of a COCO file: polygons and run lengths, checked, with the boxes around them."""

import sys
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.field_rules import number_in, shown
from mrcnn_zoo.data.formats.segmentation_forms import (
    UnreadableSegmentationError,
    is_absent,
    is_plain,
    polygons_in,
    read_rle,
)
from mrcnn_zoo.data.masks import encode_clipped_polygons, max_outline_steps, num_outline_steps
from mrcnn_zoo.data.records import RepairLog
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops.rle import Rle, bounding_box
from mrcnn_zoo.structures import ImageSize

FEWEST_NUMBERS = 6  # x and y of three points
MAX_FLOAT = sys.float_info.max  # JSON's integers have no limit


class Segmentations:
    """The usable segmentation of every annotation, and the box around it.

    Args:
        source: the file, for messages.
        ids: of the annotations.
        repairs: where what is left out is counted.
        is_strict: refuse what is no segmentation; otherwise it is left out, and its object keeps the box.
    """

    def __init__(self, source: str, *, ids: Sequence[int], repairs: RepairLog, is_strict: bool = True) -> None:
        self.source = source
        self.ids = ids
        self.repairs = repairs
        self.is_strict = is_strict
        self.usable: list[list[NDArray[np.float64]] | Rle | None] = [None] * len(ids)
        self.boxes: NDArray[np.float64] = np.full((len(ids), 4), np.nan)  # x1 y1 x2 y2; NaN where there is none
        # The box of the file is more likely right than these masks.
        self.is_doubtful: NDArray[np.bool_] = np.zeros(len(ids), dtype=bool)

    def read(self, raw: Sequence[Any], sizes: Sequence[ImageSize]) -> None:
        """Take the segmentations as they stand in the file.

        Args:
            raw: one per annotation: list of polygons, run lengths, or what stands for none.
            sizes: of the image of each.

        Raises:
            UserError: a segmentation that is neither polygons nor run lengths, or run lengths of another image.
        """
        shapes: list[list[Any]] = []
        for row, value in enumerate(raw):
            shapes.append([])
            if is_plain(value):
                shapes[row] = value
            elif not is_absent(value):
                try:
                    shapes[row] = self._read_unusual(row, value, sizes[row])
                except UnreadableSegmentationError as error:
                    self._refuse(row, str(error))
        self._read_polygons(shapes, sizes)

    def _read_unusual(self, row: int, value: Any, size: ImageSize) -> list[Any]:
        """Polygons in another form than COCO's; none where the segmentation was run lengths."""
        polygons, rles, repair = polygons_in(value)
        if repair:
            self._note(repair, [row])
        if rles:
            rle, repair = read_rle(rles, size)
            if repair:
                self._note(repair, [row])
            self._take_rle(row, rle, "empty masks left out")
        return polygons

    def _take_rle(self, row: int, rle: Rle | None, note: str) -> None:
        box = None if rle is None else bounding_box(rle)
        if box is None:
            self._note(note, [row])
            return
        self.usable[row] = rle
        self.boxes[row] = box

    def _read_polygons(self, shapes: Sequence[list[Any]], sizes: Sequence[ImageSize]) -> None:
        polygons = list(chain.from_iterable(shapes))
        owners = np.repeat(np.arange(len(shapes)), [len(shape) for shape in shapes])
        lengths = np.array([len(polygon) for polygon in polygons], dtype=np.int64)
        odd = np.flatnonzero((lengths % 2 == 1) & (lengths > FEWEST_NUMBERS))
        for place in odd.tolist():  # pycocotools ignores the last number, too
            label = f"{self.ids[owners[place]]}: {lengths[place]} numbers"
            self.repairs.add("polygons with an odd number of coordinates read without the last one", [label])
            polygons[place] = polygons[place][:-1]
            lengths[place] -= 1
            self.is_doubtful[owners[place]] = True
        is_long = lengths >= FEWEST_NUMBERS
        self._note("polygons with fewer than 3 points left out", owners[~is_long].tolist())
        kept = np.flatnonzero(is_long)
        self._keep_finite([polygons[place] for place in kept], owners[kept], lengths[kept], sizes)

    def _keep_finite(
        self,
        polygons: list[list[Any]],
        owners: NDArray[np.int64],
        lengths: NDArray[np.int64],
        sizes: Sequence[ImageSize],
    ) -> None:
        """Keep polygons as views of one array, which takes a quarter of the memory of lists of floats."""
        if not polygons:
            return
        numbers = self._as_numbers(polygons, owners, int(lengths.sum()))
        starts = np.cumsum(lengths) - lengths
        is_finite = np.logical_and.reduceat(np.isfinite(numbers), starts)
        self._note("polygons with NaN, infinite or null coordinates left out", owners[~is_finite].tolist())
        points, first_points = numbers.reshape(-1, 2), starts // 2
        low = np.minimum.reduceat(points, first_points)
        high = np.maximum.reduceat(points, first_points)
        is_point = is_finite & (low == high).all(axis=1)
        self._note("polygons whose points are all the same left out", owners[is_point].tolist())
        is_kept = is_finite & ~is_point
        views = np.split(numbers, starts[1:])
        for row in np.flatnonzero(is_kept).tolist():
            owner = int(owners[row])
            polygons_of_owner = self.usable[owner]
            if polygons_of_owner is None:
                self.usable[owner] = [views[row]]
            else:
                polygons_of_owner.append(views[row])  # type: ignore[union-attr]
        boxes = np.concatenate([low, high], axis=1)[is_kept]
        _put_boxes_around(self.boxes, boxes, owners[is_kept])
        self._limit_memory(boxes, owners[is_kept], lengths[is_kept], sizes)

    def _limit_memory(
        self,
        boxes: NDArray[np.float64],
        owners: NDArray[np.int64],
        lengths: NDArray[np.int64],
        sizes: Sequence[ImageSize],
    ) -> None:
        """Make run lengths of polygons that drawing would need much more memory for than their image takes."""
        frames = np.array([sizes[owner][::-1] for owner in owners.tolist()], dtype=np.float64).reshape(-1, 2)
        longest = frames.max(axis=1, keepdims=True)
        is_far = ((boxes[:, :2] < -longest) | (boxes[:, 2:] > frames + longest)).any(axis=1)
        allowed = np.array([max_outline_steps(sizes[owner]) for owner in owners.tolist()])
        with np.errstate(over="ignore"):
            most_steps = lengths * (boxes[:, 2:] - boxes[:, :2]).max(axis=1) * 5
        far_owners = set(owners[is_far].tolist())
        for owner in sorted(far_owners | set(owners[most_steps > allowed].tolist())):
            polygons = [np.asarray(polygon).reshape(-1, 2) for polygon in self.usable[owner] or ()]
            if owner not in far_owners and sum(map(num_outline_steps, polygons)) <= max_outline_steps(sizes[owner]):
                continue
            self.usable[owner], self.boxes[owner] = None, np.nan
            self._take_rle(owner, encode_clipped_polygons(polygons, sizes[owner]), "masks outside their image left out")
            if owner in far_owners:
                self.is_doubtful[owner] = True
                self._note("masks with points far outside their image clipped to it", [owner])

    def _as_numbers(self, polygons: list[list[Any]], owners: NDArray[np.int64], count: int) -> NDArray[np.float64]:
        try:
            return np.fromiter(chain.from_iterable(polygons), dtype=np.float64, count=count)
        except (TypeError, ValueError, OverflowError):
            rows = zip(owners.tolist(), polygons, strict=True)
            return np.array([self._coordinate(item, row) for row, polygon in rows for item in polygon])

    def _coordinate(self, value: Any, row: int) -> float:
        """A coordinate as a number; NaN, which leaves the polygon out, for null."""
        number = number_in(value)
        if number is None or number == "":
            return float("nan")
        if isinstance(number, bool) or not isinstance(number, int | float):
            self._refuse(row, f"has the coordinate {shown(value)}, which is no number")
            return float("nan")
        if isinstance(number, int) and abs(number) > MAX_FLOAT:
            return MAX_FLOAT if number > 0 else -MAX_FLOAT
        return float(number)

    def _note(self, kind: str, rows: Sequence[int]) -> None:
        self.repairs.add(kind, [self.ids[row] for row in rows])

    def _refuse(self, row: int, message: str) -> None:
        if self.is_strict:
            raise UserError(
                f"{self.source}: the segmentation of annotation {self.ids[row]} {message}. Correct it, or train on "
                "boxes with MODEL.MASK_ON False."
            )
        self._note("segmentations that cannot be read left out, as MODEL.MASK_ON is False", [row])


def _put_boxes_around(table: NDArray[np.float64], boxes: NDArray[np.float64], owners: NDArray[np.int64]) -> None:
    """Write the box around all boxes of one owner into its row. Owners come in rising order."""
    if len(owners):
        first = np.flatnonzero(np.diff(owners, prepend=-1))
        table[owners[first], :2] = np.minimum.reduceat(boxes[:, :2], first)
        table[owners[first], 2:] = np.maximum.reduceat(boxes[:, 2:], first)
