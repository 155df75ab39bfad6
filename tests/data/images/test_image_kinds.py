"""Image files of every kind are read as Pillow, tifffile and NumPy wrote them, or refused with the cause."""

import logging
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.images import problems
from mrcnn_zoo.data.images.reading import MAX_PIXELS, FileImage, read_bitmap
from mrcnn_zoo.data.loading.mapper import build_eval_mapper, build_pixel_reader
from mrcnn_zoo.data.records import ImageRecord
from mrcnn_zoo.errors import UserError

H, W = 20, 30
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (H, W, 3)).astype(np.uint8)
GREY = RGB[..., 0]
DEEP = RNG.integers(0, 4096, (H, W)).astype(np.uint16)
DEEP_RGB = RNG.integers(0, 65536, (H, W, 3)).astype(np.uint16)
FLOATS = RNG.random((H, W)).astype(np.float32)
CMYK = np.full((H, W, 4), (0, 65535, 13107, 32768), np.uint16)  # 0, 1, 1/5 and 1/2 of the inks
CMYK_AS_RGB = np.full((H, W, 3), (32767, 0, 26214), np.uint16)  # (1 - ink) (1 - black)


@pytest.fixture(autouse=True)
def _nothing_noted_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems, "_noted", bytearray(len(problems._noted)))


def grey(array: np.ndarray) -> np.ndarray:
    return np.repeat(array[:, :, None], 3, axis=2)


def write_deep_png(path: Path, array: np.ndarray) -> None:
    """A PNG of 16 bits per channel, which Pillow cannot write."""
    colour_type = {2: 4, 3: 2, 4: 6}[array.shape[2]]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in array)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, colour_type, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


TIFFS: dict[str, tuple[np.ndarray, dict[str, Any], np.ndarray]] = {
    "16 bits, big-endian": (DEEP, {"byteorder": ">"}, grey(DEEP)),
    "BigTIFF": (DEEP, {"bigtiff": True}, grey(DEEP)),
    "tiles": (np.tile(DEEP, (4, 4)), {"tile": (16, 16)}, grey(np.tile(DEEP, (4, 4)))),
    "deflate": (RGB, {"compression": "zlib", "photometric": "rgb"}, RGB),
    "RGB of 16 bits": (DEEP_RGB, {"photometric": "rgb"}, DEEP_RGB),
    "RGB of 16 bits, big-endian": (DEEP_RGB, {"photometric": "rgb", "byteorder": ">"}, DEEP_RGB),
    "RGBA of 16 bits": (
        np.concatenate((DEEP_RGB, DEEP_RGB[..., :1]), axis=2),
        {"photometric": "rgb", "extrasamples": ["unassalpha"]},
        DEEP_RGB,
    ),
    "planar RGB": (RGB.transpose(2, 0, 1), {"photometric": "rgb", "planarconfig": "separate"}, RGB),
    "planar RGB of 16 bits": (
        DEEP_RGB.transpose(2, 0, 1),
        {"photometric": "rgb", "planarconfig": "separate"},
        DEEP_RGB,
    ),
    "two planes": (
        np.stack((GREY, GREY.T.reshape(H, W))),
        {"photometric": "minisblack", "planarconfig": "separate"},
        np.stack((GREY, GREY.T.reshape(H, W)), axis=2),
    ),
    "two planes of 16 bits": (
        np.stack((DEEP, DEEP + 1)),
        {"photometric": "minisblack", "planarconfig": "separate"},
        np.stack((DEEP, DEEP + 1), axis=2),
    ),
    "signed 8 bits": (GREY.astype(np.int8), {}, grey(GREY.astype(np.int8).astype(np.float32))),
    "signed 16 bits": (DEEP.astype(np.int16) - 2000, {}, grey(DEEP.astype(np.float32) - 2000)),
    "signed 32 bits": (DEEP.astype(np.int32) - 2000, {}, grey(DEEP.astype(np.float32) - 2000)),
    "unsigned 32 bits": (DEEP.astype(np.uint32) * 70000, {}, grey((DEEP.astype(np.uint32) * 70000).astype(np.float32))),
    "floats": (FLOATS, {"byteorder": ">"}, grey(FLOATS)),
    "double": (FLOATS.astype(np.float64), {}, grey(FLOATS)),
    "half": (FLOATS.astype(np.float16), {}, grey(FLOATS.astype(np.float16).astype(np.float32))),
    "white is 0": (GREY, {"photometric": "miniswhite"}, grey(255 - GREY)),
    "CMYK of 16 bits": (CMYK, {"photometric": "separated"}, CMYK_AS_RGB),
    "ImageJ channels": (np.stack([DEEP] * 4), {"imagej": True, "metadata": {"axes": "CYX"}}, np.stack([DEEP] * 4, 2)),
}


