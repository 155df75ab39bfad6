"""Large images cut into tiles, with their objects."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.choices import MIN_VISIBLE, TILE_OVERLAP, TILE_SIZE
from mrcnn_zoo.data.images.arrays import as_pixels
from mrcnn_zoo.data.images.reading import MAX_PIXELS, FileImage
from mrcnn_zoo.data.images.windows import Window
from mrcnn_zoo.data.loading.mapper import check_size
from mrcnn_zoo.data.records import Dataset, ImageRecord, ImageSource, InstanceRecord, Polygons
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops import rle
from mrcnn_zoo.ops.masks import MaskWindow
from mrcnn_zoo.ops.rle import Rle
from mrcnn_zoo.structures import ImageSize

MIN_AREA = 0.25  # square pixels; smaller parts of larger objects are cut off

Points = NDArray[np.float64]


@dataclass(frozen=True)
class TileImage:
    """A window of an image; the image is read when the tile is, and kept for the next tile."""

    source: ImageSource
    image_size: ImageSize  # (height, width) in the annotations
    window: Window  # inside the image
    max_pixels: int = MAX_PIXELS

    @property
    def name(self) -> str:
        """The image and the window."""
        return f"{self.source.name} [{', '.join(map(str, self.window))}]"

    @property
    def stem(self) -> str:
        """The name of the tile's file without its ending, e.g. "slide3_x1024_y0"."""
        stem = PurePath(self.source.name).stem if isinstance(self.source, FileImage) else ""
        stem = stem or getattr(self.source, "stem", "") or PurePath(self.source.name).name
        return f"{stem}_x{self.window[0]}_y{self.window[1]}"

    def read(self) -> NDArray[np.generic]:
        """(h, w, C) of the dtype of the image.

        Raises:
            UserError: an image that cannot be read, or has another size than in its annotations.
        """
        pixels = _pixels_of(self.source, self.max_pixels)
        check_size(ImageRecord(0, self.source, self.image_size), pixels)
        x1, y1, x2, y2 = self.window
        return pixels[y1:y2, x1:x2]


def _pixels_of(source: ImageSource, max_pixels: int) -> NDArray[np.generic]:
    try:
        hash(source)
    except TypeError:  # of pixels in memory
        return as_pixels(source.read(), source.name)
    return _whole_image(source, max_pixels)  # type: ignore[arg-type]


@lru_cache(maxsize=1)
def _whole_image(source: ImageSource, max_pixels: int) -> NDArray[np.generic]:
    pixels = source.read(max_pixels=max_pixels) if isinstance(source, FileImage) else source.read()
    return as_pixels(pixels, source.name)


@dataclass(frozen=True)
class Tiling:
    """How images are cut.

    Args:
        size: of a tile in pixels, both sides; a smaller image is one tile.
        overlap: of neighbours in pixels, below the size; the last tile of a row ends at the border of the image.
        min_visible: share of an object's area that a tile must have to keep the object.
        marks_cut: whether other parts of objects become crowds, in which detections are not counted as wrong;
            otherwise they are left out.
        keeps_empty: whether tiles without objects are kept.
        max_pixels: the largest allowed number of pixels per image file; 0 for no limit.
    """

    size: int = TILE_SIZE
    overlap: int = TILE_OVERLAP
    min_visible: float = MIN_VISIBLE
    marks_cut: bool = False
    keeps_empty: bool = True
    max_pixels: int = MAX_PIXELS


@dataclass
class TileCounts:
    """Counts of `tiled`.

    Args:
        images: that were cut.
        tiles: that were made.
        empty_left_out: tiles without objects that were left out.
        whole: objects inside a tile, in all tiles.
        cut: parts of objects that were kept.
        marked: parts that became crowds.
        left_out: parts that were left out.
        in_no_tile: objects of which no tile has enough.
    """

    images: int = 0
    tiles: int = 0
    empty_left_out: int = 0
    whole: int = 0
    cut: int = 0
    marked: int = 0
    left_out: int = 0
    in_no_tile: int = 0


