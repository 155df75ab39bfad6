"""RGB, alpha, grey, palettes and depth of image files; errors."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrcnn_zoo.data.images.reading import FileImage, read_bitmap
from mrcnn_zoo.errors import UserError

COLOURS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 20, 30]], [[7, 7, 7], [0, 0, 0]]], np.uint8)
GREYS = np.array([[0, 50], [100, 150], [200, 250]], np.uint8)


def _read(path: Path, image: Image.Image, **options: object) -> np.ndarray:
    image.save(path, **options)
    return FileImage(str(path)).read()


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_colour_images_are_rgb(tmp_path: Path, suffix: str) -> None:
    assert np.array_equal(_read(tmp_path / f"a.{suffix}", Image.fromarray(COLOURS)), COLOURS)


def test_alpha_is_dropped_not_blended(tmp_path: Path) -> None:
    alpha = np.full((3, 2, 1), 10, np.uint8)
    image = Image.fromarray(np.concatenate([COLOURS, alpha], axis=2))
    assert np.array_equal(_read(tmp_path / "a.png", image), COLOURS)


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_grey_is_repeated(tmp_path: Path, mode: str) -> None:
    read = _read(tmp_path / "a.png", Image.fromarray(GREYS).convert(mode))
    assert np.array_equal(read, np.stack([GREYS] * 3, axis=2))


def test_palette_is_looked_up(tmp_path: Path) -> None:
    image = Image.fromarray(COLOURS).quantize(6)
    assert np.array_equal(_read(tmp_path / "a.png", image), np.asarray(image.convert("RGB")))


def test_one_bit_images_are_black_and_white(tmp_path: Path) -> None:
    read = _read(tmp_path / "a.png", Image.fromarray(GREYS > 120))
    assert read[:, :, 0].tolist() == [[0, 0], [0, 255], [255, 255]]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    read = _read(tmp_path / "a.tif", Image.fromarray(COLOURS).convert("CMYK"))
    assert read.shape == (3, 2, 3)
    assert np.abs(read.astype(int) - COLOURS).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_kept(tmp_path: Path, suffix: str) -> None:
    deep = np.array([[0, 300], [4095, 65535]], np.uint16)
    read = _read(tmp_path / f"a.{suffix}", Image.fromarray(deep))
    assert read.dtype == np.uint16
    assert np.array_equal(read, np.stack([deep] * 3, axis=2))


def test_floats_are_kept(tmp_path: Path) -> None:
    values = np.array([[0.25, -1.5]], np.float32)
    read = _read(tmp_path / "a.tif", Image.fromarray(values))
    assert read.dtype == np.float32
    assert read[:, :, 1].tolist() == [[0.25, -1.5]]


@pytest.mark.parametrize(
    ("orientation", "shown"),
    [
        (1, COLOURS),
        (2, COLOURS[:, ::-1]),
        (3, COLOURS[::-1, ::-1]),
        (4, COLOURS[::-1]),
        (5, COLOURS.transpose(1, 0, 2)),
        (6, np.rot90(COLOURS, 3)),
        (7, COLOURS[::-1, ::-1].transpose(1, 0, 2)),
        (8, np.rot90(COLOURS)),
    ],
)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, shown: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(_read(tmp_path / "a.png", Image.fromarray(COLOURS), exif=exif), shown)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_truncated_file_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=re.escape(str(path)) + ".*(truncated|cut off)"):
        FileImage(str(path)).read()


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_file_that_is_not_an_image_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(path)) + " is not an image"):
        FileImage(str(path)).read()


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "a.jpg")) + ".*missing"):
        FileImage(str(tmp_path / "a.jpg")).read()


def test_bitmap_has_the_pixels_that_are_not_black(tmp_path: Path) -> None:
    expected = COLOURS.any(axis=2)
    for name, image in {"l": Image.fromarray(expected.astype(np.uint8)), "rgb": Image.fromarray(COLOURS)}.items():
        image.save(tmp_path / f"{name}.png")
        assert np.array_equal(read_bitmap(str(tmp_path / f"{name}.png")), expected)
