import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from mrcnn_zoo.ops.outlines import Outline, outlines_of_mask
from mrcnn_zoo.ops.polygons import simplify

RNG = np.random.default_rng(7)
ROWS, COLUMNS = np.mgrid[:40, :40]
DISK = (COLUMNS - 19.3) ** 2 + (ROWS - 18.6) ** 2 < 15.2**2
MASKS = {
    "one pixel": np.pad(np.ones((1, 1)), ((2, 1), (0, 3))),
    "row": np.pad(np.ones((1, 6)), 1),
    "column": np.ones((6, 1)),
    "whole image": np.ones((4, 5)),
    "diagonal": np.eye(9),
    "other diagonal": np.eye(9)[:, ::-1],
    "squares that touch at a corner": np.kron(np.eye(2), np.ones((3, 3))),
    "ring open at a corner": np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 1], [0, 0, 1, 1]]),
    "disk": DISK,
    "ring": DISK & ((COLUMNS - 22) ** 2 + (ROWS - 20) ** 2 > 6**2),
    "island in a hole": np.pad(np.pad(np.pad(np.ones((2, 2)), 2), 2, constant_values=1), 1),
    **{f"noise {number}": RNG.random((6, 7)) < 0.5 for number in range(40)},
    "large noise": RNG.random((30, 30)) < 0.6,
}


def rasterised(outlines: list[Outline], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask by pycocotools."""
    result = np.zeros(shape, dtype=np.bool_)

    def fill(points: NDArray[np.float64]) -> NDArray[np.bool_]:
        return coco_mask.decode(coco_mask.frPyObjects([points.ravel().tolist()], *shape))[..., 0].astype(bool)

    for outline in outlines:
        region = fill(outline.points)
        for hole in outline.holes:
            region &= ~fill(hole)
        result |= region
    return result


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_rasterised_outlines_are_the_mask(mask: NDArray[np.generic]) -> None:
    np.testing.assert_array_equal(rasterised(outlines_of_mask(mask), mask.shape), mask.astype(bool))


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_outlines_are_valid_polygons(mask: NDArray[np.generic]) -> None:
    polygons = [shapely.Polygon(outline.points, outline.holes) for outline in outlines_of_mask(mask)]
    assert all(polygon.is_valid for polygon in polygons)


def test_rectangle_has_its_four_corners() -> None:
    (outline,) = outlines_of_mask(np.pad(np.ones((2, 3)), 1), left=10, top=20)
    assert sorted(map(tuple, outline.points.tolist())) == [(11, 21), (11, 23), (14, 21), (14, 23)]
    assert outline.holes == ()


def test_empty_mask_has_no_outline() -> None:
    assert outlines_of_mask(np.zeros((3, 4))) == []


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    assert len(outlines_of_mask(np.eye(5))) == 1


def test_hole_belongs_to_the_region_around_it() -> None:
    outer, island = sorted(outlines_of_mask(MASKS["island in a hole"]), key=lambda outline: -len(outline.holes))
    assert (len(outer.holes), len(island.holes)) == (1, 0)
    assert shapely.Polygon(outer.holes[0]).area == 36


def test_stairs_become_a_line() -> None:
    triangle = np.tri(20)  # the diagonal is cut through the middles of its steps
    (outline,) = outlines_of_mask(triangle)
    assert len(outline.points) <= 6


def test_simplified_outline_stays_within_the_tolerance() -> None:
    (outline,) = outlines_of_mask(DISK)
    for tolerance in (0.3, 1.0, 3.0):
        (simple,) = outlines_of_mask(DISK, tolerance=tolerance)
        border = shapely.LinearRing(simple.points)
        assert max(border.distance(shapely.Point(point)) for point in outline.points) <= tolerance + 1e-9
        assert len(simple.points) < len(outline.points)


def test_simplification_keeps_what_would_collapse() -> None:
    square = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    np.testing.assert_array_equal(simplify(square, 5.0), square)
    line = np.array([[0.0, 0], [4, 0], [8, 0.1], [8, 4], [0, 4]])
    np.testing.assert_array_equal(simplify(line, 0.2), line[[0, 2, 3, 4]])
