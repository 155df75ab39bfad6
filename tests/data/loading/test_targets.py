"""Masks at the network's resolution, against pycocotools on real annotations."""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mrcnn_zoo.data.formats.coco import load_coco
from mrcnn_zoo.data.loading.targets import map_masks, rasterise
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.data.transforms import AffineTransform
from mrcnn_zoo.data.transforms.flip import HorizontalFlip
from mrcnn_zoo.data.transforms.resize import ResizeTransform
from mrcnn_zoo.ops.masks import MaskWindow, tight_box


@lru_cache(maxsize=1)
def _coco_mini(folder: Path) -> tuple[Dataset, COCO]:
    annotations = folder / "annotations" / "instances_val2017.json"
    return load_coco("mini", folder / "val2017", annotations), COCO(str(annotations))


@pytest.fixture
def coco_mini(shared_dir: Path) -> tuple[Dataset, COCO]:
    """The 70 validation images, and pycocotools' reading of them."""
    return _coco_mini(shared_dir / "data" / "coco_mini")


def _full(window: MaskWindow | None, size: tuple[int, int]) -> np.ndarray:
    image = np.zeros(size, np.uint8)
    if window is not None:
        x1, y1, x2, y2 = window.box
        image[y1:y2, x1:x2] = window.bitmap
    return image


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


def test_masks_at_the_original_size_equal_pycocotools(coco_mini: tuple[Dataset, COCO]) -> None:
    dataset, coco = coco_mini
    compared = 0
    for record in dataset.records:
        windows = map_masks(record.instances, AffineTransform.identity(record.image_size))
        for item, window in zip(record.instances, windows, strict=True):
            expected = coco.annToMask(coco.anns[item.annotation_id])
            if expected.any():
                assert np.array_equal(_full(window, record.image_size), expected)
                compared += 1
    assert compared > 500


def _enlarged(record: ImageRecord, coco: COCO, factor: int) -> list[tuple[np.ndarray, np.ndarray]]:
    height, width = record.image_size
    affine = ResizeTransform((height, width), (height * factor, width * factor)).affine
    windows = map_masks(record.instances, affine)
    pairs = []
    for item, window in zip(record.instances, windows, strict=True):
        expected = coco.annToMask(coco.anns[item.annotation_id])
        pairs.append((_full(window, affine.size), np.kron(expected, np.ones((factor, factor), np.uint8))))
    return pairs


def test_resized_masks_agree_with_the_enlarged_bitmaps(coco_mini: tuple[Dataset, COCO]) -> None:
    dataset, coco = coco_mini
    pairs = [pair for record in dataset.records[:6] for pair in _enlarged(record, coco, 2)]
    large = [_iou(ours, theirs) for ours, theirs in pairs if theirs.sum() > 4000]
    assert len(large) > 15
    assert min(large) > 0.9
    assert np.mean(large) > 0.97


def test_resized_crowds_agree_with_the_enlarged_bitmaps(coco_mini: tuple[Dataset, COCO]) -> None:
    dataset, coco = coco_mini
    crowds = [
        replace(record, instances=tuple(item for item in record.instances if item.is_crowd))
        for record in dataset.records
    ]
    pairs = [pair for record in crowds for pair in _enlarged(record, coco, 2)]
    assert len(pairs) == 4
    assert min(_iou(*pair) for pair in pairs) > 0.95


def test_flipped_mask_is_the_mirror_image(coco_mini: tuple[Dataset, COCO]) -> None:
    dataset, coco = coco_mini
    ious = []
    for record in dataset.records[:10]:
        windows = map_masks(record.instances, HorizontalFlip(record.image_size).affine)
        for item, window in zip(record.instances, windows, strict=True):
            expected = np.fliplr(coco.annToMask(coco.anns[item.annotation_id]))
            if expected.sum() > 1000:
                ious.append(_iou(_full(window, record.image_size), expected))
    assert len(ious) > 30
    assert min(ious) > 0.9


def test_no_window_is_larger_than_its_object(coco_mini: tuple[Dataset, COCO]) -> None:
    dataset, _ = coco_mini
    for record in dataset.records[:20]:
        for item, window in zip(
            record.instances, map_masks(record.instances, AffineTransform.identity(record.image_size)), strict=True
        ):
            assert window is not None
            (x1, y1, x2, y2), (left, top, right, bottom) = item.box, window.box
            assert max(x1 - left, y1 - top, right - x2, bottom - y2) < 2
            height, width = window.bitmap.shape
            assert tight_box(window.bitmap) == (0, 0, width, height)


def _object(segmentation: object) -> InstanceRecord:
    return InstanceRecord((0, 0, 1, 1), 0, segmentation=segmentation)  # type: ignore[arg-type]


