"""YOLO datasets as Ultralytics, Roboflow, CVAT, LabelImg and darknet lay them out; numbers worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask

from mrcnn_zoo.data.annotations.contract import ReadOptions
from mrcnn_zoo.data.annotations.detection import find_format
from mrcnn_zoo.data.annotations.joining import joined_rings
from mrcnn_zoo.data.annotations.listing import FileListing
from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.formats.yolo import YoloFormat
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.masks import segmentation_rle
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops import rle

BOX = "1 0.5 0.5 0.2 0.4\n"
TRIANGLE = "0 0.1 0.1 0.5 0.1 0.5 0.6\n"
NAMES = "names: [cat, dog]\n"


def make(root: Path, files: dict[str, str], images: tuple[str, ...] = ()) -> Path:
    """Text files, and images of 100 x 50 (width x height)."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for name in images:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (100, 50)).save(path)
    return root


def read(path: Path, *, images: Path | None = None) -> Dataset:
    kind, found = find_format(path, dataset="mine")
    assert kind.name == "yolo"
    return kind.read(found, ReadOptions("mine", images=None if images is None else FileListing(images)))


def names_by_side(dataset: Dataset) -> dict[str, list[str]]:
    sides: dict[str, list[str]] = {}
    for record in dataset.records:
        sides.setdefault(record.split, []).append(Path(record.source.name).name)
    return sides


def test_box_and_polygon_become_pixels(tmp_path: Path) -> None:
    make(tmp_path, {"data.yaml": f"train: images\n{NAMES}", "labels/a.txt": BOX + TRIANGLE}, ("images/a.png",))
    dataset = read(tmp_path)
    box, polygon = dataset.records[0].instances
    assert dataset.class_names == ("cat", "dog")
    assert dataset.records[0].image_size == (50, 100)
    assert box.box == pytest.approx((40, 15, 60, 35))  # centre (50, 25), 20 x 20 pixels
    assert (box.class_index, box.segmentation) == (1, None)
    assert polygon.segmentation[0].tolist() == pytest.approx([10, 5, 50, 5, 50, 30])
    assert polygon.box == pytest.approx((10, 5, 50, 30))


