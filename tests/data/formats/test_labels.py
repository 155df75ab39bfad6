"""Label images: pairing by folders and names, pixel types, tables of classes, the writer, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import skimage.io
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.annotations.contract import ReadOptions
from mrcnn_zoo.data.annotations.detection import find_format
from mrcnn_zoo.data.annotations.listing import FileListing
from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.catalog import load_dataset
from mrcnn_zoo.data.formats.labels import LabelsFormat
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops import rle

SIZE = (24, 32)  # height, width


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache for this test."""
    monkeypatch.setenv("MRCNN_ZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _labels(dtype: str = "uint16") -> NDArray:
    """Object 2 is 4 x 3 (width x height) at (5, 6); object 300, or 7 in 8 bits, has two parts."""
    pixels = np.zeros(SIZE, dtype)
    pixels[6:9, 5:9] = 2
    second = 7 if dtype in ("uint8", "int8") else 300
    pixels[0:2, 0:2] = second
    pixels[20:24, 30:32] = second
    return pixels


def _save(path: Path, pixels: NDArray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, pixels)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, pixels)
    else:
        Image.fromarray(pixels).save(path)
    return path


def _image(path: Path) -> Path:
    return _save(path, np.full((*SIZE, 3), 90, np.uint8) if path.suffix != ".tif" else np.full(SIZE, 90, np.uint8))


def _read(path: Path, *, format_name: str = "", images: Path | None = None, regions: bool = False) -> Dataset:
    kind, found = find_format(path, dataset="cells", format_name=format_name)
    assert kind.name == "labels"
    return kind.read(found, ReadOptions("cells", images=FileListing(images) if images else None, regions=regions))


LAYOUTS = {
    "cellpose": ("a.png", "a_masks.png"),
    "cellpose's data": ("train/000_img.png", "train/000_masks.png"),
    "cellpose's command": ("a.png", "a_cp_masks.tif"),
    "stardist": ("train/images/a.tif", "train/masks/a.tif"),
    "folders": ("images/a.png", "labels/a.png"),
    "folders with sides inside": ("images/train/a.png", "labels/train/a.png"),
    "folder in the images'": ("a.png", "masks/a.png"),
    "names": ("a.tif", "a_label.tif"),
    "plural": ("a.tif", "a_labels.tif"),
    "both": ("images/a.png", "masks/a_mask.png"),
    "numpy": ("images/a.png", "masks/a.npy"),
    "cell tracking": ("01/t007.tif", "01_GT/SEG/man_seg007.tif"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_is_detected(tmp_path: Path, layout: str) -> None:
    image, labels = LAYOUTS[layout]
    _image(tmp_path / "data" / image)
    _save(tmp_path / "data" / labels, _labels())
    dataset = _read(tmp_path / "data")
    (record,) = dataset.records
    assert record.source.name == str(tmp_path / "data" / image)
    assert (record.split, dataset.class_names, dataset.notes) == ("train" if "train" in image else "", ("object",), ())
    assert [item.box for item in record.instances] == [(5, 6, 9, 9), (0, 0, 32, 24)]
    assert [item.area for item in record.instances] == [12, 4 + 8]
    expected = (_labels() == 300).astype(np.uint8)
    assert np.array_equal(coco_mask.decode(record.instances[1].segmentation), expected)


TYPES = ["uint8", "uint16", "uint32", "int32", "int64", "uint64", "float32"]


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [(".png", "uint8"), (".png", "uint16"), *((suffix, dtype) for suffix in (".tif", ".npy") for dtype in TYPES)],
)
def test_pixel_type_is_read(tmp_path: Path, dtype: str, suffix: str) -> None:
    _image(tmp_path / "images/a.png")
    pixels = _labels(dtype)
    pixels[12, 12] = {"int64": 2**63 - 1, "uint64": 2**63, "uint32": 2**32 - 1, "int32": 2**31 - 1}.get(dtype, 9)
    _save(tmp_path / f"masks/a{suffix}", pixels)
    boxes = {item.box for item in _read(tmp_path).records[0].instances}
    assert boxes == {(5, 6, 9, 9), (0, 0, 32, 24), (12, 12, 13, 13)}


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_true_is_an_object(tmp_path: Path, suffix: str) -> None:
    _image(tmp_path / "images/a.png")
    _save(tmp_path / f"masks/a{suffix}", _labels() == 2)  # tifffile writes it as "white is 0"
    assert [item.box for item in _read(tmp_path).records[0].instances] == [(5, 6, 9, 9)]


def test_palette_gives_its_indices(tmp_path: Path) -> None:
    _image(tmp_path / "images/a.png")
    picture = Image.fromarray(_labels("uint8"), mode="P")
    picture.putpalette([255, 0, 0] * 256)
    (tmp_path / "masks").mkdir()
    picture.save(tmp_path / "masks/a.png")
    assert len(_read(tmp_path).records[0].instances) == 2


def test_dict_of_cellpose_is_read_without_running_its_code(tmp_path: Path) -> None:
    _image(tmp_path / "a.png")
    np.save(tmp_path / "a_seg.npy", {"masks": _labels(), "filename": "a.png", "est_diam": 5.0})  # type: ignore[arg-type]
    assert [item.area for item in _read(tmp_path).records[0].instances] == [12, 12]
    np.save(tmp_path / "a_seg.npy", {"masks": _labels(), "code": print})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"a_seg\.npy cannot be read as a label image \(.*print"):
        _read(tmp_path, format_name="labels")