@pytest.mark.parametrize("kind", list(TIFFS))
@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_tiff_files_of_every_kind(kind: str, name: str, tmp_path: Path) -> None:
    array, options, expected = TIFFS[kind]
    tifffile.imwrite(tmp_path / name, array, **options)  # the suffix does not matter
    read = FileImage(str(tmp_path / name)).read()
    assert read.dtype == expected.dtype
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
@pytest.mark.parametrize("pages", [1, 5])
def test_compressed_tiff_needs_no_further_package(compression: str, pages: int, tmp_path: Path) -> None:
    arrays = [np.roll(GREY if compression == "jpeg" else DEEP, shift, axis=0) for shift in range(pages)]
    first, *others = map(Image.fromarray, arrays)
    first.save(tmp_path / "a.tif", compression=compression, save_all=pages > 1, append_images=others)
    read, expected = FileImage(str(tmp_path / "a.tif")).read(), np.stack(arrays * (3 if pages == 1 else 1), axis=2)
    assert read.dtype == expected.dtype
    assert read.shape == expected.shape
    if compression != "jpeg":
        np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("orientation", [1, 6])
def test_png_with_several_16_bit_channels_keeps_all_bits(channels: int, orientation: int, tmp_path: Path) -> None:
    array = np.concatenate((DEEP_RGB, DEEP_RGB[::-1]), axis=2)[..., :channels]
    write_deep_png(tmp_path / "a.png", array)
    if orientation != 1:
        exif = Image.Exif()
        exif[0x0112] = orientation
        content, block = (tmp_path / "a.png").read_bytes(), exif.tobytes()[6:]
        chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
        (tmp_path / "a.png").write_bytes(content[:33] + chunk + content[33:])
        array = np.rot90(array, 3)
    source = FileImage(str(tmp_path / "a.png"))
    np.testing.assert_array_equal(source.read(), array[..., :3] if channels > 2 else grey(array[..., 0]))
    np.testing.assert_array_equal(source.read_with_alpha(), array)
    assert source.is_turned() == (orientation != 1)
    np.testing.assert_array_equal(read_bitmap(str(tmp_path / "a.png")).shape, (H, W))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_orientation_is_applied(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for array in (DEEP, GREY, FLOATS):
        Image.fromarray(array).save(tmp_path / "a.tif", exif=exif)
        turned = {1: array, 2: array[:, ::-1], 3: array[::-1, ::-1], 4: array[::-1], 5: array.T, 6: np.rot90(array, 3)}
        turned |= {7: array[::-1, ::-1].T, 8: np.rot90(array)}
        np.testing.assert_array_equal(FileImage(str(tmp_path / "a.tif")).read(), grey(turned[orientation]))


def test_content_selects_the_reader_not_the_suffix(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "png", format="PNG")
    with open(tmp_path / "array", "wb") as file:
        np.save(file, DEEP.astype(">u2"))
    for content, expected in (("png", RGB), ("array", grey(DEEP))):
        for suffix in (".npy", ".png", ".tif", ".jpg"):
            path = tmp_path / f"{content}{suffix}"
            path.write_bytes((tmp_path / content).read_bytes())
            read = FileImage(str(path)).read()
            assert read.dtype == expected.dtype
            np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("name", ["a.tif", "a.npy", "b.tif"])
def test_pixels_that_are_not_finite_are_replaced_with_a_note(name: str, tmp_path: Path, caplog: Any) -> None:
    values, path = FLOATS.copy(), tmp_path / name
    values[3, 4], values[5, 5], values[6, 6] = np.nan, np.inf, -np.inf
    expected = values.copy()
    finite = values[np.isfinite(values)]
    expected[3, 4], expected[5, 5], expected[6, 6] = finite.min(), finite.max(), finite.min()
    if name.startswith("b"):  # read by tifffile: in several channels
        values, expected = np.stack([values] * 3, axis=2), grey(expected)
    np.save(path, values) if name.endswith("npy") else tifffile.imwrite(path, values)
    for _ in range(2):
        read = FileImage(str(path)).read()
        np.testing.assert_array_equal(read, expected if expected.ndim == 3 else grey(expected))
    notes = [record.getMessage() for record in caplog.records]
    assert len(notes) == 1  # once, although it is read twice
    assert f"{path} holds NaN or infinity in {9 if name.startswith('b') else 3} of" in notes[0]


def test_image_without_finite_pixels_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((H, W), np.nan, np.float32))
    np.save(tmp_path / "a.npy", np.full((H, W), 1e300))
    for name in ("a.tif", "a.npy"):
        with pytest.raises(UserError, match="has only pixels that are NaN or infinite"):
            FileImage(str(tmp_path / name)).read()


