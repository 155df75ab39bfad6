"""Rings of points: simplification, crossings, areas. A ring has no repeated last point."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # (N, 2) x, y; the last point is connected to the first

ATTEMPTS = 5  # tolerances tried, each half of the one before
ROWS_AT_A_TIME = 256  # of the matrix of segment pairs


def simplify(points: Points, tolerance: float) -> Points:
    """A ring with fewer points, from which no left out point is farther than the tolerance; 3 points at least.

    Source: Douglas and Peucker 1973, on the ring cut open at its leftmost point, which always stays.

    Args:
        points: (N, 2) of the ring; returned unchanged where fewer than 3 points would stay.
        tolerance: in units of the points.

    Returns:
        (M, 2), M <= N.
    """
    count = len(points)
    if tolerance <= 0 or count <= 3:
        return points
    start = int(np.lexsort((points[:, 1], points[:, 0]))[0])
    ring = np.concatenate([points[start:], points[: start + 1]])
    is_kept = np.zeros(count + 1, dtype=bool)
    is_kept[[0, count]] = True
    pieces = [(0, count)]
    while pieces:
        first, last = pieces.pop()
        if last - first < 2:
            continue
        distances = _distances(ring[first + 1 : last], ring[first], ring[last])
        farthest = int(distances.argmax())
        if distances[farthest] > tolerance:
            middle = first + 1 + farthest
            is_kept[middle] = True
            pieces += [(first, middle), (middle, last)]
    kept = ring[:-1][is_kept[:-1]]
    return kept if len(kept) >= 3 else points


def simplify_rings(rings: Sequence[Points], tolerance: float) -> list[Points]:
    """An outer ring and its holes simplified; by a smaller tolerance where they would cross, else unchanged.

    Args:
        rings: the outer ring and its holes, each (N, 2).
        tolerance: in units of the points; 0 keeps all.
    """
    if tolerance <= 0:
        return list(rings)
    for attempt in range(ATTEMPTS):
        simple = [simplify(ring, tolerance / 2**attempt) for ring in rings]
        if not have_crossings(simple) and all(contains(simple[0], hole[0]) for hole in simple[1:]):
            return simple
    return list(rings)


def have_crossings(rings: Sequence[Points]) -> bool:
    """Whether any two edges of some rings cross or touch, other than neighbours in their common point.

    Args:
        rings: each (N, 2).
    """
    if not rings:
        return False
    starts = np.concatenate(rings)
    ends = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    bounds = np.cumsum([0, *map(len, rings)]).tolist()
    following = np.concatenate([np.roll(np.arange(begin, stop), -1) for begin, stop in pairwise(bounds)])
    is_spike = (_cross(starts, ends, ends[following]) == 0) & (
        ((ends - starts) * (ends[following] - starts[following])).sum(axis=1) <= 0
    )
    if is_spike.any():
        return True
    return any(
        _any_crossing(starts, ends, following, row, min(row + ROWS_AT_A_TIME, len(starts)))
        for row in range(0, len(starts), ROWS_AT_A_TIME)
    )


def _any_crossing(starts: Points, ends: Points, following: NDArray[np.int64], begin: int, stop: int) -> bool:
    """Whether one of the edges `begin` to `stop` crosses or touches an edge that is no neighbour."""
    a, b = starts[begin:stop, None], ends[begin:stop, None]
    c, d = starts[None], ends[None]
    is_apart = (np.minimum(a, b) > np.maximum(c, d)) | (np.minimum(c, d) > np.maximum(a, b))
    is_near: NDArray[np.bool_] = ~np.logical_or.reduce(is_apart, axis=2)
    rows = np.arange(begin, stop)
    is_near[np.arange(stop - begin), rows] = False
    is_near[np.arange(stop - begin), following[rows]] = False
    is_near[(following[None, :] == rows[:, None]).nonzero()] = False
    first, second = is_near.nonzero()
    a, b, c, d = a[first, 0], b[first, 0], c[0, second], d[0, second]
    sides = [np.sign(_cross(a, b, c)), np.sign(_cross(a, b, d)), np.sign(_cross(c, d, a)), np.sign(_cross(c, d, b))]
    return bool(((sides[0] * sides[1] <= 0) & (sides[2] * sides[3] <= 0)).any())


def contains(ring: Points, point: Points) -> bool:
    """Whether a point is inside a ring, by the even-odd rule.

    Args:
        ring: (N, 2).
        point: (2,).
    """
    x, y = point
    starts, ends = ring, np.roll(ring, -1, axis=0)
    crosses = (starts[:, 1] > y) != (ends[:, 1] > y)
    (x1, y1), (x2, y2) = starts[crosses].T, ends[crosses].T
    return bool((x1 + (y - y1) / (y2 - y1) * (x2 - x1) > x).sum() % 2)


def signed_area(ring: Points) -> float:
    """The area of a ring, above 0 if it is counter-clockwise where y points up.

    Args:
        ring: (N, 2).
    """
    x, y = (ring - ring[:1]).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def _distances(points: Points, first: Points, last: Points) -> Points:
    """(N,) distances of points from a line segment, which may be a point."""
    direction = last - first
    length = float(direction @ direction)
    share = np.clip((points - first) @ direction / length, 0, 1) if length else np.zeros(len(points))
    return np.hypot(*(points - first - share[:, None] * direction).T)


def _cross(a: Points, b: Points, c: Points) -> Points:
    """Twice the signed areas of triangles."""
    return (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
