"""Windows of image files against the files read as a whole."""

import logging
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from mrcnn_zoo.data.images.arrays import tifffile_errors
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.images.windows import open_windows
from mrcnn_zoo.errors import UserError


def write_image(path: Path, kind: str) -> Path:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (150, 130, 3), dtype=np.uint8)
    deep = rng.integers(0, 60_000, (150, 130), dtype=np.uint16)
    rgba = rng.integers(0, 255, (150, 130, 4), dtype=np.uint8)
    writers = {
        "npy": lambda: np.save(path, pixels),
        "npy grey": lambda: np.save(path, deep.astype(">u2")),
        "tif": lambda: tifffile.imwrite(path, pixels, photometric="rgb"),
        "tif strips": lambda: tifffile.imwrite(path, pixels, photometric="rgb", compression="zlib", rowsperstrip=7),
        "tif tiles": lambda: tifffile.imwrite(path, pixels, photometric="rgb", compression="zlib", tile=(64, 32)),
        "tif 16 bit": lambda: tifffile.imwrite(path, deep, compression="zlib", tile=(64, 32), byteorder=">"),
        "tif alpha": lambda: tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=["unassalpha"]),
        "tif planes": lambda: tifffile.imwrite(
            path, np.moveaxis(pixels, 2, 0), photometric="rgb", planarconfig="separate"
        ),
        "tif channels": lambda: tifffile.imwrite(
            path, np.moveaxis(rgba, 2, 0), photometric="minisblack", metadata={"axes": "CYX"}
        ),
    }
    writers[kind]()
    return path


@pytest.mark.parametrize(
    "kind",
    ["npy", "npy grey", "tif", "tif strips", "tif tiles", "tif 16 bit", "tif alpha", "tif planes", "tif channels"],
)
def test_windows_of_a_file_equal_the_whole_image(tmp_path: Path, kind: str) -> None:
    source = FileImage(str(write_image(tmp_path / f"image.{kind[:3]}", kind)))
    windows = open_windows(source)
    assert windows is not None
    whole = source.read()
    assert (windows.shape, windows.dtype) == (whole.shape, whole.dtype)
    for left, top, right, bottom in [(0, 0, 130, 150), (100, 90, 130, 150), (31, 63, 33, 65), (5, 5, 6, 6)]:
        np.testing.assert_array_equal(windows[top:bottom, left:right], whole[top:bottom, left:right])
    np.testing.assert_array_equal(np.asarray(windows), whole)


@pytest.mark.parametrize("kind", ["png", "float.tif", "palette.tif", "white.tif"])
def test_other_files_are_read_whole(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"image.{kind}"
    pixels = np.arange(100, dtype=np.uint8).reshape(10, 10)
    if kind == "float.tif":
        tifffile.imwrite(path, pixels.astype(np.float32))
    elif kind == "white.tif":
        tifffile.imwrite(path, pixels, photometric="miniswhite")
    else:
        Image.fromarray(pixels).convert("P").save(path)
    assert open_windows(FileImage(str(path))) is None


def test_damaged_tiff_is_reported_when_its_tile_is_read(tmp_path: Path) -> None:
    path = write_image(tmp_path / "image.tif", "tif tiles")
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(UserError, match=r"image\.tif"):
        np.asarray(open_windows(FileImage(str(path))))


def test_logger_of_tifffile_works_after_reads_that_overlap_in_time(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("tifffile")
    first, second = ExitStack(), ExitStack()
    first.enter_context(tifffile_errors("a.tif"))
    second.enter_context(tifffile_errors("b.tif"))
    first.close()
    log.warning("inside")
    second.close()
    log.warning("outside")
    assert [record.message for record in caplog.records] == ["outside"]
