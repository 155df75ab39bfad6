"""Rings of points, compared with shapely."""

import numpy as np
import pytest
import shapely

from mrcnn_zoo.ops.outlines import outlines_of_mask
from mrcnn_zoo.ops.polygons import contains, have_crossings, signed_area, simplify, simplify_rings

SQUARE = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0]])


def star(seed: int, count: int = 60) -> np.ndarray:
    """A ring around the origin that does not cross itself."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, count))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(5, 20, (count, 1))


def blob(seed: int) -> np.ndarray:
    """A mask with regions, holes and pixels that touch at corners."""
    return np.random.default_rng(seed).random((14, 17)) < 0.6


@pytest.mark.parametrize("tolerance", [0.1, 0.7, 3.0])
@pytest.mark.parametrize("seed", range(4))
def test_simplify_keeps_the_points_that_shapely_keeps(seed: int, tolerance: float) -> None:
    points = star(seed)
    start = int(np.lexsort((points[:, 1], points[:, 0]))[0])
    ring = np.roll(points, -start, axis=0)
    line = shapely.LineString([*ring, ring[0]]).simplify(tolerance, preserve_topology=False)
    np.testing.assert_array_equal(simplify(points, tolerance), shapely.get_coordinates(line)[:-1])


def test_points_on_straight_edges_go_wherever_the_ring_starts() -> None:
    dense = np.array([[2.0, 0], [4, 0], [4, 2], [4, 4], [2, 4], [0, 4], [0, 2], [0, 0], [1, 0]])
    for shift in range(len(dense)):
        assert {tuple(point) for point in simplify(np.roll(dense, shift, axis=0), 0.01)} == set(map(tuple, SQUARE))


def test_ring_that_would_collapse_is_unchanged() -> None:
    assert simplify(SQUARE, 100.0) is SQUARE
    assert simplify(SQUARE, 0.0) is SQUARE
    triangle = SQUARE[:3]
    assert simplify(triangle, 1.0) is triangle


@pytest.mark.parametrize("seed", range(6))
def test_crossings_are_those_of_rings_that_shapely_calls_invalid(seed: int) -> None:
    rng = np.random.default_rng(seed)
    simple, random = star(seed, 12), rng.uniform(0, 10, (7, 2))
    assert not have_crossings([simple])
    assert have_crossings([random]) is not shapely.Polygon(random).is_valid


@pytest.mark.parametrize(
    "ring",
    [
        [[0, 0], [4, 4], [4, 0], [0, 4]],
        [[0, 0], [4, 0], [2, 0], [2, 3]],
        [[0, 0], [4, 0], [4, 4], [2, 0], [0, 4]],
    ],
    ids=["bow tie", "spike", "point on an edge"],
)
def test_rings_that_touch_or_cross_themselves(ring: list) -> None:
    assert have_crossings([np.array(ring, dtype=float)])


def test_crossings_between_rings() -> None:
    assert not have_crossings([SQUARE, SQUARE / 4 + 1])
    assert have_crossings([SQUARE, SQUARE / 4 + 3.5])
    assert not have_crossings([])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tolerance", [0.5, 1.0, 2.5])
def test_simplified_outlines_of_masks_are_valid_and_near(seed: int, tolerance: float) -> None:
    for outline in outlines_of_mask(blob(seed)):
        rings = simplify_rings([outline.points, *outline.holes], tolerance)
        polygon = shapely.Polygon(rings[0], rings[1:])
        assert polygon.is_valid
        original = shapely.Polygon(outline.points, outline.holes)
        assert shapely.hausdorff_distance(polygon.boundary, original.boundary) <= tolerance + 1e-9


def test_hole_is_never_left_outside() -> None:
    # The corner of the outer ring would be cut off by a tolerance of 2, and with it the hole.
    outer = np.array([[0.0, 0], [10, 0], [10, 10], [5, 10], [4.5, 11], [4, 10], [0, 10]])
    hole = np.array([[4.4, 10.2], [4.6, 10.2], [4.5, 10.5]])
    assert len(simplify(outer, 2.0)) == 4
    simple = simplify_rings([outer, hole], 2.0)
    assert shapely.Polygon(simple[0], simple[1:]).is_valid


def test_areas_and_insides_equal_shapely() -> None:
    for seed in range(3):
        ring = star(seed)
        polygon = shapely.Polygon(ring)
        assert signed_area(ring) == pytest.approx(polygon.area)
        assert signed_area(ring[::-1]) == pytest.approx(-polygon.area)
        points = np.random.default_rng(seed).uniform(-20, 20, (50, 2))
        expected = [polygon.contains(shapely.Point(point)) for point in points]
        assert [contains(ring, point) for point in points] == expected
