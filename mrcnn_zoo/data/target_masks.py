"""Annotated masks at the resolution that the network sees, each in its own window."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from mrcnn_zoo.data.records import InstanceRecord, Polygons
from mrcnn_zoo.data.rle import MaskWindow, decode_window
from mrcnn_zoo.data.transforms import Geometry
from mrcnn_zoo.structures import ImageSize

FIFTHS = 5.0  # of a pixel, the grid that pycocotools draws polygons on


def map_masks(instances: Sequence[InstanceRecord], geometry: Geometry) -> list[MaskWindow | None]:
    """The mask of every instance after a transform, rasterised in no more than its own window.

    Args:
        instances: each with a segmentation.
        geometry: from the image file to the network's input.

    Returns:
        one a row; None where nothing of the mask is left in the frame.
    """
    rows_of_polygons = [row for row, item in enumerate(instances) if not isinstance(item.segmentation, dict)]
    outlines = _map_polygons([_polygons_of(instances[row]) for row in rows_of_polygons], geometry)
    windows: list[MaskWindow | None] = [None] * len(instances)
    for row, polygons in zip(rows_of_polygons, outlines, strict=True):
        windows[row] = rasterise(polygons, geometry.size)
    decoded = {
        row: decode_window(item.segmentation)
        for row, item in enumerate(instances)
        if isinstance(item.segmentation, dict)
    }
    present = {row: window for row, window in decoded.items() if window is not None}
    windows_after = geometry.map_windows(list(present.values()))
    for row, window in zip(present, windows_after, strict=True):
        windows[row] = window
    return windows


def rasterise(polygons: Sequence[NDArray[np.float64]], size: ImageSize) -> MaskWindow | None:
    """Polygons as one bitmap by COCO's rule, in a window around them; None where they lie outside the frame.

    A polygon too thin for that rule still marks the pixel at its middle, so that a small object keeps its mask.

    Args:
        polygons: each (N, 2) x, y in pixels of the frame; those of one instance, which may lie apart.
        size: (height, width) of the frame.
    """
    height, width = size
    points = np.concatenate(polygons)
    low = np.clip(points.min(axis=0), 0, [width, height])
    high = np.clip(points.max(axis=0), 0, [width, height])
    left, top = np.floor(low).astype(int).tolist()
    right, bottom = np.ceil(high).astype(int).tolist()
    if right <= left or bottom <= top:
        return None
    shifted = [_shift(polygon, left, top).reshape(-1) for polygon in polygons]
    rles = coco_mask.frPyObjects(shifted, bottom - top, right - left)
    bitmap = coco_mask.decode(rles[0] if len(rles) == 1 else coco_mask.merge(rles))
    if not bitmap.any():
        x, y = np.floor((low + high) / 2).astype(int) - (left, top)
        bitmap[min(y, bottom - top - 1), min(x, right - left - 1)] = 1
    return MaskWindow(left, top, bitmap)


def _shift(polygon: NDArray[np.float64], left: int, top: int) -> NDArray[np.float64]:
    # COCO rounds corners to fifths of a pixel. Rounding before the shift, in the same arithmetic, makes the bitmap in
    # the window that of the full image to the bit; 10.1 - 10 is not 0.1, and one corner in ten is such a tie.
    return (np.trunc(polygon * FIFTHS + 0.5) - (FIFTHS * left, FIFTHS * top)) / FIFTHS


def tight_box(window: MaskWindow) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 in pixels of the image around the pixels that are set; at least one must be."""
    rows, columns = np.flatnonzero(window.bitmap.any(axis=1)), np.flatnonzero(window.bitmap.any(axis=0))
    return (
        window.x + int(columns[0]),
        window.y + int(rows[0]),
        window.x + int(columns[-1]) + 1,
        window.y + int(rows[-1]) + 1,
    )


def _polygons_of(instance: InstanceRecord) -> Polygons:
    assert instance.segmentation is not None
    assert not isinstance(instance.segmentation, dict)
    return instance.segmentation


def _map_polygons(shapes: Sequence[Polygons], geometry: Geometry) -> list[list[NDArray[np.float64]]]:
    """Polygons of several instances, mapped as one array, as lists of (N, 2) an instance."""
    polygons = [np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in chain.from_iterable(shapes)]
    if not polygons:
        return []
    mapped = geometry.map_points(np.concatenate(polygons))
    pieces = iter(np.split(mapped, np.cumsum([len(polygon) for polygon in polygons])[:-1]))
    return [[next(pieces) for _ in shape] for shape in shapes]
