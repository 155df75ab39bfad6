from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import shapely
import tifffile
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.records import Dataset, FederatedLabels, ImageRecord, ImageSource, InstanceRecord
from mrcnn_zoo.data.tiles import Tiling, clip_polygon, tiled, windows_of
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops import rle


@dataclass(frozen=True)
class Pixels:
    """An image source that holds its pixels."""

    pixels: NDArray[np.generic]
    name: str = "slide"

    def read(self) -> NDArray[np.generic]:
        return self.pixels


PIXELS = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)


def dataset_of(*instances: InstanceRecord, source: ImageSource | None = None, split: str = "") -> Dataset:
    record = ImageRecord(7, source or Pixels(PIXELS), (20, 30), instances, split=split)
    return Dataset("aerial", (record,), ("house",), (1,))


def square(x1: float, y1: float, x2: float, y2: float, **fields) -> InstanceRecord:
    return InstanceRecord((x1, y1, x2, y2), 0, [[x1, y1, x2, y1, x2, y2, x1, y2]], **fields)


def test_windows_overlap_and_the_last_ones_end_at_the_border() -> None:
    assert list(windows_of((20, 30), Tiling(16, 4))) == [
        (0, 0, 16, 16),
        (12, 0, 28, 16),
        (14, 0, 30, 16),
        (0, 4, 16, 20),
        (12, 4, 28, 20),
        (14, 4, 30, 20),
    ]
    assert list(windows_of((10, 40), Tiling(20, 0))) == [(0, 0, 20, 10), (20, 0, 40, 10)]
    assert list(windows_of((20, 20), Tiling(20, 5))) == [(0, 0, 20, 20)]


def test_tiles_have_the_pixels_of_their_windows_and_keep_the_side() -> None:
    result, counts = tiled(dataset_of(split="val"), Tiling(16, 4))
    assert counts.tiles == len(result) == 6
    for number, record in enumerate(result.records, start=1):
        x1, y1, x2, y2 = record.source.window
        np.testing.assert_array_equal(record.source.read(), PIXELS[y1:y2, x1:x2])
        assert (record.image_id, record.image_size, record.split) == (number, (16, 16), "val")
        assert record.source.stem == f"slide_x{x1}_y{y1}"


@pytest.mark.parametrize(("channels", "dtype"), [(7, np.uint8), (1, np.uint16), (4, np.float32)])
def test_tiles_of_tiff_files_keep_depth_and_channels(channels: int, dtype: type, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 60000, (20, 30, channels)).astype(dtype)
    tifffile.imwrite(tmp_path / "scan.v2.tif", pixels.squeeze(), photometric="minisblack")
    source = FileImage(str(tmp_path / "scan.v2.tif"))
    record = tiled(dataset_of(source=source), Tiling(16, 4))[0].records[1]
    assert record.source.stem == "scan.v2_x12_y0"
    expected = np.repeat(pixels, 3, axis=2) if channels == 1 else pixels
    assert record.source.read().dtype == dtype
    np.testing.assert_array_equal(record.source.read(), expected[0:16, 12:28])


def test_image_of_another_size_than_annotated_is_refused() -> None:
    dataset = dataset_of(source=Pixels(np.zeros((20, 31, 3), dtype=np.uint8)))
    with pytest.raises(UserError, match="slide is 31 x 20 pixels"):
        tiled(dataset, Tiling(16, 4))[0].records[0].source.read()


def test_tiles_keep_what_is_known_of_the_image() -> None:
    (record,) = dataset_of().records
    known = replace(record, stratum="dark", federated=FederatedLabels(absent=(0,)))
    result, _ = tiled(replace(dataset_of(), records=(known,)), Tiling(16, 4))
    assert {(tile.stratum, tile.federated) for tile in result.records} == {("dark", FederatedLabels(absent=(0,)))}


def test_whole_objects_are_moved_unchanged() -> None:
    item = square(13.5, 5, 15.5, 9, area=8.0, score=0.5, keypoints=(14.0, 6.0, 2.0, 29.0, 6.0, 2.0))
    result, counts = tiled(dataset_of(item), Tiling(16, 4))
    moved = [record.instances[0] for record in result.records if record.instances]
    assert (counts.whole, counts.cut) == (4, 2)  # the windows from x = 14 cut it
    assert moved[1].box == (1.5, 5, 3.5, 9)
    assert moved[1].segmentation == [[1.5, 5, 3.5, 5, 3.5, 9, 1.5, 9]]
    assert (moved[1].area, moved[1].score) == (8.0, 0.5)
    assert moved[1].keypoints == (2.0, 6.0, 2.0, 0.0, 0.0, 0.0)


