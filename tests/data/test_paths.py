"""Folders, the cache of parsed datasets, and sizes of image files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from mrcnn_zoo.data.images.headers import size_from_header
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.paths import (
    cache_key,
    dataset_cache_folder,
    image_file_size,
    image_file_sizes,
    read_cache,
    write_cache,
)
from mrcnn_zoo.errors import UserError

CONTENT = {"a": [1, 2.5, "x"]}


def test_written_content_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRCNN_ZOO_CACHE", str(tmp_path / "deep" / "cache"))
    write_cache("test", "key", CONTENT)
    assert read_cache("test", "key") == CONTENT
    assert read_cache("test", "other") is None
    assert [path.name for path in (tmp_path / "deep" / "cache").iterdir()] == ["test-key.json.gz"]


def test_folder_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MRCNN_ZOO_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert dataset_cache_folder() == Path("/somewhere/mrcnn_zoo")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert dataset_cache_folder() == Path("/home/me/.cache/mrcnn_zoo")


@pytest.mark.parametrize("damage", [b"", b"not gzip", None])
def test_damaged_cache_file_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes | None) -> None:
    monkeypatch.setenv("MRCNN_ZOO_CACHE", str(tmp_path))
    write_cache("test", "key", CONTENT)
    path = tmp_path / "test-key.json.gz"
    path.write_bytes(path.read_bytes()[:-5] if damage is None else damage)
    assert read_cache("test", "key") is None


def test_read_only_cache_folder_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MRCNN_ZOO_CACHE", str(tmp_path / "file" / "cache"))
    write_cache("test", "key", CONTENT)
    assert read_cache("test", "key") is None


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRCNN_ZOO_CACHE", str(tmp_path))
    with pytest.raises(TypeError):
        write_cache("test", "key", {"a": object()})
    assert list(tmp_path.iterdir()) == []


def test_key_depends_on_every_line() -> None:
    assert cache_key(["a", "b"]) != cache_key(["a", "c"])
    assert cache_key(["a", "b"]) == cache_key(["a", "b"])


@pytest.mark.parametrize("place", ["before", "behind", "tiff"])
def test_size_of_a_turned_image_is_upright(tmp_path: Path, place: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    path = tmp_path / ("a.tif" if place == "tiff" else "a.png")
    Image.new("RGB", (30, 20)).save(path, exif=exif)
    if place == "behind":  # the chunk of tags is moved behind the pixels, as the PNG specification allows
        content = path.read_bytes()
        start = content.index(b"eXIf") - 4
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        last = content.index(b"IEND") - 4
        path.write_bytes(content[:start] + content[end:last] + content[start:end] + content[last:])
    assert image_file_size(path) == (30, 20) == FileImage(str(path)).read().shape[:2]


XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("L", {}),
        ("RGB", {"progressive": True}),
        ("CMYK", {"icc_profile": b"x" * 200_000}),
        ("RGB", {"comment": b"\xff\xc0" * 9}),
        ("RGB", {"xmp": XMP.encode()}),
        ("RGB", {"exif": Image.Exif()}),
    ],
)
def test_size_of_a_jpeg_is_that_of_its_pixels(tmp_path: Path, mode: str, options: dict[str, Any]) -> None:
    path = tmp_path / "a.jpg"
    if "exif" in options:
        options["exif"][0x0112] = 8
    Image.new(mode, (30, 20)).save(path, **options)
    turned = options.keys() & {"xmp", "exif"}
    assert size_from_header(str(path)) == (None if turned else (20, 30))
    assert image_file_size(path) == ((30, 20) if turned else (20, 30)) == FileImage(str(path)).read().shape[:2]


def test_sizes_are_in_the_order_of_the_files(tmp_path: Path) -> None:
    paths = []
    for number in range(1, 300):
        paths.append(str(tmp_path / f"{number}.{('png', 'jpg', 'bmp')[number % 3]}"))
        Image.new("L", (number, 3)).save(paths[-1])
    assert image_file_sizes(paths) == [(3, number) for number in range(1, 300)]
    assert image_file_sizes([]) == []


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_file_that_ends_in_its_header_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    Image.new("RGB", (30, 20)).save(path)
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(UserError, match=r"a\.(png|jpg)"):
        image_file_sizes([str(path)])


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((20, 30, 5), {"photometric": "minisblack", "planarconfig": "contig"}),
        ((5, 20, 30), {"photometric": "minisblack", "planarconfig": "separate"}),
        ((5, 20, 30), {"photometric": "minisblack"}),
        ((40, 30, 4), {"photometric": "minisblack"}),
        ((20, 30), {"photometric": "minisblack", "extratags": [(274, "H", 1, 6, True)]}),
        ((20, 30, 5), {"photometric": "minisblack", "planarconfig": "contig", "extratags": [(274, "H", 1, 8, True)]}),
    ],
    ids=["contiguous", "planes", "pages", "rows as pages", "turned", "turned, of 5 channels"],
)
def test_size_of_a_tiff_is_that_of_its_pixels_without_reading_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros(shape, dtype=np.uint16), **options)
    expected = FileImage(str(path)).read().shape[:2]
    monkeypatch.delattr(FileImage, "read")
    assert image_file_size(path) == expected
