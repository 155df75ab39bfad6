import math

import numpy as np
import pytest

from mrcnn_zoo.data.synthetic.layout import crop_to_mask
from mrcnn_zoo.data.synthetic.shapes import ShapeStamps, render_shape, shape_keypoints

SIDE = 40.0


@pytest.mark.parametrize(
    ("name", "area"),
    [("circle", math.pi * 20**2), ("square", 40.0**2), ("triangle", 40.0**2 * math.sqrt(3) / 4)],
)
@pytest.mark.parametrize("angle", [0.0, 0.4])
def test_shape_covers_its_area(name: str, area: float, angle: float) -> None:
    assert render_shape(name, side=SIDE, angle=angle).sum() == pytest.approx(area, rel=0.01)


def test_square_rotated_by_45_degrees_is_as_wide_as_its_diagonal() -> None:
    stamp = crop_to_mask(0, render_shape("square", side=SIDE, angle=math.pi / 4))
    assert stamp is not None
    assert abs(stamp.coverage.shape[1] - SIDE * math.sqrt(2)) <= 2


def test_base_of_the_triangle_is_at_the_bottom() -> None:
    stamp = crop_to_mask(2, render_shape("triangle", side=SIDE, angle=0.0))
    assert stamp is not None
    assert stamp.mask[0].sum() <= 3
    assert stamp.mask[-1].sum() >= 38


def test_every_class_is_drawn() -> None:
    rng = np.random.default_rng(0)
    assert {ShapeStamps().draw(rng, side=20, rotation=15).class_index for _ in range(30)} == {0, 1, 2}


def test_empty_coverage_gives_no_stamp() -> None:
    assert crop_to_mask(0, np.zeros((5, 5))) is None


@pytest.mark.parametrize("name", ["circle", "square", "triangle"])
@pytest.mark.parametrize("angle", [0.0, 0.4, -1.0])
def test_keypoints_are_the_centre_and_points_on_the_border(name: str, angle: float) -> None:
    coverage = render_shape(name, side=80, angle=angle)
    points = shape_keypoints(name, side=80, angle=angle)
    assert points.shape == (5, 2)
    np.testing.assert_allclose(points[0], [coverage.shape[1] / 2, coverage.shape[0] / 2])
    for x, y in points[1:]:
        neighbours = coverage[int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4]
        assert neighbours.max() == 1
        assert neighbours.min() == 0


def test_keypoints_of_a_square_rotated_by_90_degrees() -> None:
    center, top, right, *_ = shape_keypoints("square", side=20, angle=math.pi / 2)
    np.testing.assert_allclose(
        [top - center, right - center], [[10, 0], [0, 10]], atol=1e-9
    )  # clockwise, as y points down
