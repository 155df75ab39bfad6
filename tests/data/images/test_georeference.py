"""Map coordinates of images, from GeoTIFF tags that tifffile writes and from world files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from mrcnn_zoo.data.images.georeference import read_georeference, sidecar_files
from mrcnn_zoo.errors import UserError

KEYS = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)  # projected, PixelIsArea, UTM 33 N
GEOGRAPHIC = (1, 1, 0, 3, 1024, 0, 1, 2, 1025, 0, 1, 1, 2048, 0, 1, 4326)
POINTS = (*KEYS[:8], 1025, 0, 1, 2, *KEYS[12:])  # PixelIsPoint
# 0.5 m per pixel; the upper left corner of the first pixel is at (389000, 5820000).
SCALE = (33550, "d", 3, (0.5, 0.5, 0.0), True)
TIE = (33922, "d", 6, (0.0, 0.0, 0.0, 389000.0, 5820000.0, 0.0), True)
INNER_TIE = (33922, "d", 6, (10.0, 4.0, 0.0, 389005.0, 5819998.0, 0.0), True)
MATRIX = (34264, "d", 16, (0.5, 0, 0, 389000, 0, -0.5, 0, 5820000, 0, 0, 0, 0, 0, 0, 0, 1), True)
CORNERS = np.array([[0.0, 0.0], [10.0, 4.0]])
ON_MAP = np.array([[389000.0, 5820000.0], [389005.0, 5819998.0]])


def keys(values: tuple[int, ...]) -> tuple[Any, ...]:
    return (34735, "H", len(values), values, True)


def write_tiff(path: Path, *tags: Any, **options: Any) -> Path:
    pixels = np.zeros((20, 30, 5), dtype=np.uint16)
    tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig", extratags=tags, **options)
    return path


@pytest.mark.parametrize(
    "tags",
    [(SCALE, TIE, keys(KEYS)), (SCALE, INNER_TIE, keys(KEYS)), (MATRIX, keys(KEYS))],
    ids=["tie point", "inner tie point", "matrix"],
)
@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}], ids=["", "BigTIFF", "big endian"])
def test_tags_give_the_map_coordinates_of_pixels(tmp_path: Path, tags: Any, options: Any) -> None:
    found = read_georeference(write_tiff(tmp_path / "a.tif", *tags, **options))
    assert found is not None
    np.testing.assert_allclose(found.to_map(CORNERS), ON_MAP)
    np.testing.assert_allclose(found.to_pixels(ON_MAP), CORNERS, atol=1e-9)
    assert (found.epsg, found.pixel_size()) == (32633, 0.5)
    np.testing.assert_allclose(found.extent((20, 30)), [[389000, 5819990], [389015, 5820000]])


def test_coordinates_of_points_are_those_of_pixel_centres(tmp_path: Path) -> None:
    found = read_georeference(write_tiff(tmp_path / "a.tif", SCALE, TIE, keys(POINTS)))
    assert found is not None
    np.testing.assert_allclose(found.to_map(CORNERS + 0.5), ON_MAP)


@pytest.mark.parametrize(("values", "epsg"), [(GEOGRAPHIC, 4326), ((*KEYS[:-1], 32767), None), ((), None)])
def test_number_of_the_coordinate_system(tmp_path: Path, values: tuple[int, ...], epsg: int | None) -> None:
    found = read_georeference(write_tiff(tmp_path / "a.tif", SCALE, TIE, *([keys(values)] if values else [])))
    assert found is not None
    assert found.epsg == epsg


@pytest.mark.parametrize(
    "tags", [(), (SCALE,), (TIE,), (keys(KEYS),), ((33550, "d", 3, (0.0, 0.5, 0.0), True), TIE)], ids=str
)
def test_other_tiffs_have_no_map_coordinates(tmp_path: Path, tags: Any) -> None:
    assert read_georeference(write_tiff(tmp_path / "a.tif", *tags)) is None


@pytest.mark.parametrize("content", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"])
def test_damaged_tiff_has_no_map_coordinates(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tif").write_bytes(content)
    assert read_georeference(tmp_path / "a.tif") is None


@pytest.mark.parametrize(
    ("image", "world"),
    [("a.tif", "a.tfw"), ("a.jpg", "a.jgw"), ("a.png", "a.PGW"), ("a.png", "a.pngw"), ("a.ome.tif", "a.ome.wld")],
)
def test_world_file_has_the_centre_of_the_first_pixel(tmp_path: Path, image: str, world: str) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / image)
    (tmp_path / world).write_text("0.5\n0\n0\n-0.5\n389000.25\n5819999.75\n")
    found = read_georeference(tmp_path / image)
    assert found is not None
    np.testing.assert_allclose(found.to_map(CORNERS), ON_MAP)
    assert sidecar_files(tmp_path / image) == [tmp_path / world]


def test_rotated_world_file(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    (tmp_path / "a.pgw").write_text("0 2 2 0 100 200")  # x and y exchanged
    found = read_georeference(tmp_path / "a.png")
    assert found is not None
    np.testing.assert_allclose(found.to_map(np.array([[0.5, 0.5], [3.5, 1.5]])), [[100, 200], [102, 206]])


def test_projection_of_a_world_file_names_the_coordinate_system(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    (tmp_path / "a.pgw").write_text("1 0 0 -1 0 0")
    (tmp_path / "a.prj").write_text('PROJCS["x",GEOGCS["y",AUTHORITY["EPSG","4326"]],AUTHORITY["EPSG","32633"]]')
    found = read_georeference(tmp_path / "a.png")
    assert found is not None
    assert found.epsg == 32633


@pytest.mark.parametrize("content", ["", "1 0 0 -1 0", "1 0 0 -1 0 0 0", "a b c d e f", "1 0 0 -1 nan 0"])
def test_world_file_that_is_not_six_numbers_is_named(tmp_path: Path, content: str) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    (tmp_path / "a.pgw").write_text(content)
    with pytest.raises(UserError, match=r"a.pgw is not a world file: it must have six numbers"):
        read_georeference(tmp_path / "a.png")


def test_images_without_either_have_no_map_coordinates(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    assert read_georeference(tmp_path / "a.png") is None
    (tmp_path / "a.pgw").write_text("0 0 0 0 5 5")  # no area
    assert read_georeference(tmp_path / "a.png") is None
