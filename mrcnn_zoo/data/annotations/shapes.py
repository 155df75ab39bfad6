"""Shapes of annotation tools as polygons and run lengths: ellipses, boxes that may be rotated, parts of one object."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.masks import encode_clipped_polygons
from mrcnn_zoo.data.records import Polygons
from mrcnn_zoo.ops import rle
from mrcnn_zoo.ops.masks import MaskWindow
from mrcnn_zoo.ops.rle import Rle
from mrcnn_zoo.structures import ImageSize

MAX_DISTANCE = 0.05  # pixels between an ellipse and its polygon
MIN_POINTS, MAX_POINTS = 12, 720


def ellipse_polygon(center: Sequence[float], *, radii: Sequence[float], angle: float = 0.0) -> list[float]:
    """The polygon of an ellipse, x1, y1, x2, y2, ...; its corners are on the ellipse. NaN where a number is not finite.

    Args:
        center: x, y in pixels.
        radii: along x and y before the rotation; equal for a circle.
        angle: of the rotation about the center, in radians, clockwise as y points down.
    """
    if not all(map(math.isfinite, (*center, *radii, angle))):
        return [math.nan] * 6  # is left out as other polygons with such coordinates
    step = math.acos(max(1 - MAX_DISTANCE / max(*radii, MAX_DISTANCE), -1.0))
    number = math.ceil(math.pi / max(step, math.pi / MAX_POINTS))
    around = np.linspace(0, 2 * math.pi, max(number, MIN_POINTS), endpoint=False)
    points = np.stack([radii[0] * np.cos(around), radii[1] * np.sin(around)], axis=1) + np.asarray(center, dtype=float)
    return rotated(points.ravel().tolist(), angle=angle, about=center)


def box_polygon(box: Sequence[float]) -> list[float]:
    """The corners of a box, clockwise from the upper left: x1, y1, x2, y2, ...

    Args:
        box: x1, y1, x2, y2.
    """
    x1, y1, x2, y2 = box
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def box_around(polygon: Sequence[float]) -> list[float]:
    """x1, y1, x2, y2 of the smallest box around points.

    Args:
        polygon: x1, y1, x2, y2, ..., at least one point.
    """
    return [min(polygon[0::2]), min(polygon[1::2]), max(polygon[0::2]), max(polygon[1::2])]


def rotated(polygon: Sequence[float], *, angle: float, about: Sequence[float]) -> list[float]:
    """A polygon rotated about a point.

    Args:
        polygon: x1, y1, x2, y2, ...
        angle: in radians, clockwise as y points down.
        about: x, y of the fixed point.
    """
    if angle == 0:
        return list(polygon)
    center = np.asarray(about, dtype=float)
    cosine, sine = math.cos(angle), math.sin(angle)
    points = (np.asarray(polygon, dtype=float).reshape(-1, 2) - center) @ np.array([[cosine, sine], [-sine, cosine]])
    result: list[float] = (points + center).ravel().tolist()
    return result


def placed_mask(bitmap: NDArray[np.bool_], *, corner: Sequence[int], image_size: ImageSize) -> Rle:
    """The run lengths of a mask that is given as a bitmap of a part of the image; pixels outside are left out.

    Args:
        bitmap: (rows, columns).
        corner: x, y of its first pixel.
        image_size: (height, width) of the image.
    """
    (x, y), (height, width) = corner, image_size
    inside = bitmap[max(-y, 0) : max(height - y, 0), max(-x, 0) : max(width - x, 0)]
    window = MaskWindow(max(x, 0), max(y, 0), inside.astype(np.uint8))
    if inside.size == 0:
        window = MaskWindow(0, 0, np.zeros((1, 1), dtype=np.uint8))
    return rle.encode_windows([window], image_size)[0]


def united(polygons: Sequence[Sequence[float]], masks: Sequence[Rle], image_size: ImageSize) -> Polygons | Rle:
    """The segmentation of an object of several parts: polygons, or run lengths where a part is a mask.

    Args:
        polygons: each x1, y1, x2, y2, ...
        masks: compressed run lengths.
        image_size: (height, width) of the image.
    """
    if not masks:
        return polygons
    drawn = [np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in polygons]
    return rle.merge([*masks, *([encode_clipped_polygons(drawn, image_size)] if drawn else [])])
