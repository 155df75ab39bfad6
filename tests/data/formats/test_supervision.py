"""YOLO and Pascal VOC as `supervision` reads and writes them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mrcnn_zoo.data.annotations.contract import ReadOptions
from mrcnn_zoo.data.annotations.detection import find_format
from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.masks import segmentation_rle
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.ops import rle
from mrcnn_zoo.registries import ANNOTATION_FORMATS
from support.references import other_tool

supervision = other_tool("supervision")

SIZE = (400, 600)  # height, width
# supervision fills polygons with OpenCV, which draws the pixels under their border, too.
MIN_IOU = 0.97


def circle(x: int, y: int, radius: int) -> np.ndarray:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two images with a ring, two parts, and a disc."""
    folder = tmp_path_factory.mktemp("source")
    ring = circle(150, 150, 140) & ~circle(150, 150, 60)
    parts = circle(380, 100, 90) | circle(520, 300, 75)
    disc = circle(120, 340, 50)
    records = []
    for number, masks in enumerate(([ring, parts], [disc]), start=1):
        path = folder / f"{number}.png"
        Image.new("RGB", SIZE[::-1]).save(path)
        encoded = [rle.encode(mask) for mask in masks]
        items = [InstanceRecord(rle.bounding_box(mask), place, mask) for place, mask in enumerate(encoded)]
        records.append(ImageRecord(number, FileImage(str(path)), SIZE, tuple(items)))
    return Dataset("mine", tuple(records), ("ring", "parts"), (1, 2))


def write(name: str, dataset: Dataset, folder: Path) -> Path:
    ANNOTATION_FORMATS.get(name)().write({"train": dataset}, folder, DatasetWriter(dataset.records))
    return folder


def check(ours: Dataset, theirs: "supervision.DetectionDataset", *, min_iou: float = MIN_IOU) -> None:
    by_name = {Path(record.source.name).stem: record for record in ours.records}
    assert len(theirs) == len(ours.records)
    for path, _, detections in theirs:
        record = by_name[Path(path).stem]
        expected = [segmentation_rle(item.segmentation, SIZE) for item in record.instances]
        found = [rle.encode(mask) for mask in detections.mask]
        assert len(found) == len(expected)
        assert coco_mask.iou(found, expected, [0] * len(expected)).diagonal().min() > min_iou
        classes = [ours.class_names[item.class_index] for item in record.instances]
        assert [theirs.classes[number] for number in detections.class_id] == classes


def read(path: Path) -> Dataset:
    kind, found = find_format(path, dataset="mine")
    return kind.read(found, ReadOptions("mine"))


def test_supervision_reads_yolo(dataset: Dataset, tmp_path: Path) -> None:
    root = write("yolo", dataset, tmp_path)
    folders = [str(root / name) for name in ("images/train", "labels/train", "data.yaml")]
    check(dataset, supervision.DetectionDataset.from_yolo(*folders, force_masks=True))


def test_supervision_reads_boxes_of_voc(dataset: Dataset, tmp_path: Path) -> None:
    root = write("voc", dataset, tmp_path)
    theirs = supervision.DetectionDataset.from_pascal_voc(str(root / "JPEGImages"), str(root / "Annotations"))
    boxes = {Path(path).stem: detections.xyxy.tolist() for path, _, detections in theirs}
    for record in dataset.records:
        assert boxes[Path(record.source.name).stem] == [list(item.box) for item in record.instances]


@pytest.mark.parametrize("name", ["yolo", "voc"])
def test_files_of_supervision_are_read(tmp_path: Path, name: str) -> None:
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "1.png")
    masks = np.stack([circle(150, 150, 140), circle(430, 250, 120)])
    boxes = np.array([[11, 11, 289, 289], [311, 131, 549, 369]], dtype=float)
    detections = supervision.Detections(xyxy=boxes, mask=masks, class_id=np.array([1, 0]))
    path = str(tmp_path / "1.png")
    theirs = supervision.DetectionDataset(classes=["a", "b"], images=[path], annotations={path: detections})
    root = tmp_path / "theirs"
    if name == "yolo":
        theirs.as_yolo(str(root / "images"), str(root / "labels"), str(root / "data.yaml"))
    else:
        theirs.as_pascal_voc(str(root / "images"), str(root / "annotations"))
    ours = read(root)
    assert ours.class_names == ("a", "b")
    check(ours, theirs)
