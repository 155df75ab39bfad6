"""Cityscapes' JSON files of polygons: read and drawn as the official scripts draw them, and polygons of label images.

Polygons are drawn in the order of the file, so that later ones cover earlier ones: nearer objects come last. Points are
the numbers of pixels, and the pixels on the outline belong to the polygon.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mrcnn_zoo.data.annotations.json_files import read_json
from mrcnn_zoo.data.field_rules import short_repr
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops.label_images import encode_labels
from mrcnn_zoo.structures import ImageSize

# Levels of outlines of 0 and 1: pixels that touch at a corner are one region below one half, and two above.
TOUCHING, APART = 0.5 - 1e-6, 0.5 + 1e-6
UNLABELED = "unlabeled"  # of polygons that are holes of others
MIN_POINTS = 3
MAX_COORDINATE = float(1 << 20)  # pixels; Pillow counts in 32 bits

Pixels = NDArray[np.int64]  # (N, 2) x, y of pixels


class LabelledPolygon(NamedTuple):
    """One element of "objects"."""

    label: str
    points: list[tuple[float, float]]
    where: str  # its place in the file


class CityPolygons(NamedTuple):
    """The content of a file."""

    size: ImageSize
    objects: list[LabelledPolygon]  # without deleted ones and those of fewer than 3 points
    num_degenerate: int  # those of fewer than 3 points


def read_polygons(path: Path) -> CityPolygons:
    """The polygons of a file, in the order in which they are drawn.

    Raises:
        UserError: naming the file and the field.
    """
    content = read_json(path)
    items = content.get("objects") if isinstance(content, dict) else None
    if not isinstance(items, list):
        raise UserError(f"{path}: 'objects' is {short_repr(items)}, which must be a list of objects with polygons.")
    sides = [content.get(key) for key in ("imgHeight", "imgWidth")]
    if not all(isinstance(side, int) and side > 0 for side in sides):
        raise UserError(f"{path}: imgHeight and imgWidth are {short_repr(sides)}, which must be whole numbers above 0.")
    objects = [_object(path, number, item) for number, item in enumerate(items)]
    present = [item for item in objects if item is not None]
    kept = [item for item in present if len(item.points) >= MIN_POINTS]
    return CityPolygons((sides[0], sides[1]), kept, len(present) - len(kept))


def _object(path: Path, number: int, item: Any) -> LabelledPolygon | None:
    """The polygon of an object; None for a deleted one."""
    where = f"objects[{number}]"
    label = item.get("label") if isinstance(item, Mapping) else None
    if not isinstance(label, str) or not label.strip():
        raise UserError(
            f"{path}: {where} has the label {short_repr(label)}, which must be a text: the name of its class."
        )
    if item.get("deleted"):
        return None
    points = item.get("polygon")
    try:
        pairs = [(x, y) for x, y in points]
        array = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
        array = np.array([np.nan])
    if not np.isfinite(array).all() or not isinstance(points, list):
        raise UserError(
            f"{path}: {where} has the polygon {short_repr(points)}, which must be a list of points [x, y] in pixels. "
            "Correct it, or remove the object."
        )
    inside = np.clip(array, -MAX_COORDINATE, MAX_COORDINATE)
    return LabelledPolygon(label.strip(), [(x, y) for x, y in inside.tolist()], where)


def draw(polygons: Iterable[tuple[int, Sequence[Sequence[float]] | Pixels]], size: ImageSize) -> NDArray[np.int32]:
    """The (H, W) numbers of the polygons that are in front at each pixel; 0 where there is none.

    Args:
        polygons: number and points of each, the farthest first.
        size: (height, width) of the image.
    """
    image = Image.new("I", (size[1], size[0]), 0)
    drawing = ImageDraw.Draw(image)
    for number, points in polygons:
        drawing.polygon([(x, y) for x, y in points], fill=number)
    return np.asarray(image)


def outlines_of_labels(labels: NDArray[np.int32]) -> list[tuple[int, Pixels]]:
    """Numbers and polygons that `draw` turns into a label image again; the number 0 is that of holes.

    Args:
        labels: (H, W), 0 where there is no object.
    """
    found = _outlines(labels, level=TOUCHING)
    # Where diagonals of two objects cross, neither can be drawn whole over the other.
    return found if np.array_equal(draw(found, labels.shape), labels) else _outlines(labels, level=APART)


def _outlines(labels: NDArray[np.int32], *, level: float) -> list[tuple[int, Pixels]]:
    found = []
    for number, (x1, y1, x2, y2) in zip(*encode_labels(labels)[::2], strict=True):
        mask, corner = labels[y1:y2, x1:x2] == number, np.array([x1, y1])
        for ring in _outer_rings(mask, level=level):
            filled = draw([(1, ring.tolist())], mask.shape) != 0
            found.append((int(filled.sum()), number, ring + corner))
            for hole in _outer_rings(filled & ~mask, level=APART):
                area = int((draw([(1, hole.tolist())], mask.shape) != 0).sum())
                found.append((area, 0, hole + corner))
    # What is inside a hole has no more pixels than the hole, and must be drawn after it.
    found.sort(key=lambda item: (-item[0], item[1]))
    return [(number, ring) for _, number, ring in found]


def _outer_rings(mask: NDArray[np.bool_], *, level: float) -> list[Pixels]:
    """The outer pixels of each connected region, in their order, without those on straight lines between others."""
    padded = np.pad(mask, 1)
    generator = contour_generator(z=padded.astype(np.float64), fill_type=FillType.OuterOffset)
    rings = []
    for points, offsets in zip(*generator.filled(level, np.inf), strict=True):
        start, end = next(pairwise(offsets.tolist()))
        crossings = np.rint(2 * points[start : end - 1]) / 2  # the middles of the edges between inside and outside
        low, high = np.floor(crossings).astype(np.int64), np.ceil(crossings).astype(np.int64)
        ring = np.where(padded[low[:, 1], low[:, 0]][:, None], low, high) - 1
        ring = ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)] if np.ptp(ring, axis=0).any() else ring[:1]
        is_corner = (ring - np.roll(ring, 1, axis=0) != np.roll(ring, -1, axis=0) - ring).any(axis=1)
        ring = ring[is_corner] if is_corner.any() else ring
        rings.append(np.resize(ring, (MIN_POINTS, 2)) if len(ring) < MIN_POINTS else ring)
    return rings