def test_sides_are_those_of_the_folders(tmp_path: Path) -> None:
    for side in ("train", "valid", "test"):
        _image(tmp_path / side / "images/a.png")
        _save(tmp_path / side / "masks/a.png", _labels())
    _, found = find_format(tmp_path, dataset="cells")
    assert found.sides == ("train", "val", "test")
    assert [record.split for record in _read(tmp_path).records] == ["test", "train", "val"]


def test_images_in_another_folder_are_found_by_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _image(tmp_path / f"pictures/{name}.jpg")
    _save(tmp_path / "objects/a_label.png", _labels())
    dataset = _read(tmp_path / "objects", format_name="labels", images=tmp_path / "pictures")
    assert [Path(record.source.name).name for record in dataset.records] == ["a.jpg"]
    assert dataset.notes == ("images without a label image left out: 1 (first: image b.jpg)",)
    with pytest.raises(UserError, match="Name the folder of the images as IMAGES"):
        _read(tmp_path / "objects", format_name="labels")


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c_flows.png"):
        _image(tmp_path / name)
    _save(tmp_path / "a_masks.png", _labels())
    _save(tmp_path / "a_cp_masks.png", _labels())
    assert _read(tmp_path).notes == (
        "images without a label image left out: 1 (first: image b.png)",
        "further label images of the same image left out: 1 (first: file a_masks.png)",
    )


# --- classes.csv


def _with_table(root: Path, text: str) -> Path:
    _image(root / "images/a.png")
    _save(root / "masks/a.png", _labels())
    (root / "classes.csv").write_text(text)
    return root


def test_classes_and_scores_are_those_of_the_table(tmp_path: Path) -> None:
    lines = "file,label,class,score\nmasks/a.png,300,dividing,0.25\nmasks/a.png,2,cell,\nmasks/a.png,5,cell,\n"
    dataset = _read(_with_table(tmp_path, lines))
    assert dataset.class_names == ("cell", "dividing")
    assert [(item.class_index, item.score) for item in dataset.records[0].instances] == [(0, None), (1, 0.25)]
    assert dataset.notes == ("lines of classes.csv without an object left out: 1 (first: line 4)",)


