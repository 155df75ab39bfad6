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
    """Polygons as one bitmap by COCO's rule, in the window around it; None where no pixel of the frame is covered.

    Polygons too thin for that rule still mark the pixel at their middle, so that a small object keeps its mask.

    Args:
        polygons: each (N, 2) x, y in pixels of the frame; those of one instance, which may lie apart.
        size: (height, width) of the frame.
    """
    # Drawn as run lengths of the whole frame: pycocotools rounds with respect to the frame's origin, so a polygon that
    # is moved into its window gets other pixels at its border.
    rles = coco_mask.frPyObjects([polygon.reshape(-1) for polygon in polygons], *size)
    window = decode_window(rles[0] if len(rles) == 1 else coco_mask.merge(rles))
    if window is not None:
        return window
    points = np.concatenate(polygons)
    x, y = np.floor((points.min(axis=0) + points.max(axis=0)) / 2).astype(int).tolist()
    if 0 <= y < size[0] and 0 <= x < size[1]:
        return MaskWindow(x, y, np.ones((1, 1), dtype=np.uint8))
    return None


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
