"""Detections of overlapping tiles, merged into those of the whole image.

A border that cuts an object leaves a part of it in its tile, which a model may take for another object. So a cut
detection is dropped where another tile shows its place whole. Of the others, two detections of one object have nearly
equal masks where their tiles overlap, and each tile has at most one of them. The one farthest from the borders is kept;
where all are cut, the object is larger than the overlap, and its parts are united.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mrcnn_zoo.data.tiles import Window
from mrcnn_zoo.ops.masks import MaskWindow, common_pixels, overlapping_pairs, part_of
from mrcnn_zoo.structures import BoxedBitmaps, Detections, ImageSize, object_windows

SAME_OBJECT = 0.5  # least IoU over the overlap of two views of an object
CUT_DISTANCE = 3.0  # pixels between a box and a border that cuts it, at most
CUT_SHARE = 0.05  # the same as a share of the longer side of the box

Boxes = NDArray[np.float64]


@dataclass(frozen=True)
class TileDetections:
    """The detections of one tile, in pixels of the image, on the CPU.

    Args:
        window: of the tile.
        found: boxes, scores, classes and other columns, without masks.
        masks: of each detection; whole boxes where the model predicts no masks.
        has_masks: whether the model predicts masks.
    """

    window: Window
    found: Detections
    masks: list[MaskWindow]
    has_masks: bool


def place_tile(found: Detections, window: Window, image_size: ImageSize) -> TileDetections:
    """Detections of a tile in pixels of the image.

    Args:
        found: in pixels of the tile.
        window: of the tile in the image.
        image_size: (height, width) of the image.
    """
    found = found.to("cpu")
    left, top = window[:2]
    boxes = found.boxes.float() + torch.tensor([left, top, left, top])
    masks = [MaskWindow(x + left, y + top, bitmap.astype(np.bool_)) for x, y, bitmap in object_windows(found)]
    keypoints = None if found.keypoints is None else found.keypoints + torch.tensor([left, top, 0.0])
    placed = Detections(image_size, boxes, found.scores, found.classes, None, keypoints, found.mask_scores)
    return TileDetections(window, placed, masks, found.masks is not None)


def merge_tiles(tiles: Sequence[TileDetections], image_size: ImageSize) -> Detections:
    """The objects of the image, each once, in descending order of score.

    Args:
        tiles: at least one, row by row, see `place_tile`.
        image_size: (height, width) of the image.

    Returns:
        Masks are `BoxedBitmaps`; None where the model predicts none.
    """
    distances = [border_distances(tile.found.boxes.double().numpy(), tile.window, image_size) for tile in tiles]
    tiles, distances = _without_parts(tiles, distances, image_size)
    joined = _concatenated([tile.found for tile in tiles])
    all_masks = [mask for tile in tiles for mask in tile.masks]
    groups = _Groups([number for number, tile in enumerate(tiles) for _ in tile.masks])
    for pair in sorted(_views(tiles), key=lambda pair: -pair.iou):
        if pair.iou >= SAME_OBJECT and joined.classes[pair.row] == joined.classes[pair.other]:
            groups.join(pair.row, pair.other)
    distance = np.concatenate(distances)
    members = groups.all()
    best = [max(rows, key=lambda row: distance[row]) for rows in members]
    is_cut = distance <= _cut_distances(joined.boxes.double().numpy())
    table, masks = joined[torch.tensor(best, dtype=torch.int64)], [all_masks[row] for row in best]
    for place, rows in enumerate(members):
        if len(rows) > 1 and is_cut[best[place]]:
            _unite(table, place, joined[torch.tensor(rows)])
            masks[place] = _union([all_masks[row] for row in rows])
    if tiles[0].has_masks:
        boxed = BoxedBitmaps.from_windows([mask[:2] for mask in masks], [mask.bitmap for mask in masks], image_size)
        table = replace(table, masks=boxed)
    return table[table.scores.argsort(descending=True, stable=True)]


def border_distances(boxes: Boxes, window: Window, image_size: ImageSize) -> NDArray[np.float64]:
    """Pixels from boxes to the nearest border of a tile that is not a border of the image.

    Args:
        boxes: (R, 4).
        window: of the tile.
        image_size: (height, width) of the image.

    Returns:
        (R,), negative for boxes that reach outside; infinite for a tile that is the image.
    """
    left, top, right, bottom = window
    height, width = image_size
    gaps = np.stack([boxes[:, 0] - left, boxes[:, 1] - top, right - boxes[:, 2], bottom - boxes[:, 3]], axis=1)
    is_inner = [left > 0, top > 0, right < width, bottom < height]
    nearest: NDArray[np.float64] = np.where(is_inner, gaps, np.inf).min(axis=1, initial=np.inf)
    return nearest


def _cut_distances(boxes: Boxes) -> NDArray[np.float64]:
    """The distance from a border below which a box counts as cut by it."""
    longest = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
    return np.maximum(CUT_DISTANCE, CUT_SHARE * longest)


def _without_parts(
    tiles: Sequence[TileDetections], distances: Sequence[NDArray[np.float64]], image_size: ImageSize
) -> tuple[list[TileDetections], list[NDArray[np.float64]]]:
    """The tiles without the cut detections in places that another tile shows whole, and their distances."""
    is_part = []
    for tile, distance in zip(tiles, distances, strict=True):
        limits = _cut_distances(tile.found.boxes.double().numpy())
        is_part.append((distance <= limits, np.zeros(len(limits), dtype=np.bool_)))
    for first, second in _neighbours([tile.window for tile in tiles]):
        for number, other in ((first, second), (second, first)):
            is_cut, is_hidden = is_part[number]
            boxes = tiles[number].found.boxes.double().numpy()
            is_hidden |= is_cut & (border_distances(boxes, tiles[other].window, image_size) > _cut_distances(boxes))
    kept = [np.flatnonzero(~is_hidden) for _, is_hidden in is_part]
    remaining = [
        replace(tile, found=tile.found[torch.from_numpy(rows)], masks=[tile.masks[row] for row in rows])
        for tile, rows in zip(tiles, kept, strict=True)
    ]
    return remaining, [distance[rows] for distance, rows in zip(distances, kept, strict=True)]


def _neighbours(windows: Sequence[Window]) -> Iterator[tuple[int, int]]:
    """The pairs of tiles that overlap; tiles stand row by row."""
    for number, window in enumerate(windows):
        for earlier in range(number - 1, -1, -1):
            other = windows[earlier]
            if other[3] <= window[1]:
                break  # as are all rows above
            if other[0] < window[2] and window[0] < other[2]:
                yield earlier, number


class _ViewPair(NamedTuple):
    """Two detections of different tiles that share pixels of their overlap."""

    row: int  # among the detections of all tiles
    other: int
    iou: float  # over the overlap


def _views(tiles: Sequence[TileDetections]) -> Iterator[_ViewPair]:
    starts = np.cumsum([0, *(len(tile.masks) for tile in tiles)]).tolist()
    for first, second in _neighbours([tile.window for tile in tiles]):
        for row, other, iou in _views_of_two(tiles[first], tiles[second]):
            yield _ViewPair(starts[first] + row, starts[second] + other, iou)


def _views_of_two(tile: TileDetections, other: TileDetections) -> Iterator[_ViewPair]:
    """The pairs of two tiles, with rows of their own tables."""
    low = np.maximum(tile.window[:2], other.window[:2])
    high = np.minimum(tile.window[2:], other.window[2:])
    overlap = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
    boxes, other_boxes = (_boxes(table.masks).reshape(-1, 4) for table in (tile, other))
    clipped = np.concatenate([np.maximum(boxes[:, :2], low), np.minimum(boxes[:, 2:], high)], axis=1)
    for row, column in overlapping_pairs(clipped, other_boxes):
        first, second = part_of(tile.masks[row], overlap), part_of(other.masks[column], overlap)
        common = common_pixels(first, second)
        if common:
            both = int(np.count_nonzero(first.bitmap)) + int(np.count_nonzero(second.bitmap))
            yield _ViewPair(row, column, common / (both - common))


def _boxes(masks: Sequence[MaskWindow]) -> NDArray[np.int64]:
    return np.array([mask.box for mask in masks], dtype=np.int64)


class _Groups:
    """Detections of one object, at most one of each tile.

    Args:
        tiles: number of the tile of each detection.
    """

    def __init__(self, tiles: Sequence[int]) -> None:
        self._members = {row: [row] for row in range(len(tiles))}  # by the group's number
        self._group_of = list(range(len(tiles)))
        self._tiles = tiles

    def join(self, row: int, other: int) -> None:
        """Join the groups of two detections, unless both have a detection of one tile.

        Args:
            row: of a detection.
            other: of another one.
        """
        into, source = self._group_of[row], self._group_of[other]
        if into == source:
            return
        tiles, others = ({self._tiles[member] for member in self._members[group]} for group in (into, source))
        if tiles.isdisjoint(others):
            for member in self._members[source]:
                self._group_of[member] = into
            self._members[into] += self._members.pop(source)

    def all(self) -> list[list[int]]:
        """The rows of each group."""
        return [sorted(rows) for rows in self._members.values()]


def _unite(table: Detections, place: int, parts: Detections) -> None:
    """Write the union of cut detections into a row of a table: the box around all, the highest score, and keypoints.

    Each keypoint is that of the part with its highest score.
    """
    table.boxes[place, :2] = parts.boxes[:, :2].amin(dim=0)
    table.boxes[place, 2:] = parts.boxes[:, 2:].amax(dim=0)
    table.scores[place] = parts.scores.max()
    if table.mask_scores is not None and parts.mask_scores is not None:
        table.mask_scores[place] = parts.mask_scores.max()
    if table.keypoints is not None and parts.keypoints is not None:
        rows = parts.keypoints[:, :, 2].argmax(dim=0)
        table.keypoints[place] = parts.keypoints[rows, torch.arange(len(rows))]


def _union(masks: Sequence[MaskWindow]) -> MaskWindow:
    boxes = _boxes(masks)
    left, top = boxes[:, :2].min(axis=0).tolist()
    right, bottom = boxes[:, 2:].max(axis=0).tolist()
    bitmap = np.zeros((bottom - top, right - left), dtype=np.bool_)
    for mask in masks:
        x1, y1, x2, y2 = mask.box
        bitmap[y1 - top : y2 - top, x1 - left : x2 - left] |= mask.bitmap
    return MaskWindow(left, top, bitmap)


def _concatenated(tables: Sequence[Detections]) -> Detections:
    columns: dict[str, Any] = {
        name: torch.cat([getattr(table, name) for table in tables]) for name in tables[0].columns()
    }
    return replace(tables[0], **columns)