def test_new_object_has_the_only_class(tmp_path: Path) -> None:
    dataset = _read(_with_table(tmp_path, "file,label,class\nmasks/a.png,2,cell\n"))
    assert dataset.class_names == ("cell",)
    assert [item.class_index for item in dataset.records[0].instances] == [0, 0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("masks/b.png,2,cell,", r"classes.csv, line 2: file = 'masks/b.png' is no label image"),
        ("masks/a.png,two,cell,", r"line 2: label = 'two'"),
        ("masks/a.png,2,cell,1.5", r"line 2: score = '1.5' must be a number from 0 to 1"),
        ("masks/a.png,2,cell,\nmasks/a.png,4,b,", r'object 300 of masks/a.png is not listed.*"masks/a.png,300,b"'),
    ],
)
def test_wrong_line_of_the_table_is_named(tmp_path: Path, lines: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _read(_with_table(tmp_path, f"file,label,class,score\n{lines}\n"))


# --- what is refused


def test_masks_of_one_class_are_refused(tmp_path: Path) -> None:
    _image(tmp_path / "images/a.png")
    _save(tmp_path / "masks/a.png", np.where(_labels() > 0, 255, 0).astype(np.uint8))
    with pytest.raises(
        UserError, match=r"the value 255 alone in 3 connected regions.*set DATASETS\.DEFAULTS\.REGIONS True"
    ):
        _read(tmp_path)


def test_one_object_per_image_is_no_mask_of_a_class(tmp_path: Path) -> None:
    _image(tmp_path / "images/a.png")
    _save(tmp_path / "masks/a.png", np.where(_labels() == 2, 255, 0).astype(np.uint8))
    assert [item.area for item in _read(tmp_path).records[0].instances] == [12]


def test_masks_of_classes_are_refused_unless_the_format_is_named(tmp_path: Path) -> None:
    _image(tmp_path / "images/a.png")
    pixels = np.zeros(SIZE, np.uint8)
    pixels[::3, ::3] = 1
    pixels[1::3, 20::3] = 2
    _save(tmp_path / "masks/a.png", pixels)
    with pytest.raises(UserError, match=r"look like masks of classes: their values \[1, 2\] have 60 connected regions"):
        _read(tmp_path)
    assert len(_read(tmp_path, format_name="labels").records[0].instances) == 2


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((8, 8), 3, np.uint16), r"a.tif is 8 x 8 pixels .* where its image images/a.png is 32 x 24"),
        (_labels("int32") - 1, r"a.tif holds the label -1"),
        (np.full(SIZE, 0.5, np.float32), r"a.tif holds float32 values that are not whole numbers"),
        (np.zeros((*SIZE, 3), np.uint8), r"a.tif has the colours RGB; a label image has one channel"),
        (np.zeros((5, *SIZE), np.uint16), r"a.tif has 5 pages where a label image has one. Set INPUT.PAGES"),
        (np.zeros(SIZE, np.uint16), "there is no object in the masks of its 1 images"),
    ],
)
def test_wrong_file_is_named(tmp_path: Path, pixels: NDArray, message: str) -> None:
    _image(tmp_path / "images/a.png")
    _save(tmp_path / "masks/a.tif", pixels)
    with pytest.raises(UserError, match=message):
        _read(tmp_path, format_name="labels")


def test_jpeg_is_refused(tmp_path: Path) -> None:
    _image(tmp_path / "images/a.png")
    _save(tmp_path / "masks/a.jpg", _labels("uint8"))
    with pytest.raises(UserError, match=r"masks/a\.jpg is a JPEG, whose compression changes the numbers"):
        _read(tmp_path, format_name="labels")


def test_missing_image_is_named(tmp_path: Path) -> None:
    _image(tmp_path / "images/a.png")
    _save(tmp_path / "masks/a.png", _labels())
    _save(tmp_path / "masks/b.png", _labels())
    with pytest.raises(UserError, match=r"1 label image without an image of the same name: masks/b.png"):
        _read(tmp_path)


@pytest.mark.parametrize("labels", ["masks/a.png", "masks/a/1.png"])
def test_other_folders_are_not_detected(tmp_path: Path, labels: str) -> None:
    _image(tmp_path / "images/a.png")
    colours = np.zeros((*SIZE, 3), np.uint8)
    _save(tmp_path / labels, colours if labels == "masks/a.png" else _labels())
    assert LabelsFormat().find(FileListing(tmp_path)) is None


# --- masks of classes


def test_regions_of_a_mask_are_objects(tmp_path: Path) -> None:
    _image(tmp_path / "images/a.png")
    pixels = np.where(_labels() > 0, 255, 0).astype(np.uint8)
    pixels[9, 9] = 255  # touches object 2 at a corner
    _save(tmp_path / "masks/a.png", pixels)
    dataset = _read(tmp_path, regions=True)
    assert dataset.class_names == ("object",)
    boxes = sorted(item.box for item in dataset.records[0].instances)
    assert boxes == [(0, 0, 2, 2), (5, 6, 10, 10), (30, 20, 32, 24)]


