"""Pages of TIFF stacks as images of their own, in any order of axes, and label stacks page by page."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.catalog import load_dataset
from mrcnn_zoo.data.images.stacks import StackPage, pages_of
from mrcnn_zoo.data.loading.mapper import build_pixel_reader
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.data.splits import units_of
from mrcnn_zoo.errors import UserError

H, W = 20, 30
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 60000, (5, H, W)).astype(np.uint16)
RGB = RNG.integers(0, 255, (5, H, W, 3)).astype(np.uint8)
HYPERSTACK = RNG.integers(0, 60000, (2, 3, 4, H, W)).astype(np.uint16)
CHANNELS_FIRST = RNG.integers(0, 255, (2, 4, H, W)).astype(np.uint8)


def _grey(stack: NDArray[Any]) -> NDArray[Any]:
    return stack[..., None].repeat(3, axis=3)


# Array, options of tifffile, (pages, H, W, C).
STACKS: dict[str, tuple[NDArray[Any], dict[str, Any], NDArray[Any]]] = {
    "pages": (GREY, {}, _grey(GREY)),
    "compressed": (GREY, {"compression": "zlib"}, _grey(GREY)),
    "more pages than columns": (GREY[..., :2], {"photometric": "minisblack"}, _grey(GREY[..., :2])),
    "ImageJ slices": (GREY, {"imagej": True, "metadata": {"axes": "ZYX"}}, _grey(GREY)),
    "RGB": (RGB, {"photometric": "rgb"}, RGB),
    "planar RGB": (RGB.transpose(0, 3, 1, 2), {"photometric": "rgb", "planarconfig": "separate"}, RGB),
    "hyperstack": (
        HYPERSTACK,
        {"imagej": True, "metadata": {"axes": "TZCYX"}},
        HYPERSTACK.reshape(6, 4, H, W).transpose(0, 2, 3, 1),
    ),
    "OME, channels first": (
        CHANNELS_FIRST,
        {"ome": True, "metadata": {"axes": "CZYX"}},
        CHANNELS_FIRST.transpose(1, 2, 3, 0),
    ),
}


@pytest.mark.parametrize("kind", STACKS)
def test_pages_have_their_channels(kind: str, tmp_path: Path) -> None:
    array, options, expected = STACKS[kind]
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    pages = pages_of(str(tmp_path / "a.tif"))
    assert pages == [StackPage(str(tmp_path / "a.tif"), page) for page in range(len(expected))]
    assert np.array_equal(np.stack([page.read() for page in pages]), expected)


def test_compressed_stack_needs_no_further_package(tmp_path: Path) -> None:
    first, *others = map(Image.fromarray, GREY)
    first.save(tmp_path / "a.tif", save_all=True, append_images=others, compression="tiff_lzw")
    read = np.stack([page.read() for page in pages_of(str(tmp_path / "a.tif"))])
    assert np.array_equal(read, _grey(GREY))


@pytest.mark.parametrize("axes", ["CYX", "YX"])
def test_channels_are_no_pages(tmp_path: Path, axes: str) -> None:
    array = GREY if axes == "CYX" else GREY[0]
    tifffile.imwrite(tmp_path / "a.tif", array, imagej=True, metadata={"axes": axes})
    assert len(pages_of(str(tmp_path / "a.tif"))) == 1


def test_limit_of_pixels_holds_for_a_page(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY)
    page = pages_of(str(tmp_path / "a.tif"))[3]
    assert page.read(max_pixels=H * W).shape == (H, W, 3)
    with pytest.raises(UserError, match=r"INPUT\.MAX_IMAGE_PIXELS allows 599"):
        page.read(max_pixels=H * W - 1)


# --- datasets


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRCNN_ZOO_CACHE", str(tmp_path / "cache"))


def _write(path: Path, array: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A stack of 5 pages with object 1 on each, and object 2 on the last; and an image of one page."""
    labels = np.zeros((5, H, W), np.uint16)
    for page in range(5):
        labels[page, page : page + 3, 2:9] = 1
    labels[4, 15:18, 20:25] = 2
    _write(tmp_path / "data/images/stack.tif", GREY)
    _write(tmp_path / "data/masks/stack.tif", labels)
    _write(tmp_path / "data/images/single.tif", GREY[0])
    _write(tmp_path / "data/masks/single.tif", labels[0])
    return tmp_path / "data"


def _load(cfg: CfgNode, root: Path) -> Dataset:
    cfg.INPUT.PAGES = "images"
    return load_dataset(cfg, str(root))


def test_label_stacks_are_read_page_by_page(cfg: CfgNode, root: Path) -> None:
    dataset = _load(cfg, root)
    single, *pages = dataset.records
    assert Path(single.source.name).name == "single.tif"
    assert [record.source for record in pages] == [StackPage(str(root / "images/stack.tif"), page) for page in range(5)]
    assert [[item.box for item in record.instances] for record in pages[3:]] == [
        [(2, 3, 9, 6)],
        [(2, 4, 9, 7), (20, 15, 25, 18)],
    ]
    pixels = build_pixel_reader(cfg).open(pages[3].source)
    assert np.array_equal(pixels, _grey(GREY)[3])


def test_log_says_that_pages_are_images(cfg: CfgNode, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        _load(cfg, root)
    assert "6 images, 7 objects, 1 class (object); 5 pages of 1 TIFF are images (INPUT.PAGES)" in caplog.text


def test_pages_of_a_stack_stay_on_one_side_of_a_split(cfg: CfgNode, root: Path) -> None:
    assert sorted(len(unit) for unit in units_of([_load(cfg, root)])) == [1, 5]


def test_label_stack_of_channels_names_the_key(cfg: CfgNode, root: Path) -> None:
    with pytest.raises(UserError, match=r"stack\.tif has 5 pages where .* Set INPUT\.PAGES to images"):
        load_dataset(cfg, str(root))


def test_stacks_of_other_lengths_are_refused(cfg: CfgNode, root: Path) -> None:
    _write(root / "masks/stack.tif", np.ones((2, H, W), np.uint16))
    with pytest.raises(UserError, match=r"masks/stack\.tif has 2 pages where its image images/stack\.tif has 5"):
        _load(cfg, root)


def test_mask_files_are_read_page_by_page(cfg: CfgNode, tmp_path: Path) -> None:
    masks = np.zeros((5, H, W), np.uint8)
    masks[1:3, 4:8, 5:9] = 255
    _write(tmp_path / "data/images/a.tif", GREY)
    for name in ("1", "2"):
        _write(tmp_path / f"data/masks/a/{name}.tif", masks if name == "1" else masks[::-1])
    dataset = _load(cfg, tmp_path / "data")
    assert [[item.box for item in record.instances] for record in dataset.records[:3]] == [
        [],
        [(5, 4, 9, 8)],
        [(5, 4, 9, 8), (5, 4, 9, 8)],
    ]
    _write(tmp_path / "data/masks/a/2.tif", masks[:2])
    with pytest.raises(UserError, match=r"a/2\.tif has the shape \(2, 20, 30\)"):
        _load(cfg, tmp_path / "data")
