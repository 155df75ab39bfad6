from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mrcnn_zoo.data.annotations.writing import DatasetWriter, distinct_stems
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.records import ImageRecord, ImageSource, InstanceRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops import rle


@dataclass(frozen=True)
class Pixels:
    """An image source that holds its pixels."""

    pixels: NDArray[np.generic]
    name: str = "held"

    def read(self) -> NDArray[np.generic]:
        return self.pixels


def record_of(source: ImageSource, *instances: InstanceRecord, size: tuple[int, int] = (6, 8)) -> ImageRecord:
    return ImageRecord(1, source, size, instances)


def stems_of(*paths: str) -> list[str]:
    return distinct_stems([record_of(FileImage(path)) for path in paths])


def test_names_of_files_are_kept() -> None:
    assert stems_of("a/slide1_03.v2.png", "a/slide 2.JPG", "b/été.tif") == ["slide1_03.v2", "slide 2", "été"]


def test_equal_names_get_the_parts_of_the_path_that_differ() -> None:
    assert stems_of("s/a/images/0.png", "s/b/images/0.png", "s/b/images/1.png") == ["a_0", "b_0", "1"]
    assert stems_of("x/photo.png", "x/Photo.jpg") == ["photo_png", "Photo_jpg"]
    assert stems_of("x/1.png", "x/y/1.png") == ["1", "y_1"]
    assert stems_of("s/a/images/val/0.png", "s/b/images/0.png") == ["a_0", "b_0"]
    assert stems_of("a/b/0.png", "a/c/0.png", "d/b/0.png") == ["a_b_0", "a_c_0", "d_b_0"]


def test_one_file_twice_and_names_that_are_taken() -> None:
    assert stems_of("x/0.png", "x/0.png") == ["0", "0_2"]
    stems = stems_of("x/a/0.png", "x/b/0.png", "x/a_0.png")
    assert stems[2] == "a_0"
    assert len({stem.casefold() for stem in stems}) == 3


def test_images_that_are_no_files_are_named_by_their_ids_or_their_source() -> None:
    @dataclass(frozen=True)
    class Tile(Pixels):
        stem: str = "slide_x0_y64"

    records = [record_of(kind(np.zeros(1), name)) for kind, name in ((Pixels, "x/2 (seed 1)"), (Tile, "tile"))]
    assert distinct_stems(records) == ["000000000001", "slide_x0_y64"]


def test_files_are_copied_byte_for_byte(tmp_path: Path) -> None:
    original = tmp_path / "photo.jpg"
    Image.new("RGB", (8, 6), (9, 120, 30)).save(original)
    record = record_of(FileImage(str(original)))
    name = DatasetWriter([record]).place_image(record, tmp_path / "out" / "images")
    assert name == "photo.jpg"
    assert (tmp_path / "out" / "images" / name).read_bytes() == original.read_bytes()


def test_references_are_relative_to_the_folder(tmp_path: Path) -> None:
    record = record_of(FileImage(str(tmp_path / "data" / "photo.jpg")))
    writer = DatasetWriter([record], copies_images=False)
    assert writer.place_image(record, tmp_path / "out" / "images") == "../../data/photo.jpg"
    assert not (tmp_path / "out").exists()


def test_missing_image_is_named(tmp_path: Path) -> None:
    record = record_of(FileImage(str(tmp_path / "gone.png")))
    with pytest.raises(UserError, match=r"gone.png is missing"):
        DatasetWriter([record]).place_image(record, tmp_path / "out")


SHAPES = [((6, 8, 3), "uint8", ".png"), ((6, 8), "uint8", ".png"), ((6, 8), "uint16", ".png")]
SHAPES += [((6, 8, 3), "uint16", ".tif"), ((6, 8), "float32", ".tif"), ((6, 8, 3), "float32", ".tif")]
SHAPES += [((6, 8, channels), kind, ".tif") for channels in (2, 4, 7) for kind in ("uint8", "uint16", "float32")]


@pytest.mark.parametrize("copies", [True, False])
@pytest.mark.parametrize(("shape", "dtype", "suffix"), SHAPES)
def test_pixels_are_written_without_loss(
    shape: tuple[int, ...], dtype: str, suffix: str, copies: bool, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 250, shape).astype(dtype)
    if dtype == "uint16":
        pixels *= 250
    record = record_of(Pixels(pixels))
    name = DatasetWriter([record], copies_images=copies).place_image(record, tmp_path)
    assert Path(name).suffix == suffix
    expected = np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels
    read = FileImage(str(tmp_path / name)).read()
    assert read.dtype == expected.dtype
    np.testing.assert_array_equal(read, expected)


def test_pixels_of_another_size_than_annotated_are_refused(tmp_path: Path) -> None:
    record = record_of(Pixels(np.zeros((6, 9, 3), dtype=np.uint8)))
    with pytest.raises(UserError, match=r"held is 9 x 6 pixels"):
        DatasetWriter([record]).place_image(record, tmp_path)


def test_outlines_of_polygons_boxes_and_masks() -> None:
    ring = np.zeros((6, 8), dtype=np.uint8)
    ring[1:6, 2:7] = 1
    ring[3, 4] = 0
    polygon = [[1.0, 1.0, 5.0, 1.25, 5.0, 3.0], [0.5, 4.0, 2.0, 4.0, 2.0, 5.0]]
    instances = [InstanceRecord((2, 1, 7, 6), 0, segmentation) for segmentation in (polygon, None, rle.encode(ring))]
    record = record_of(Pixels(ring), *instances)
    writer = DatasetWriter([record])
    assert writer.polygons(record, instances[0]) == polygon
    assert writer.polygons(record, instances[1]) == [[2, 1, 7, 1, 7, 6, 2, 6]]
    (outline,) = writer.outlines(record, instances[2])
    assert sorted(map(tuple, outline.points.tolist())) == [(2, 1), (2, 6), (7, 1), (7, 6)]
    assert sorted(map(tuple, outline.holes[0].tolist())) == [(4, 3), (4, 4), (5, 3), (5, 4)]
    assert writer.lost.notes() == ()
    assert len(writer.polygons(record, replace(instances[2], annotation_id=5))) == 1
    assert writer.lost.notes() == ("holes of polygons filled: 1 (first: object 000000000001, annotation 5)",)


def test_empty_mask_becomes_its_box() -> None:
    instance = InstanceRecord((1, 1, 3, 4), 0, rle.encode(np.zeros((6, 8))), annotation_id=2)
    record = record_of(Pixels(np.zeros(1)), instance)
    writer = DatasetWriter([record])
    assert writer.polygons(record, instance) == [[1, 1, 3, 1, 3, 4, 1, 4]]
    assert writer.lost.notes() == ("empty masks replaced by their box: 1 (first: object 000000000001, annotation 2)",)