def test_values_of_a_mask_are_classes_of_its_regions(tmp_path: Path, cfg) -> None:
    _image(tmp_path / "data/images/a.png")
    _save(tmp_path / "data/masks/a.png", _labels("uint8"))
    cfg.DATASETS.DEFAULTS.REGIONS = True
    cfg.DATASETS.DEFAULTS.CLASSES = CfgNode({"cell": ["7"], "nucleus": ["2"]})
    dataset = load_dataset(cfg, str(tmp_path / "data"))
    assert dataset.class_names == ("cell", "nucleus")
    found = sorted((item.box, item.class_index) for item in dataset.records[0].instances)
    assert found == [((0, 0, 2, 2), 0), ((5, 6, 9, 9), 1), ((30, 20, 32, 24), 0)]


# --- the writer


def _square(x: int, y: int, *, class_index: int = 0, side: int = 6, score: float | None = None) -> InstanceRecord:
    bitmap = np.zeros(SIZE, np.uint8)
    bitmap[y : y + side, x : x + side] = 1
    return InstanceRecord((x, y, x + side, y + side), class_index, rle.encode(bitmap), score=score, annotation_id=x)


def _write(
    tmp_path: Path, parts: dict[str, list[InstanceRecord]], names: tuple[str, ...]
) -> tuple[Path, DatasetWriter]:
    records = {
        side: ImageRecord(1, FileImage(str(_image(tmp_path / f"source/{side or 'a'}.png"))), SIZE, tuple(items))
        for side, items in parts.items()
    }
    writer = DatasetWriter(records.values())
    folder = tmp_path / "written"
    folder.mkdir()
    datasets = {
        side: Dataset("d", (record,), names, tuple(range(1, len(names) + 1))) for side, record in records.items()
    }
    LabelsFormat().write(datasets, folder, writer)
    return folder, writer


def test_written_files_are_read_again_and_by_scikit_image(tmp_path: Path) -> None:
    items = [_square(1, 1, class_index=1), _square(10, 5), _square(20, 5, class_index=1)]
    folder, writer = _write(tmp_path, {"train": items, "val": items[:1]}, ("cell", "nucleus"))
    assert writer.lost.notes() == ()
    labels = skimage.io.imread(folder / "train/masks/train.png")
    assert (labels.dtype, [int((labels == number).sum()) for number in range(1, 4)]) == (np.uint16, [36, 36, 36])
    dataset = _read(folder)
    assert ([record.split for record in dataset.records], dataset.class_names) == (
        ["train", "val"],
        ("cell", "nucleus"),
    )
    read = dataset.records[0].instances
    assert [item.class_index for item in read] == [1, 0, 1]
    assert [item.segmentation for item in read] == [item.segmentation for item in items]


@pytest.mark.parametrize(("scores", "front"), [((0.9, 0.3), 36), ((None, None), 4)])
def test_overlap_goes_to_the_higher_score_or_smaller_area(tmp_path: Path, scores, front: int) -> None:
    large, small = _square(4, 4, score=scores[0]), _square(5, 5, side=2, score=scores[1])
    folder, writer = _write(tmp_path, {"": [large, small]}, ("object",))
    labels = skimage.io.imread(folder / "masks/a.png")
    if front == 4:
        assert [int((labels == number).sum()) for number in (1, 2)] == [32, 4]
        assert writer.lost.notes() == ("objects in part behind others: 1 (first: object a, annotation 4)",)
        assert not (folder / "classes.csv").exists()
    else:
        assert [int((labels == number).sum()) for number in (1, 2)] == [36, 0]
        assert writer.lost.notes() == ("objects without a visible pixel left out: 1 (first: object a, annotation 5)",)
        assert (folder / "classes.csv").read_text().splitlines() == [
            "file,label,class,score",
            "masks/a.png,1,object,0.9",
        ]


def test_more_than_65535_objects_are_written_with_32_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrcnn_zoo.data.formats.labels.MAX_16_BIT", 1)
    folder, _ = _write(tmp_path, {"": [_square(1, 1), _square(10, 5)]}, ("object",))
    labels = tifffile.imread(folder / "masks/a.tif")
    assert (labels.dtype.itemsize, labels.max()) == (4, 2)
    assert len(_read(folder).records[0].instances) == 2
