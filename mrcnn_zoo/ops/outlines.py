"""Outlines of masks: polygons with holes that cover the same pixels, and polygons of fewer points."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray

from mrcnn_zoo.ops.polygons import Points, simplify_rings

LEVEL = 0.5 - 1e-6  # below one half, so that pixels which touch at a corner are one region


@dataclass(frozen=True)
class Outline:
    """One connected region of an object.

    Args:
        points: (N, 2) x, y of the outer border, without the first point at the end.
        holes: each (M, 2).
    """

    points: Points
    holes: tuple[Points, ...] = ()


def outlines_of_mask(
    bitmap: NDArray[np.generic], *, left: int = 0, top: int = 0, tolerance: float = 0.0
) -> list[Outline]:
    """The borders of the connected regions of a mask, with their holes.

    Pixels that touch at a corner are connected. Stairs are cut at the middle of their steps, other corners are those
    of the pixels: no border touches itself or another one, a rectangle has four points, and all pixel centres are on
    their own side. Without a tolerance the rasterised outlines are the mask again.

    Args:
        bitmap: (H, W) of 0 and 1.
        left: column of the bitmap in the image.
        top: row of the bitmap in the image.
        tolerance: in pixels, see `simplify_rings`.
    """
    padded = np.pad(np.asarray(bitmap) != 0, 1)
    generator = contour_generator(z=padded.astype(np.float64), fill_type=FillType.OuterOffset)
    corner = np.array([left - 0.5, top - 0.5])
    regions = []
    for points, offsets in zip(*generator.filled(LEVEL, np.inf), strict=True):
        crossings = np.rint(2 * points) / 2  # the middles of pixel edges, (centre of the first pixel) = 0
        rings = [_ring(crossings[start : end - 1], padded) for start, end in pairwise(offsets.tolist())]
        moved = simplify_rings([ring + corner for ring in rings], tolerance)
        regions.append(Outline(moved[0], tuple(moved[1:])))
    return regions


def _ring(crossings: Points, padded: NDArray[np.bool_]) -> Points:
    """The border through the middles of all pixel edges on it, with the corners of pixels that are no steps."""
    following = np.roll(crossings, -1, axis=0)
    is_upright = crossings[:, 0] != np.floor(crossings[:, 0])  # an edge between two pixels of a row
    is_corner = is_upright != np.roll(is_upright, -1)
    corners = np.where(
        is_upright[:, None],
        np.stack([crossings[:, 0], following[:, 1]], axis=1),
        np.stack([following[:, 0], crossings[:, 1]], axis=1),
    )
    turns = np.where(is_corner, _cross(corners - crossings, following - corners), 0.0)
    is_step = (turns * np.roll(turns, 1) < 0) | (turns * np.roll(turns, -1) < 0)
    column, row = np.floor(corners.T).astype(np.int64)
    meets_itself = (padded[row, column] == padded[row + 1, column + 1]) & (
        padded[row + 1, column] == padded[row, column + 1]
    )
    is_kept = is_corner & ~is_step & ~meets_itself
    points = np.stack([crossings, corners], axis=1).reshape(-1, 2)
    return _without_collinear(points[np.stack([np.ones_like(is_kept), is_kept], axis=1).ravel()])


def _cross(first: Points, second: Points) -> NDArray[np.float64]:
    turn: NDArray[np.float64] = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    return turn


def _without_collinear(points: Points) -> Points:
    return points[_cross(points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points) != 0]