ULTRALYTICS = {
    "data.yaml": f"path: ../datasets/gone\ntrain: images/train\nval: images/val\ntest:  # optional\n{NAMES}",
    "labels/train/a.txt": TRIANGLE,
    "labels/val/b.txt": BOX,
}
ROBOFLOW = {
    "data.yaml": f"train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\n{NAMES}",
    "train/labels/a.txt": TRIANGLE,
    "valid/labels/b.txt": BOX,
    "README.roboflow.txt": "Exported.\n",
}
LISTS = {
    "data.yaml": "path: .\ntrain: train.txt\nval: [val.txt]\nnames: {0: cat, 1: dog}\n",
    "train.txt": "data/images/train/a.png\n",
    "val.txt": "./images/val/b.png\n\n",
    "labels/train/a.txt": TRIANGLE,
    "labels/val/b.txt": BOX,
}
DARKNET = {
    "obj.data": "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n",
    "obj.names": "cat\ndog\n",
    "train.txt": "data/obj_train_data/a.png\n",
    "valid.txt": "/home/me/data/obj_train_data/b.png\n",
    "obj_train_data/a.txt": TRIANGLE,
    "obj_train_data/b.txt": BOX,
}
FOLDERS = {"classes.txt": "cat\ndog\n", "train2017/labels/a.txt": TRIANGLE, "validation/labels/b.txt": BOX}
LAYOUTS = {
    "ultralytics": (ULTRALYTICS, ("images/train/a.png", "images/val/b.png")),
    "roboflow": (ROBOFLOW, ("train/images/a.png", "valid/images/b.png")),
    "lists": (LISTS, ("images/train/a.png", "images/val/b.png")),
    "darknet": (DARKNET, ("obj_train_data/a.png", "obj_train_data/b.png")),
    "folders": (FOLDERS, ("train2017/images/a.png", "validation/images/b.png")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_have_sides_and_names(tmp_path: Path, layout: str) -> None:
    dataset = read(make(tmp_path, *LAYOUTS[layout]))
    assert names_by_side(dataset) == {"train": ["a.png"], "val": ["b.png"]}
    assert dataset.class_names == ("cat", "dog")
    assert [record.instances[0].class_index for record in dataset.records] == [0, 1]


def test_named_data_file_with_images_elsewhere(tmp_path: Path) -> None:
    make(tmp_path / "pictures", {"labels/a.txt": TRIANGLE}, ("images/a.png",))
    make(tmp_path / "configs", {"mine.yaml": f"path: {tmp_path}/pictures\ntrain: images\n{NAMES}"})
    dataset = read(tmp_path / "configs/mine.yaml")
    assert [len(record.instances) for record in dataset.records] == [1]


def test_data_file_with_names_alone(tmp_path: Path) -> None:
    make(tmp_path, {"data.yaml": f"{NAMES}nc: 2\n", "labels/a.txt": BOX}, ("images/a.png",))
    assert read(tmp_path).class_names == ("cat", "dog")


def test_list_of_absolute_paths(tmp_path: Path) -> None:
    make(tmp_path / "pictures", {"labels/a.txt": TRIANGLE}, ("images/a.png",))
    make(tmp_path / "lists", {"data.yaml": f"train: t.txt\n{NAMES}", "t.txt": f"{tmp_path}/pictures/images/a.png\n"})
    assert [len(record.instances) for record in read(tmp_path / "lists").records] == [1]


def test_equal_sides_are_no_sides(tmp_path: Path) -> None:
    make(tmp_path, {"data.yaml": f"train: images\nval: images\n{NAMES}", "labels/a.txt": BOX}, ("images/a.png",))
    assert names_by_side(read(tmp_path)) == {"": ["a.png"]}


def test_flat_folder_of_labelimg(tmp_path: Path) -> None:
    make(tmp_path, {"classes.txt": "cat\ndog\n", "a.txt": BOX, "b.txt": ""}, ("a.png", "b.png", "c.png"))
    dataset = read(tmp_path)
    assert [len(record.instances) for record in dataset.records] == [1, 0, 0]
    assert "images without a label file taken as images without objects: 1 (first: image c.png)" in dataset.notes


def test_classes_without_names_are_named_by_their_numbers(tmp_path: Path) -> None:
    dataset = read(make(tmp_path, {"a.txt": "\n2 .5 .5 .2 .2\n\n" + BOX}, ("a.png",)))
    assert dataset.class_names == ("0", "1", "2")
    assert [item.class_index for item in dataset.records[0].instances] == [2, 1]


def test_folder_of_images_with_labels_beside_it(tmp_path: Path) -> None:
    make(tmp_path, {"labels/train/a.txt": BOX}, ("images/train/a.png", "images/val/b.png"))
    assert names_by_side(read(tmp_path / "images/train")) == {"": ["a.png"]}


def test_folder_of_labels_with_images_elsewhere(tmp_path: Path) -> None:
    make(tmp_path / "txt", {"a.txt": BOX})
    make(tmp_path / "jpg", {}, ("a.png",))
    assert len(read(tmp_path / "txt", images=tmp_path / "jpg").records[0].instances) == 1
    with pytest.raises(UserError, match=r"has label files but no images\. Name their folder as IMAGES"):
        read(tmp_path / "txt")


def test_scores_of_predictions_are_read(tmp_path: Path) -> None:
    make(tmp_path, {"a.txt": "0 0.5 0.5 0.2 0.4 0.75\n0 .1 .1 .5 .1 .5 .6 0.25\n"}, ("a.png",))
    instances = read(tmp_path).records[0].instances
    assert [item.score for item in instances] == [0.75, 0.25]
    assert len(instances[1].segmentation[0]) == 6


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0 0.5 0.5 0.2", r"a.txt, line 2 has 4 numbers. A line is a class number and a box"),
        ("0 0.1 0.1 0.5 0.1 0.5 0.6 0.2", "line 2 has 8 numbers"),
        ("0 0.5 0.5 x 0.2", r"line 2: 'x' is not a number"),
        ("2 0.5 0.5 0.2 0.2", r"line 2: the class 2 has no name: .*data.yaml has 2 classes, numbered from 0 to 1"),
        ("0.5 0.5 0.5 0.2 0.2", r"line 2: the class 0.5 must be a whole number from 0"),
        ("0 320 240 20 20", r"line 2 has the coordinate 320; .*fractions .*Divide pixels"),
        ("0 nan 0.5 0.2 0.2", "line 2 has the coordinate nan"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    files = {"data.yaml": f"train: images\n{NAMES}", "labels/a.txt": f"{BOX}{line}\n"}
    with pytest.raises(UserError, match=words):
        read(make(tmp_path, files, ("images/a.png",)))


def test_lines_of_keypoints_are_refused(tmp_path: Path) -> None:
    pose = "0 0.5 0.5 0.4 0.4 0.4 0.5 2 0.6 0.5 1\n"
    files = {"data.yaml": f"train: images\n{NAMES}", "labels/a.txt": pose}
    with pytest.raises(UserError, match=r"a.txt has keypoints after the boxes"):
        read(make(tmp_path, files, ("images/a.png",)))
    with pytest.raises(UserError, match=r"data.yaml is a dataset of keypoints \(kpt_shape: \[17, 3\]\)"):
        read(make(tmp_path, {"data.yaml": f"train: images\nkpt_shape: [17, 3]\n{NAMES}"}))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"train: pictures/train\n{NAMES}", "data.yaml: train: pictures/train is neither below"),
        ("train: images\nnames: {1: cat, 2: dog}\n", "names has the numbers 1, 2; they must be 0, 1, 2"),
        ("train: images\nnames: [cat, cat]\n", "names has cat more than once"),
        ("names: [cat, cat]\n", "names has cat more than once"),
        ("train: images\nnc: many\n", "nc = 'many' must be the number of classes"),
        (f"train: list.txt\n{NAMES}", r"1 image that annotations name are missing.*gone.png"),
    ],
)
def test_bad_data_file_is_named(tmp_path: Path, content: str, words: str) -> None:
    files = {"data.yaml": content, "labels/a.txt": BOX, "list.txt": "images/gone.png\nimages/a.png\n"}
    with pytest.raises(UserError, match=words):
        read(make(tmp_path, files, ("images/a.png",)))


