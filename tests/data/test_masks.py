"""Polygons as run lengths, against pycocotools, and the memory they take."""

import tracemalloc

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mrcnn_zoo.data.formats.coco import load_coco
from mrcnn_zoo.data.masks import (
    MAX_CROSSINGS,
    encode_clipped_polygons,
    max_outline_steps,
    num_outline_steps,
)

FAR = (1e4, 2e8, 3e9, 1e300, 1.79e308)
MEGABYTES = 1 << 20


def _decoded(polygons: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    return coco_mask.decode(encode_clipped_polygons(polygons, size))


def _by_pycocotools(polygons: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([p.reshape(-1).tolist() for p in polygons], *size)))


@pytest.mark.parametrize("scale", [0.5, 1, 3, 40, 3000])
@pytest.mark.parametrize("grid", [0, 1, 5])
def test_random_polygons_equal_pycocotools(scale: float, grid: int) -> None:
    rng = np.random.default_rng(int(scale) + grid)
    for _ in range(100):
        height, width = rng.integers(1, 50, 2).tolist()
        polygons = []
        for corners in rng.integers(3, 12, rng.integers(1, 3)).tolist():
            points = ((rng.random((corners, 2)) - 0.5) * scale + 0.5) * [width, height]
            polygons.append(np.round(points * grid) / grid if grid else points)
        assert np.array_equal(_decoded(polygons, (height, width)), _by_pycocotools(polygons, (height, width)))


def test_polygon_with_more_crossings_than_one_chunk() -> None:
    points = np.random.default_rng(0).random((10_000, 2)) * [60, 40]
    assert MAX_CROSSINGS < 10_000 * 60 / 3
    assert np.array_equal(_decoded([points], (40, 60)), _by_pycocotools([points], (40, 60)))


@pytest.mark.parametrize("far", FAR)
@pytest.mark.parametrize("direction", [1, -1])
def test_corner_far_away_takes_no_memory(far: float, direction: int) -> None:
    # A spike from the left edge of the square to the right, between y 10 and 20 where it leaves the image.
    points = np.array([[10, 10], [direction * far, 15], [10, 20]], dtype=float)
    tracemalloc.start()
    bitmap = _decoded([points], (40, 60))
    assert tracemalloc.get_traced_memory()[1] < 5 * MEGABYTES
    tracemalloc.stop()
    columns = bitmap.sum(axis=0)
    inside, outside = (columns[10:], columns[:10]) if direction > 0 else (columns[:10], columns[10:])
    assert outside.sum() == 0
    assert set(inside.tolist()) <= {9, 10}


def test_direction_of_a_corner_is_kept_beyond_the_integer_range() -> None:
    # The triangle between the diagonal and the left edge of the image.
    points = np.array([[0, 0], [1e300, 1e300], [0, 1e300]])
    assert _decoded([points], (50, 50)).sum() == pytest.approx(50 * 50 / 2, abs=50)


def test_number_of_outline_steps_equals_hand_count() -> None:
    square = np.array([[0, 0], [10, 0], [10, 10], [0, 10.0]])
    assert num_outline_steps(square) == 5 * 40 + 4
    assert max_outline_steps((4000, 4000)) == 3 * 4000 * 4000 / 16
    assert max_outline_steps((1, 1)) == MEGABYTES / 16


@pytest.mark.parametrize("far", [*FAR, -2e8])
def test_annotation_with_a_corner_far_away_is_clipped_and_keeps_its_box(write_coco, annotation, far: float) -> None:
    path = write_coco([annotation(5, segmentation=[[10, 10, 20, 10, far, 20, 10, 20]])])
    tracemalloc.start()
    dataset = load_coco("test", path.parent, path)
    assert tracemalloc.get_traced_memory()[1] < 5 * MEGABYTES
    tracemalloc.stop()
    item = dataset.records[0].instances[0]
    assert item.segmentation["size"] == [40, 60]
    assert item.box == (10, 10, 20, 20)
    assert dataset.notes[0] == "masks with points far outside their image clipped to it: 1 (first: annotation 5)"


def test_polygon_of_very_many_points_becomes_run_lengths_of_the_same_mask(write_coco, annotation) -> None:
    points = np.random.default_rng(0).random((4000, 2)) * [60, 40]
    path = write_coco([annotation(5, segmentation=[points.reshape(-1).tolist()], bbox=[0, 0, 60, 40])])
    dataset = load_coco("test", path.parent, path)
    segmentation = dataset.records[0].instances[0].segmentation
    assert np.array_equal(coco_mask.decode(segmentation), _by_pycocotools([points], (40, 60)))
    assert dataset.notes == ()