CUT = square(8, 2, 14, 6, area=24.0)  # a third is right of x = 12, two thirds left of it
HALVES = Tiling(12, 0, min_visible=0.5)  # windows from x = 0, 12 and 18, y = 0 and 8


def test_cut_objects_are_kept_from_the_visible_share_on() -> None:
    result, counts = tiled(dataset_of(CUT), HALVES)
    (kept,) = [item for record in result.records for item in record.instances]
    assert kept.box == (8, 2, 12, 6)
    assert kept.area == pytest.approx(16)
    assert (counts.whole, counts.cut, counts.left_out, counts.marked, counts.in_no_tile) == (0, 1, 1, 0, 0)
    result, counts = tiled(dataset_of(CUT), Tiling(12, 0, min_visible=0.3))
    assert [item.box for record in result.records for item in record.instances] == [(8, 2, 12, 6), (0, 2, 2, 6)]


def test_cut_objects_are_marked_as_crowds_or_in_no_tile() -> None:
    result, counts = tiled(dataset_of(CUT), Tiling(12, 0, min_visible=0.5, marks_cut=True))
    assert [item.is_crowd for record in result.records for item in record.instances] == [False, True]
    assert (counts.cut, counts.marked) == (1, 1)
    result, counts = tiled(dataset_of(CUT), Tiling(12, 0, min_visible=0.9))
    assert (counts.left_out, counts.in_no_tile) == (2, 1)


def test_crowds_are_kept_whatever_is_visible() -> None:
    crowd = InstanceRecord((0, 0, 13, 5), 0, rle.encode(np.pad(np.ones((5, 13)), ((0, 15), (0, 17)))), is_crowd=True)
    result, _ = tiled(dataset_of(crowd), HALVES)
    assert [item.box for record in result.records for item in record.instances] == [(0, 0, 12, 5), (0, 0, 1, 5)]


def test_tiles_without_objects_are_left_out_on_request() -> None:
    result, counts = tiled(dataset_of(CUT), Tiling(12, 0, 0.5, keeps_empty=False))
    assert (len(result), counts.empty_left_out) == (1, 5)


@pytest.mark.parametrize("kind", ["mask", "polygons"])
def test_parts_of_an_object_make_up_the_whole(kind: str) -> None:
    """Tiles without overlap, put together again, have the mask of the object."""
    polygon = [[3, 3, 27, 2, 28, 18, 16, 9, 5, 17], [1, 18, 4, 18, 4, 20, 1, 20]]
    whole = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygon, 20, 30)))
    segmentation = polygon if kind == "polygons" else rle.encode(whole)
    item = InstanceRecord((1, 2, 28, 20), 0, segmentation)
    result, _ = tiled(dataset_of(item), Tiling(10, 0, min_visible=0.0))
    together = np.zeros_like(whole)
    for record in result.records:
        x1, y1, x2, y2 = record.source.window
        for part in record.instances:
            value = part.segmentation
            encoded = value if isinstance(value, dict) else rle.encode_polygons(value, (10, 10))
            together[y1:y2, x1:x2] |= coco_mask.decode(encoded)
    if kind == "mask":
        np.testing.assert_array_equal(together, whole)
    else:
        assert (together != whole).sum() <= 4  # pixels whose centre is on the outline


def test_boxes_without_masks_are_cut() -> None:
    result, _ = tiled(dataset_of(InstanceRecord((8, 2, 14, 6), 0)), HALVES)
    assert [item.box for record in result.records for item in record.instances] == [(8, 2, 12, 6)]


def test_clipped_polygon_has_the_area_of_the_intersection() -> None:
    star = np.array([[5, 0], [6.5, 4], [11, 4], [7.5, 6.5], [9, 11], [5, 8], [1, 11], [2.5, 6.5], [-1, 4], [3.5, 4]])
    for window in ((0, 0, 10, 10), (4, 4, 6, 20), (2, 9, 9, 12), (-5, -5, 20, 20)):
        expected = shapely.Polygon(star).intersection(shapely.box(*window)).area
        x, y = clip_polygon(star, window).T
        assert abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2 == pytest.approx(expected)
    assert len(clip_polygon(star, (20, 20, 30, 30))) == 0


def test_overlap_of_the_whole_tile_is_refused() -> None:
    with pytest.raises(UserError, match="the overlap 16 must be at least 0 and below the size 16"):
        tiled(dataset_of(), Tiling(16, 16))
