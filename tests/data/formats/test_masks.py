"""One mask file per object: layouts, classes, made splits, the writer, and what is refused. See also test_dsb2018."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from mrcnn_zoo.data.annotations.contract import ReadOptions
from mrcnn_zoo.data.annotations.detection import find_format
from mrcnn_zoo.data.annotations.listing import FileListing
from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.catalog import load_dataset
from mrcnn_zoo.data.formats.masks import MasksFormat
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops import rle

SIZE = (24, 32)  # height, width
FIRST, SECOND = (2, 3, 12, 9), (20, 10, 30, 24)  # x1, y1, x2, y2


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache for this test."""
    monkeypatch.setenv("MRCNN_ZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _bitmap(box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    x1, y1, x2, y2 = box
    bitmap = np.zeros(SIZE, np.uint8)
    bitmap[y1:y2, x1:x2] = 255
    return bitmap


def _save(path: Path, pixels: NDArray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def _image(path: Path, colour: tuple[int, int, int] = (5, 5, 5)) -> Path:
    return _save(path, np.zeros((*SIZE, 3), np.uint8) + np.array(colour, np.uint8))


def _read(path: Path) -> Dataset:
    kind, found = find_format(path, dataset="cells")
    assert kind.name == "masks"
    return kind.read(found, ReadOptions("cells"))


LAYOUTS = {
    "data science bowl": ("a/images/a.png", "a/masks/1.png", "a/masks/2.png"),
    "data science bowl, equal names": ("a/images/1.png", "a/masks/1.png", "a/masks/2.png", "a/masks/3.png"),
    "folders of masks": ("images/a.png", "masks/a/1.png", "masks/a/2.png"),
    "folders of TIFFs": ("images/a.png", "masks/a/1.tif", "masks/a/2.tif"),
    "sides": ("train/images/a.png", "train/masks/a/1.png", "train/masks/a/2.png"),
    "sides inside": ("images/train/a.png", "masks/train/a/1.png", "masks/train/a/2.png"),
    "beside the images": ("a.png", "masks/a/1.png", "masks/a/2.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_is_detected(tmp_path: Path, layout: str) -> None:
    image, *masks = LAYOUTS[layout]
    _image(tmp_path / "data" / image)
    for mask, box in zip(masks, (FIRST, SECOND, SECOND), strict=False):
        _save(tmp_path / "data" / mask, _bitmap(box))
    dataset = _read(tmp_path / "data")
    (record,) = dataset.records
    assert record.source.name == str(tmp_path / "data" / image)
    assert (record.split, dataset.class_names) == ("train" if "sides" in layout else "", ("object",))
    assert [item.box for item in record.instances[:2]] == [FIRST, SECOND]
    assert np.array_equal(coco_mask.decode(record.instances[1].segmentation) * 255, _bitmap(SECOND))


def test_folder_of_masks_is_their_class(tmp_path: Path) -> None:
    _image(tmp_path / "images/a.png")
    _save(tmp_path / "masks/a/nucleus/1.png", _bitmap(FIRST))
    _save(tmp_path / "masks/a/cell/1.png", _bitmap(SECOND))
    dataset = _read(tmp_path)
    assert dataset.class_names == ("cell", "nucleus")
    assert {(item.box, item.class_index) for item in dataset.records[0].instances} == {(FIRST, 1), (SECOND, 0)}


@pytest.mark.parametrize("dtype", [np.bool_, np.uint32, np.float32])
def test_any_value_but_0_is_the_object(tmp_path: Path, dtype: type) -> None:
    _image(tmp_path / "images/a.png")
    (tmp_path / "masks/a").mkdir(parents=True)
    tifffile.imwrite(tmp_path / "masks/a/1.tif", (_bitmap(FIRST) > 0).astype(dtype))
    assert [item.box for item in _read(tmp_path).records[0].instances] == [FIRST]


def test_images_without_masks_are_without_objects_or_left_out(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        _image(tmp_path / f"images/{name}.png")
    _save(tmp_path / "masks/a/1.png", _bitmap(FIRST))
    (tmp_path / "masks/b").mkdir()
    dataset = _read(tmp_path)
    assert [len(record.instances) for record in dataset.records] == [1, 0]
    assert dataset.notes == ("images without a folder of masks left out: 1 (first: image images/c.png)",)


def test_made_split_has_equal_shares_of_modalities(tmp_path: Path, cfg) -> None:
    colours = {"fluorescence": (5, 5, 5), "brightfield": (226, 226, 226)}
    for number in range(20):
        kind = "brightfield" if number < 5 else "fluorescence"
        _image(tmp_path / f"data/{number:02d}/images/{kind}.png", colours[kind])
        _save(tmp_path / f"data/{number:02d}/masks/1.png", _bitmap(FIRST))
    cfg.DATASETS.DEFAULTS.VAL_FRACTION = 0.4
    val = load_dataset(cfg, f"{tmp_path / 'data'}:val")
    assert sorted(Path(record.source.name).stem for record in val.records) == ["brightfield"] * 2 + ["fluorescence"] * 6


def test_mask_without_an_image_is_named(tmp_path: Path) -> None:
    _image(tmp_path / "images/a.png")
    for number in range(3):
        _save(tmp_path / f"masks/a/{number}.png", _bitmap(FIRST))
    _save(tmp_path / "masks/b/1.png", _bitmap(FIRST))
    _image(tmp_path / "images/c.png")
    with pytest.raises(UserError, match=r"1 mask without an image: masks/b/1\.png"):
        _read(tmp_path)


def test_mask_of_another_size_is_named(tmp_path: Path) -> None:
    _image(tmp_path / "images/a.png")
    _save(tmp_path / "masks/a/1.png", np.ones((8, 9), np.uint8))
    with pytest.raises(UserError, match=r"masks/a/1\.png is 9 x 8 pixels .* its image a\.png is 32 x 24"):
        _read(tmp_path)


def test_label_images_are_not_detected(tmp_path: Path) -> None:
    _image(tmp_path / "images/a.png")
    _save(tmp_path / "masks/a.png", _bitmap(FIRST))
    assert MasksFormat().find(FileListing(tmp_path)) is None


def test_written_masks_are_read_again(tmp_path: Path) -> None:
    encoded = [rle.encode(_bitmap(box) > 0) for box in (FIRST, (5, 3, 14, 9), SECOND)]  # the first two overlap
    items = [
        InstanceRecord(tuple(map(float, rle.bounding_box(mask))), number % 2, mask, area=float(rle.area(mask)))
        for number, mask in enumerate(encoded)
    ]
    crowd = InstanceRecord((0, 0, 5, 5), 0, is_crowd=True, annotation_id=7)
    names = ("cell", "debris/dust")
    records = {
        side: ImageRecord(1, FileImage(str(_image(tmp_path / f"source/{side}.png"))), SIZE, tuple(found))
        for side, found in (("train", [*items, crowd]), ("val", []))
    }
    writer = DatasetWriter(records.values())
    (tmp_path / "written").mkdir()
    parts = {side: Dataset("d", (record,), names, (1, 2)) for side, record in records.items()}
    MasksFormat().write(parts, tmp_path / "written", writer)
    assert writer.lost.notes() == ("regions of uncounted objects left out: 1 (first: object train, annotation 7)",)
    dataset = _read(tmp_path / "written")
    assert dataset.class_names == ("cell", "debris_dust")
    assert [(record.split, len(record.instances)) for record in dataset.records] == [("train", 3), ("val", 0)]
    read = sorted((item.class_index, item.box, item.segmentation["counts"]) for item in dataset.records[0].instances)
    assert read == sorted((item.class_index, item.box, item.segmentation["counts"]) for item in items)