def test_label_without_an_image_is_counted(tmp_path: Path) -> None:
    make(tmp_path, {"labels/a.txt": BOX, "labels/b.txt": BOX, "labels/classes.txt": "x\ny\n"}, ("images/a.png",))
    assert "label files without an image left out: 1 (first: file labels/b.txt)" in read(tmp_path).notes


@pytest.mark.parametrize(
    "files",
    [
        {"a.txt": "a photo of a cat\n"},
        {"requirements.txt": "numpy\n", "config.yaml": "train: 3\nepochs: 5\n"},
        {"other.txt": BOX},
        {},
    ],
)
def test_other_folders_are_not_claimed(tmp_path: Path, files: dict[str, str]) -> None:
    assert YoloFormat().find(FileListing(make(tmp_path, files, ("a.png",)))) is None


def squares(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    bitmap = np.zeros((50, 100), dtype=bool)
    for x1, y1, x2, y2 in boxes:
        bitmap[y1:y2, x1:x2] ^= True
    return bitmap


@pytest.fixture
def written(tmp_path: Path):
    """Writes objects of one image and reads them back; returns the folder, the dataset and the notes of the writer."""

    def write(instances: list[InstanceRecord], side: str = "", **options: bool):
        make(tmp_path, {}, ("source/a.png",))
        record = ImageRecord(1, FileImage(str(tmp_path / "source/a.png")), (50, 100), tuple(instances))
        dataset = Dataset("mine", (record,), ("cat", "grün"), (1, 2))
        writer = DatasetWriter([record], **options)
        folder = tmp_path / "written"
        folder.mkdir()
        YoloFormat().write({side: dataset}, folder, writer)
        return folder, read(folder), writer.lost.notes()

    return write


def test_parts_and_holes_of_a_mask_are_read_back_to_the_pixel(written) -> None:
    mask = rle.encode(squares((5, 5, 40, 40), (10, 10, 30, 30), (15, 15, 20, 20), (60, 3, 90, 48), (70, 10, 75, 12)))
    _, dataset, notes = written([InstanceRecord((5, 3, 90, 48), 1, mask)])
    (item,) = dataset.records[0].instances
    assert dataset.class_names == ("cat", "grün")
    assert item.class_index == 1
    assert segmentation_rle(item.segmentation, (50, 100)) == mask
    assert "parts of objects joined by a bridge of zero width: 2 (first: object a, annotation 0)" in notes
    assert "holes joined to their outline by a bridge of zero width: 2 (first: object a, annotation 0)" in notes


@pytest.mark.parametrize(
    ("polygons", "regions"),
    [
        (
            [[10, 10, 50, 10, 50, 30, 10, 30], [40, 20, 90, 20, 90, 40, 40, 40]],  # by the even-odd rule, a hole
            [(10, 10, 50, 30), (50, 20, 90, 40), (40, 30, 50, 40)],
        ),
        ([[80, 10, 120, 10, 120, 30, 80, 30]], [(80, 10, 100, 30)]),
    ],
)
def test_overlapping_parts_are_united_and_clipped_to_the_image(written, polygons: list, regions: list) -> None:
    _, dataset, _ = written([InstanceRecord((10, 10, 100, 40), 0, polygons)])
    (item,) = dataset.records[0].instances
    assert segmentation_rle(item.segmentation, (50, 100)) == rle.encode(squares(*regions))
    assert item.box[2] <= 100


def test_even_odd_filling_of_joined_rings_is_that_of_opencv() -> None:
    outer = np.array([[10, 10], [80, 10], [80, 40], [10, 40]], dtype=float)
    hole = np.array([[20, 20], [20, 30], [60, 30], [60, 20]], dtype=float)
    ring = joined_rings([outer, hole])
    assert len(ring) == 4 + 4 + 2
    (encoded,) = coco_mask.frPyObjects([ring.ravel().tolist()], 50, 100)
    assert (coco_mask.decode(encoded) == squares((10, 10, 80, 40), (20, 20, 60, 30))).all()


def test_dataset_of_boxes_is_written_as_boxes(written) -> None:
    folder, dataset, _ = written([InstanceRecord((40, 15, 60, 35), 1)], side="val")
    assert (folder / "labels/val/a.txt").read_text() == "1 0.5 0.5 0.2 0.4\n"
    assert yaml.safe_load((folder / "data.yaml").read_text()) == {"val": "images/val", "names": {0: "cat", 1: "grün"}}
    assert dataset.records[0].instances[0].box == pytest.approx((40, 15, 60, 35))
    assert dataset.records[0].split == "val"


def test_what_the_format_cannot_hold_is_counted(written) -> None:
    square = [[10, 10, 20, 10, 20, 20, 10, 20]]
    items = [
        InstanceRecord((10, 10, 20, 20), 0, square, is_crowd=True),
        InstanceRecord((10, 10, 20, 20), 0, square, score=0.5),
        InstanceRecord((40, 15, 60, 35), 0),
    ]
    folder, dataset, notes = written(items)
    assert (
        folder / "labels/a.txt"
    ).read_text() == "0 0.1 0.2 0.2 0.2 0.2 0.4 0.1 0.4\n0 0.4 0.3 0.6 0.3 0.6 0.7 0.4 0.7\n"
    assert len(dataset.records[0].instances) == 2
    assert [note.split(":")[0] for note in notes] == [
        "crowds left out",
        "scores left out",
        "boxes written as polygons of four corners, since other objects have masks",
    ]


def test_images_that_are_not_copied_are_listed(written) -> None:
    folder, dataset, _ = written([InstanceRecord((40, 15, 60, 35), 1)], side="train", copies_images=False)
    assert not (folder / "images").exists()
    assert Path(dataset.records[0].source.name).parent.name == "source"
    assert len(dataset.records[0].instances) == 1
