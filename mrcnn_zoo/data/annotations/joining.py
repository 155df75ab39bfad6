"""Objects of several parts, or with holes, as one polygon, for formats with one polygon per object."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.annotations.writing import DatasetWriter, Outline
from mrcnn_zoo.data.records import ImageRecord, InstanceRecord
from mrcnn_zoo.ops import rle

MAX_SEARCHED = 500  # points per outline


def joined_outline(record: ImageRecord, instance: InstanceRecord, writer: DatasetWriter) -> NDArray[np.float64]:
    """(N, 2) one polygon, whose parts and holes are joined by bridges of zero width, which are counted in `lost`.

    Args:
        record: with the size of the image.
        instance: of the record.
        writer: gives the outlines.
    """
    place = [writer.place_of(record, instance)]
    regions = writer.outlines(record, instance)
    if _reach_outside(regions, record) or (len(regions) > 1 and _overlap(regions, record)):
        regions = writer.outlines(record, replace(instance, segmentation=writer.mask(record, instance)))
    holes = [hole for region in regions for hole in region.holes]
    writer.lost.add("parts of objects joined by a bridge of zero width", place * (len(regions) - 1))
    writer.lost.add("holes joined to their outline by a bridge of zero width", place * len(holes))
    return joined_rings([ring for region in regions for ring in (region.points, *region.holes)])


def _reach_outside(regions: Sequence[Outline], record: ImageRecord) -> bool:
    size = np.array(record.image_size[::-1])
    return any(bool(((region.points < 0) | (region.points > size)).any()) for region in regions)


def _overlap(regions: Sequence[Outline], record: ImageRecord) -> bool:
    """Whether parts of an object overlap: by the even-odd rule, they would become holes."""
    if any(region.holes for region in regions):
        return False  # of a mask
    masks = [rle.encode_polygons([region.points.ravel()], record.image_size) for region in regions]
    return sum(map(rle.area, masks)) != rle.area(rle.merge(masks))


def joined_rings(rings: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """One polygon of several, which are joined by bridges of zero width: lines there and back.

    By the even-odd rule, by which polygons are filled, its area is that of the parts without their holes.

    Args:
        rings: each (N, 2), disjoint or one inside another as its hole.
    """
    merged = rings[0]
    for ring in rings[1:]:
        start, end = _nearest_points(merged, ring)
        bridge = np.concatenate([ring[end:], ring[: end + 1]])
        merged = np.concatenate([merged[: start + 1], bridge, merged[start:]])
    return merged


def _nearest_points(points: NDArray[np.float64], others: NDArray[np.float64]) -> tuple[int, int]:
    """Rows of two near points; long outlines are searched in steps."""
    step, other_step = (-(-len(table) // MAX_SEARCHED) for table in (points, others))
    distances = ((points[::step, None] - others[None, ::other_step]) ** 2).sum(axis=2)
    row, column = np.unravel_index(int(distances.argmin()), distances.shape)
    return int(row) * step, int(column) * other_step