def test_parts_of_an_object_are_one_mask() -> None:
    parts = [[1, 1, 3, 1, 3, 3, 1, 3], [6, 6, 8, 6, 8, 8, 6, 8]]
    window = map_masks([_object(parts)], AffineTransform.identity((10, 10)))[0]
    full = _full(window, (10, 10))
    assert full.sum() == 8
    assert full[1:3, 1:3].all()
    assert full[6:8, 6:8].all()


def test_object_too_thin_to_rasterise_keeps_one_pixel() -> None:
    window = rasterise([np.array([[4.1, 5.1], [4.3, 5.1], [4.2, 5.3]])], (10, 10))
    assert window is not None
    assert (window.x, window.y, window.bitmap.tolist()) == (4, 5, [[1]])


def _stars(count: int, place: str, rng: np.random.Generator) -> Iterator[tuple[list[np.ndarray], tuple[int, int]]]:
    """Random stars of one or two parts across a side of their frame, and the size of the frame."""
    for _ in range(count):
        height, width = rng.integers(1, 120, 2).tolist()
        radius = rng.uniform(2, 60) * (20 if place == "far larger" else 0.05 if place == "tiny" else 1)
        middle = rng.uniform(0, [width, height])
        beyond = rng.uniform(-1, 1) * radius
        if place in ("left", "right", "corner"):
            middle[0] = beyond + (width if place == "right" else 0)
        if place in ("top", "bottom", "corner"):
            middle[1] = beyond + (height if place == "bottom" else 0)
        parts = []
        for _ in range(int(rng.integers(1, 3))):
            corners = int(rng.integers(3, 20))
            angles, radii = np.sort(rng.uniform(0, 2 * np.pi, corners)), radius * rng.uniform(0.2, 1, corners)
            part = middle + np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]
            parts.append(np.round(part * 2) / 2 if place == "half pixels" else part)
        yield parts, (height, width)


PLACES = ("inside", "left", "top", "right", "bottom", "corner", "far larger", "tiny", "half pixels")


@pytest.mark.parametrize("place", PLACES)
def test_random_stars_equal_pycocotools(place: str) -> None:
    drawn = 0
    for polygons, size in _stars(100, place, np.random.default_rng(PLACES.index(place))):
        rles = coco_mask.frPyObjects([polygon.reshape(-1).tolist() for polygon in polygons], *size)
        expected = coco_mask.decode(coco_mask.merge(rles))
        window = rasterise(polygons, size)
        if expected.any():
            assert np.array_equal(_full(window, size), expected)
            drawn += 1
        else:
            assert window is None or window.bitmap.shape == (1, 1)
    assert drawn > 20


@pytest.mark.parametrize("shift", [(-200.0, 0.0), (200.0, 0.0), (0.0, -200.0), (0.0, 200.0), (-200.0, 200.0)])
def test_stars_outside_the_frame_have_no_mask(shift: tuple[float, float]) -> None:
    for polygons, size in _stars(20, "inside", np.random.default_rng(0)):
        assert rasterise([polygon + shift for polygon in polygons], size) is None


def test_clipped_objects_equal_pycocotools() -> None:
    sliver = np.array([[-20.0, 2], [0.3, 2], [0.3, 8], [-20, 8]])
    assert rasterise([sliver], (10, 10)) is None


@pytest.mark.parametrize("line", [[[3, 3], [3, 3], [3, 3]], [[1, 5], [6, 5], [1, 5]], [[4, 1], [4, 7], [4, 2]]])
def test_line_marks_the_pixel_at_its_centre(line: list[list[float]]) -> None:
    window = rasterise([np.array(line, dtype=np.float64)], (10, 10))
    assert window is not None
    assert (window.x, window.y) == ((line[0][0] + line[1][0]) // 2, (line[0][1] + line[1][1]) // 2)
    assert window.bitmap.tolist() == [[1]]


def test_polygon_outside_the_frame_has_no_mask() -> None:
    assert rasterise([np.array([[-5.0, 2], [-1, 2], [-3, 6]])], (10, 10)) is None


def test_polygon_is_clipped_at_the_frame() -> None:
    window = rasterise([np.array([[-4.0, -4], [3, -4], [3, 3], [-4, 3]])], (10, 10))
    assert window is not None
    assert window.box == (0, 0, 3, 3)
    assert window.bitmap.all()


def test_polygons_and_run_lengths_keep_their_order() -> None:
    square = _object([[2, 2, 5, 2, 5, 5, 2, 5]])
    rle = _object({"size": [10, 10], "counts": [0, 4, 96]})
    empty = _object({"size": [10, 10], "counts": [100]})
    windows = map_masks([rle, square, empty], AffineTransform.identity((10, 10)))
    assert [window and window.box for window in windows] == [(0, 0, 1, 4), (2, 2, 5, 5), None]


def test_no_objects_give_no_masks() -> None:
    assert map_masks([], AffineTransform.identity((10, 10))) == []
