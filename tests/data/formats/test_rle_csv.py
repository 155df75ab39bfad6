"""Tables of run lengths of Kaggle's competitions; masks worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrcnn_zoo.data.annotations.contract import ReadOptions
from mrcnn_zoo.data.annotations.detection import find_format
from mrcnn_zoo.data.annotations.listing import FileListing
from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.formats.rle_csv import RleCsvFormat, decode_runs
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops import rle

SIZE = (4, 6)  # height, width


def make(root: Path, files: dict[str, str], images: tuple[str, ...] = ()) -> Path:
    for name in (*files, *images):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / name).write_text(text, encoding="utf-8")
    for name in images:
        Image.new("L", SIZE[::-1]).save(root / name)
    return root


def read(path: Path) -> Dataset:
    kind, found = find_format(path, dataset="mine")
    assert kind.name == "rle_csv"
    return kind.read(found, ReadOptions("mine"))


def pixels(instance: InstanceRecord) -> list[tuple[int, int]]:
    """(row, column) of the pixels of a mask."""
    return list(zip(*(axis.tolist() for axis in np.nonzero(rle.decode(instance.segmentation))), strict=True))


def test_pixels_are_counted_from_one_down_the_columns(tmp_path: Path) -> None:
    text = "ImageId,EncodedPixels\na,2 2 6 1\na,24 1\nb,\n"
    dataset = read(make(tmp_path, {"train.csv": text}, ("stage1_train/a/images/a.png", "stage1_train/b/images/b.png")))
    first, second = dataset.records[0].instances
    assert pixels(first) == [(1, 0), (1, 1), (2, 0)]
    assert pixels(second) == [(3, 5)]
    assert first.box == (0, 1, 2, 3)
    assert [len(record.instances) for record in dataset.records] == [2, 0]
    assert dataset.class_names == ("object",)
    assert dataset.records[0].split == "train"


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("ImageId,ClassId,EncodedPixels\na.png,10,1 1\na.png,2,3 1\n", ("2", "10")),
        ("ImageId_ClassId,EncodedPixels\na.png_10,1 1\na.png_2,3 1\na.png_3,\n", ("2", "10")),
        ("Image_Label,EncodedPixels\na.png_Fish,1 1\na.png_Sugar,3 1\n", ("Fish", "Sugar")),
        ("ImageId,EncodedPixels,Height,Width,ClassId\na,1 1,4,6,7_3_1\na,3 1,4,6.0,2\n", ("2", "7")),
    ],
)
def test_classes_of_competitions(tmp_path: Path, text: str, classes: tuple[str, ...]) -> None:
    dataset = read(make(tmp_path, {"table.csv": text}, ("a.png",)))
    assert dataset.class_names == classes
    assert len(dataset.records[0].instances) == 2


def test_names_of_imaterialist(tmp_path: Path) -> None:
    names = '{"categories": [{"id": 7, "name": "jacket", "level": 2}], "attributes": []}'
    text = "ImageId,EncodedPixels,Height,Width,ClassId\na,1 1,4,6,7_3\n"
    dataset = read(make(tmp_path, {"t.csv": text, "label_descriptions.json": names}, ("a.png",)))
    assert dataset.class_names == ("jacket",)


def test_pixels_of_sartorius_are_counted_along_the_rows(tmp_path: Path) -> None:
    text = "id,annotation,width,height,cell_type\na,2 2 8 1,6,4,astro\n"
    dataset = read(make(tmp_path, {"train.csv": text}, ("train/a.png",)))
    assert pixels(dataset.records[0].instances[0]) == [(0, 1), (0, 2), (1, 1)]
    assert dataset.class_names == ("astro",)


def test_runs_that_touch_and_long_masks() -> None:
    touching = decode_runs("1 2 3 4 9 0", SIZE, is_by_rows=False, where="x")
    assert rle.area(touching) == 6
    assert decode_runs("5 0", SIZE, is_by_rows=False, where="x") is None
    size = (1000, 1000)
    many = " ".join(f"{start} 1" for start in range(1, 10**6, 20))
    assert len(many) > 131_072  # the limit of Python's csv
    assert rle.area(decode_runs(many, size, is_by_rows=False, where="x")) == 50_000


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a,1 2 3", r"t.csv, line 3: EncodedPixels = '1 2 3' must be pairs of whole numbers"),
        ("a,1 x", r"line 3: EncodedPixels = '1 x' must be pairs"),
        ("a,0 2", "line 3: EncodedPixels: the runs must start at 1 or above"),
        ("a,9 2 3 1", "line 3: .*relative to the run before, as in the SIIM competition"),
        ("a,24 2", r"line 3: .*a run ends at pixel 25, and the image of 6 x 4 pixels .* has 24"),
        ("c,1 2", r"1 image that annotations name are missing.*: c \(.*t.csv\)"),
        (",1 2", "line 3 has ImageId = ''"),
        ("a", "line 3 has ImageId = 'a' and EncodedPixels = None"),
    ],
)
def test_bad_row_is_named(tmp_path: Path, row: str, words: str) -> None:
    make(tmp_path, {"t.csv": f"ImageId,EncodedPixels\na,1 1\n{row}\n"}, ("a.png",))
    with pytest.raises(UserError, match=words):
        read(tmp_path)


def test_table_of_another_image_size_is_refused(tmp_path: Path) -> None:
    make(tmp_path, {"t.csv": "ImageId,EncodedPixels,Height,Width\na,1 1,8,12\n"}, ("a.png",))
    with pytest.raises(UserError, match=r"t.csv, line 2 is for an image of 12 x 8 pixels .*a.png is 6 x 4"):
        read(tmp_path)


def test_several_tables_are_refused(tmp_path: Path) -> None:
    table = "ImageId,EncodedPixels\na,1 1\n"
    make(tmp_path, {"one.csv": table, "two.csv": table, "sample_submission.csv": table}, ("a.png",))
    with pytest.raises(UserError, match=r"there are several tables \(one.csv, two.csv\); name the one"):
        read(tmp_path)
    assert len(read(tmp_path / "two.csv").records) == 1


@pytest.mark.parametrize(
    ("files", "images"),
    [
        ({"t.csv": "filename,width,height,class\na,1,2,b\n"}, ("a.png",)),
        ({"t.csv": ""}, ("a.png",)),
        ({"t.csv": "ImageId,EncodedPixels\na,1 1\n"}, ("x/a/images/a.png", "x/a/masks/1.png")),
    ],
)
def test_other_folders_are_not_claimed(tmp_path: Path, files: dict[str, str], images: tuple[str, ...]) -> None:
    assert RleCsvFormat().find(FileListing(make(tmp_path, files, images))) is None


@pytest.mark.parametrize("class_names", [("object",), ("b", "a")])
def test_masks_are_read_back(tmp_path: Path, class_names: tuple[str, ...]) -> None:
    make(tmp_path, {}, ("source/a.png", "source/b.png"))
    bitmaps = [np.eye(*SIZE, dtype=np.uint8), np.ones(SIZE, dtype=np.uint8), np.zeros(SIZE, dtype=np.uint8)]
    bitmaps[2][:, 2:4] = 1
    boxes = [(0, 0, 4, 4), (0, 0, 6, 4), (2, 0, 4, 4)]
    items = [
        InstanceRecord(box, number % len(class_names), rle.encode(bitmap))
        for number, (box, bitmap) in enumerate(zip(boxes, bitmaps, strict=True))
    ]
    crowd = InstanceRecord((0, 0, 2, 2), 0, is_crowd=True)
    records = [
        ImageRecord(1, FileImage(str(tmp_path / "source/a.png")), SIZE, (*items, crowd)),
        ImageRecord(2, FileImage(str(tmp_path / "source/b.png")), SIZE),
    ]
    dataset = Dataset("mine", tuple(records), class_names, tuple(range(len(class_names))))
    writer = DatasetWriter(records)
    (tmp_path / "written").mkdir()
    RleCsvFormat().write({"val": dataset}, tmp_path / "written", writer)
    lines = (tmp_path / "written/val.csv").read_text().splitlines()
    assert lines[0] == ("ImageId,EncodedPixels" if len(class_names) == 1 else "ImageId,EncodedPixels,ClassId")
    assert lines[1].startswith("a,1 1 6 1 11 1 16 1")
    assert lines[-1].startswith("b,")
    found = read(tmp_path / "written")
    assert found.class_names == tuple(sorted(class_names))
    assert [len(record.instances) for record in found.records] == [3, 0]
    for item, expected in zip(found.records[0].instances, items, strict=True):
        assert item.segmentation == expected.segmentation
        assert found.class_names[item.class_index] == class_names[expected.class_index]
    assert found.records[0].split == "val"
    assert [note.split(":")[0] for note in writer.lost.notes()] == ["regions of uncounted objects left out"]