def tiled(dataset: Dataset, tiling: Tiling) -> tuple[Dataset, TileCounts]:
    """The tiles of all images, with the objects in them; images and objects are counted from 1.

    An object in the overlap of tiles is in each of them.

    Args:
        dataset: to cut.
        tiling: how.

    Raises:
        UserError: an overlap that is not below the size.
    """
    if not 0 <= tiling.overlap < tiling.size:
        raise UserError(f"the overlap {tiling.overlap} must be at least 0 and below the size {tiling.size}.")
    counts, image_ids, annotation_ids = TileCounts(images=len(dataset)), count(1), count(1)
    records = []
    for record in dataset.records:
        boxes = np.array([item.box for item in record.instances], dtype=np.float64).reshape(-1, 4)
        is_in_a_tile = np.zeros(len(boxes), dtype=np.bool_)
        for window in windows_of(record.image_size, tiling):
            found = {row: _part(record.instances[row], window, tiling, counts) for row in _touching(boxes, window)}
            parts = [part for part in found.values() if part is not None]
            is_in_a_tile[[row for row, part in found.items() if part is not None]] = True
            if not parts and not tiling.keeps_empty:
                counts.empty_left_out += 1
                continue
            x1, y1, x2, y2 = window
            source = TileImage(record.source, record.image_size, window, tiling.max_pixels)
            parts = [replace(part, annotation_id=next(annotation_ids)) for part in parts]
            size = (y2 - y1, x2 - x1)
            number = next(image_ids)  # side, kind of image and verified classes stay
            tile = replace(record, image_id=number, source=source, image_size=size, instances=tuple(parts))
            records.append(tile)
        counts.in_no_tile += int((~is_in_a_tile).sum())
    counts.tiles = len(records)
    return replace(dataset, records=tuple(records), annotation_file=""), counts


def windows_of(image_size: ImageSize, tiling: Tiling) -> Iterator[Window]:
    """The windows of the tiles of an image, row by row.

    Args:
        image_size: (height, width).
        tiling: size and overlap.
    """
    height, width = image_size
    for top in _starts(height, tiling):
        for left in _starts(width, tiling):
            yield left, top, min(left + tiling.size, width), min(top + tiling.size, height)


def _starts(length: int, tiling: Tiling) -> list[int]:
    last = max(length - tiling.size, 0)
    return [*range(0, last, tiling.size - tiling.overlap), last]


def _touching(boxes: Points, window: Window) -> list[int]:
    low, high = np.array(window[:2]), np.array(window[2:])
    rows: list[int] = np.flatnonzero(((boxes[:, :2] < high) & (boxes[:, 2:] > low)).all(axis=1)).tolist()
    return rows


def _part(item: InstanceRecord, window: Window, tiling: Tiling, counts: TileCounts) -> InstanceRecord | None:
    """The part of an object in a tile, in pixels of the tile; None if it is left out."""
    x1, y1, x2, y2 = item.box
    is_whole = window[0] <= x1 and window[1] <= y1 and x2 <= window[2] and y2 <= window[3]
    segmentation, box, share = _cut(item, window)
    if box is None:
        return None
    if is_whole:
        box = (x1 - window[0], y1 - window[1], x2 - window[0], y2 - window[1])
    is_kept = is_whole or item.is_crowd or share >= tiling.min_visible
    if is_kept:
        counts.whole, counts.cut = counts.whole + is_whole, counts.cut + (not is_whole)
    elif tiling.marks_cut:
        counts.marked += 1
    else:
        counts.left_out += 1
        return None
    return replace(
        item,
        box=box,
        segmentation=segmentation,
        keypoints=None if item.keypoints is None else _moved_keypoints(item.keypoints, window),
        is_crowd=item.is_crowd or not is_kept,
        area=None if item.area is None else item.area * (1.0 if is_whole else share),
    )