def test_error_names_the_pages_of_a_tiff(cfg: CfgNode, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "z.tif", np.stack([GREY] * 5), metadata={"axes": "ZYX"})
    tifffile.imwrite(tmp_path / "p.tif", np.stack([GREY] * 5), photometric="minisblack", metadata=None)
    tifffile.imwrite(tmp_path / "c.tif", np.stack([GREY] * 5, axis=2), photometric="minisblack", planarconfig="contig")
    open_ = build_pixel_reader(cfg).open
    with pytest.raises(UserError, match=r"z\.tif has 5 pages \(axes ZYX\), which are read as channels.*PIXEL_MEAN"):
        open_(FileImage(str(tmp_path / "z.tif")))
    with pytest.raises(UserError, match=r"p\.tif has 5 pages .*Set INPUT\.PAGES to images if each page is an image"):
        open_(FileImage(str(tmp_path / "p.tif")))
    with pytest.raises(UserError, match=r"c\.tif has 5 channels, but the model has 3"):
        open_(FileImage(str(tmp_path / "c.tif")))
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [0.0] * 5, [1.0] * 5
    assert build_pixel_reader(cfg).open(FileImage(str(tmp_path / "z.tif"))).shape == (H, W, 5)


def test_ambiguous_tiff_files_are_noted(tmp_path: Path, caplog: Any) -> None:
    tifffile.imwrite(tmp_path / "z.tif", np.stack([GREY] * 3), photometric="minisblack", metadata={"axes": "ZYX"})
    frames = [Image.fromarray(np.roll(RGB, shift, axis=0)) for shift in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        file.write(RGB, photometric="rgb")
        file.write(GREY[:9, :9], photometric="minisblack")
    shapes = [FileImage(str(tmp_path / name)).read().shape for name in ("z.tif", "a.gif", "two.tif")]
    assert shapes == [(H, W, 3)] * 3
    assert "z.tif is a stack of 3 slices; they are read as red, green and blue" in caplog.text
    assert "a.gif is animated; the first of its 3 frames is read" in caplog.text
    assert "two.tif holds 2 images of different sizes or kinds; the first is read" in caplog.text


def test_colour_ppm_of_16_bits_is_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    deep, plain = tmp_path / "deep.ppm", tmp_path / "plain.ppm"
    deep.write_bytes(b"P6 2 1 65535\n" + bytes([1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0]))
    plain.write_bytes(b"P6 2 1 255\n" + bytes([1, 2, 3, 4, 5, 6]))
    assert FileImage(str(deep)).read().tolist() == FileImage(str(plain)).read().tolist() == [[[1, 2, 3], [4, 5, 6]]]
    assert [record.message for record in caplog.records] == [
        f"{deep} is read with 8 of its 16 bits; write it as PNG or TIFF."
    ]


def test_notes_of_one_kind_are_limited(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.WARNING)
    frames = [Image.fromarray(np.roll(RGB, shift, axis=0)) for shift in range(2)]
    for number in range(12):
        frames[0].save(tmp_path / f"{number}.gif", save_all=True, append_images=frames[1:])
        FileImage(str(tmp_path / f"{number}.gif")).read()
    assert caplog.text.count("is animated") == 5
    assert caplog.text.count("the others are not named") == 1


def test_arrays_of_any_memory_layout_are_read(cfg: CfgNode) -> None:
    class Array:
        name = "an array"

        def __init__(self, pixels: np.ndarray) -> None:
            self.pixels = pixels

        def read(self) -> np.ndarray:
            return self.pixels

    mapper = build_eval_mapper(cfg)
    plain = mapper(ImageRecord(1, Array(RGB), (H, W)), np.random.default_rng(0)).image
    for same in (RGB[:, :, ::-1].copy()[:, :, ::-1], np.asfortranarray(RGB)):  # channels turned, columns first
        assert mapper(ImageRecord(1, Array(same), (H, W)), np.random.default_rng(0)).image.equal(plain)
    repeated = mapper(ImageRecord(1, Array(GREY), (H, W)), np.random.default_rng(0)).image
    assert repeated.equal(mapper(ImageRecord(1, Array(grey(GREY)), (H, W)), np.random.default_rng(0)).image)
    with pytest.raises(UserError, match=r"an array has the shape \(0, 30, 3\)"):
        mapper(ImageRecord(1, Array(RGB[:0]), (0, W)), np.random.default_rng(0))


def test_undividable_depth_is_refused_with_the_file(cfg: CfgNode, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", FLOATS)
    cfg.INPUT.SIXTEEN_BIT = "divide"
    with pytest.raises(UserError, match=r"a\.tif: INPUT\.SIXTEEN_BIT = 'divide'.* float32"):
        build_eval_mapper(cfg)(ImageRecord(1, FileImage(str(tmp_path / "a.tif")), (H, W)), np.random.default_rng(0))


CONTENTS = {
    "hello, this is no image": r"not an image but text \('hello, this is no image'",
    "<!DOCTYPE html><html>404</html>": "not an image but a web page",
    "version https://git-lfs.github.com/spec/v1\noid": "Git LFS pointer.*git lfs pull",
    "<svg xmlns=''/>": "SVG",
    "%PDF-1.4": "a PDF",
    "{}": "not an image but text",
    "": r"not an image: the file is empty \(0 bytes\)",
    "\0\0\0\x18ftypheic\0\0\0\0mif1heic": "HEIC photo",
    "PK\x03\x04" + "0" * 50: "ZIP archive",
    "\x01\x02\x03\x04" * 9: "not an image of a known kind",
}


@pytest.mark.parametrize("content", list(CONTENTS))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_files_of_other_kinds_are_refused_by_their_kind(content: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text(content)
    with pytest.raises(UserError, match=CONTENTS[content]) as error:
        FileImage(str(path)).read()
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_folders_links_and_missing_files_are_refused_by_name(suffix: str, tmp_path: Path) -> None:
    folder, link, loop, missing = (tmp_path / f"{name}{suffix}" for name in ("folder", "link", "loop", "missing"))
    folder.mkdir()
    os.symlink("/nowhere/x.png", link)
    os.symlink(loop.name, loop)
    for path, message in (
        (folder, "is a folder"),
        (link, "is a link to /nowhere/x.png, which is missing"),
        (loop, "cannot be opened .*symbolic links"),
        (missing, "missing"),
    ):
        with pytest.raises(UserError, match=message):
            FileImage(str(path)).read()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission_is_refused(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    os.chmod(tmp_path / "a.png", 0)
    with pytest.raises(UserError, match="no permission"):
        FileImage(str(tmp_path / "a.png")).read()


def test_image_above_the_limit_is_refused_with_the_key_and_read_below_it(cfg: CfgNode, tmp_path: Path) -> None:
    assert cfg.INPUT.MAX_IMAGE_PIXELS == MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS
    Image.fromarray(RGB).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", DEEP_RGB, photometric="rgb")
    for name in ("a.png", "a.tif"):
        source = FileImage(str(tmp_path / name))
        cfg.INPUT.MAX_IMAGE_PIXELS = 599
        with pytest.raises(UserError, match=r"30 x 20 pixels.* INPUT\.MAX_IMAGE_PIXELS to 600 or more"):
            build_pixel_reader(cfg).open(source)
        for limit in (600, 0):
            cfg.INPUT.MAX_IMAGE_PIXELS = limit
            assert build_pixel_reader(cfg).open(source).shape == (H, W, 3)


def test_limit_of_pillow_is_unused_and_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    for limit in (400, 200):  # Pillow warns about 600 pixels from 400 on, and refuses them from 200 on
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert FileImage(str(tmp_path / "a.png")).read().shape == (H, W, 3)
        assert limit == Image.MAX_IMAGE_PIXELS


def test_exchanged_width_and_height_name_exif_only_if_it_rotates(cfg: CfgNode, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "plain.png")
    Image.fromarray(RGB).save(tmp_path / "turned.jpg", exif=exif)
    for name, size, cause in (("plain.png", (W, H), "seem exchanged"), ("turned.jpg", (H, W), "EXIF tag rotates it")):
        with pytest.raises(UserError, match=cause) as error:
            build_eval_mapper(cfg)(ImageRecord(1, FileImage(str(tmp_path / name)), size), np.random.default_rng(0))
        assert ("EXIF" in str(error.value)) == name.startswith("turned")


@pytest.mark.parametrize(("values", "mean"), [(DEEP, 103.5), (FLOATS, 103.5), (DEEP, 2000.0)])
def test_statistics_that_do_not_fit_kept_values_are_noted(
    values: np.ndarray, mean: float, cfg: CfgNode, tmp_path: Path, caplog: Any
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", values)
    cfg.INPUT.SIXTEEN_BIT = "keep"
    std = 57.0 if values is FLOATS else 1000.0 if mean == 2000 else 1.0
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [mean] * 3, [std] * 3
    build_eval_mapper(cfg)(ImageRecord(1, FileImage(str(tmp_path / "a.tif")), (H, W)), np.random.default_rng(0))
    assert ("do not fit the values of" in caplog.text) == (mean != 2000)