def _cut(
    item: InstanceRecord, window: Window
) -> tuple[Polygons | Rle | None, tuple[float, float, float, float] | None, float]:
    """Segmentation and box inside a window, in its pixels, and the share of the object's area; None without area."""
    if isinstance(item.segmentation, dict):
        return _cut_mask(item.segmentation, window)
    if item.segmentation is not None:
        whole = [np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in item.segmentation]
        clipped = [clip_polygon(polygon, window) for polygon in whole]
        inside = [part - window[:2] for part in clipped if len(part) >= 3 and np.ptp(part, axis=0).min() > 0]
        area, whole_area = sum(map(_area, inside)), sum(map(_area, whole))
        if not inside or area < min(MIN_AREA, whole_area):
            return None, None, 0.0
        points = np.concatenate(inside)
        box = (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())
        return [part.ravel().tolist() for part in inside], box, min(area / max(whole_area, 1e-9), 1.0)
    x1, y1, x2, y2 = item.box
    left, top, right, bottom = max(x1, window[0]), max(y1, window[1]), min(x2, window[2]), min(y2, window[3])
    area, whole_area = (right - left) * (bottom - top), (x2 - x1) * (y2 - y1)
    if area < min(MIN_AREA, whole_area):
        return None, None, 0.0
    share = area / max(whole_area, 1e-9)
    return None, (left - window[0], top - window[1], right - window[0], bottom - window[1]), share


def _cut_mask(segmentation: Rle, window: Window) -> tuple[Rle | None, tuple[float, float, float, float] | None, float]:
    found = rle.decode_window(segmentation)
    if found is None:
        return None, None, 0.0
    x1, y1, x2, y2 = window
    rows, columns = found.bitmap.shape
    left, top = max(x1 - found.x, 0), max(y1 - found.y, 0)
    inside = found.bitmap[top : max(min(y2 - found.y, rows), 0), left : max(min(x2 - found.x, columns), 0)]
    if not inside.any():
        return None, None, 0.0
    moved = MaskWindow(found.x + left - x1, found.y + top - y1, inside)
    encoded = rle.encode_windows([moved], (y2 - y1, x2 - x1))[0]
    bounds = rle.bounding_box(encoded)
    assert bounds is not None  # it has pixels
    a, b, c, d = map(float, bounds)
    return encoded, (a, b, c, d), float(inside.sum() / found.bitmap.sum())


def clip_polygon(polygon: Points, window: Window) -> Points:
    """The part of a polygon inside a window; parts of a concave one are connected along the border of the window.

    Source: Sutherland and Hodgman 1974 (Reentrant polygon clipping).

    Args:
        polygon: (N, 2) x, y.
        window: in the same pixels.

    Returns:
        (M, 2); M is 0 for a polygon outside.
    """
    for axis, bound, sign in ((0, window[0], 1), (1, window[1], 1), (0, window[2], -1), (1, window[3], -1)):
        if not len(polygon):
            break
        distance = sign * (polygon[:, axis] - bound)
        if (distance >= 0).all():
            continue
        following, next_distance = np.roll(polygon, -1, axis=0), np.roll(distance, -1)
        crosses = (distance >= 0) != (next_distance >= 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = distance / (distance - next_distance)
        crossing = polygon + np.where(crosses, share, 0.0)[:, None] * (following - polygon)
        crossing[crosses, axis] = bound
        both = np.stack([polygon, crossing], axis=1).reshape(-1, 2)
        polygon = both[np.stack([distance >= 0, crosses], axis=1).ravel()]
    return polygon


def _area(polygon: Points) -> float:
    x, y = polygon.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _moved_keypoints(keypoints: Sequence[float], window: Window) -> tuple[float, ...]:
    """Keypoints in pixels of the window; those outside are not labelled."""
    x1, y1, x2, y2 = window
    moved: list[float] = []
    for x, y, visibility in zip(keypoints[0::3], keypoints[1::3], keypoints[2::3], strict=True):
        is_inside = x1 <= x < x2 and y1 <= y < y2 and visibility > 0
        moved += [x - x1, y - y1, visibility] if is_inside else [0.0, 0.0, 0.0]
    return tuple(moved)
