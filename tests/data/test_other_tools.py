"""What we write is read by libraries that are not ours, and what they write is read here."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mrcnn_zoo.data.records import Dataset, ImageRecord
from support.references import other_tool
from support.round_trips import (
    CLASS_NAMES,
    HEIGHT,
    WIDTH,
    Bitmap,
    Holds,
    items_of,
    kept,
    mask_dataset,
    polygon_dataset,
    read_back,
    without_sides,
    write_as,
    write_images,
)

measure = other_tool("skimage.measure")
io = other_tool("skimage.io")
shapely = other_tool("shapely")
supervision = other_tool("supervision")
tifffile = other_tool("tifffile")

MIN_IOU = 0.98


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[ImageRecord]:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRCNN_ZOO_CACHE", str(tmp_path / "cache"))


def _masks(dataset: Dataset) -> list[list[Bitmap]]:
    return [[item.mask for item in items_of(record, dataset.class_names)] for record in dataset.records]


@pytest.mark.parametrize("scene", [mask_dataset, polygon_dataset])
def test_pycocotools_reads_coco(images: list[ImageRecord], tmp_path: Path, scene) -> None:
    dataset = without_sides(scene(images))
    write_as("coco", dataset, tmp_path / "data")
    coco = COCO(tmp_path / "data" / "annotations.json")
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(CLASS_NAMES)
    for record in dataset.records:
        (entry,) = coco.loadImgs([record.image_id])
        assert (tmp_path / "data" / "images" / entry["file_name"]).is_file()
        annotations = coco.loadAnns(coco.getAnnIds([record.image_id]))
        items = items_of(record, dataset.class_names)
        assert [bool(found["iscrowd"]) for found in annotations] == [item.is_crowd for item in items]
        for found, item in zip(annotations, items, strict=True):
            assert np.array_equal(coco.annToMask(found), item.mask)
            assert found["area"] == item.mask.sum()


def test_supervision_reads_coco(images: list[ImageRecord], tmp_path: Path) -> None:
    dataset = without_sides(mask_dataset(images))
    write_as("coco", dataset, tmp_path / "data")
    theirs = supervision.DetectionDataset.from_coco(
        str(tmp_path / "data" / "images"), str(tmp_path / "data" / "annotations.json"), force_masks=True
    )
    assert (theirs.classes, len(theirs)) == (list(CLASS_NAMES), len(dataset))
    for (_, _, detections), masks in zip(theirs, _masks(dataset), strict=True):
        assert len(detections) == len(masks)
        found = [] if detections.mask is None else detections.mask
        assert all(np.array_equal(theirs, ours) for theirs, ours in zip(found, masks, strict=True))


def test_coco_of_supervision_is_read(tmp_path: Path) -> None:
    path = tmp_path / "größe 1.png"
    Image.new("RGB", (WIDTH, HEIGHT)).save(path)
    masks = np.zeros((2, HEIGHT, WIDTH), dtype=bool)
    masks[0, 4:20, 6:30] = True
    masks[1, 22:39, 30:56] = True
    boxes = np.array([[6, 4, 30, 20], [30, 22, 56, 39]], dtype=float)
    detections = supervision.Detections(xyxy=boxes, mask=masks, class_id=np.array([1, 0]))
    theirs = supervision.DetectionDataset(["a", "b"], images=[str(path)], annotations={str(path): detections})
    theirs.as_coco(str(tmp_path / "out" / "images"), str(tmp_path / "out" / "annotations.json"))
    name, dataset = read_back(tmp_path / "out")
    assert (name, dataset.class_names) == ("coco", ("a", "b"))
    items = items_of(dataset.records[0], dataset.class_names)
    assert [item.class_name for item in items] == ["b", "a"]
    for item, mask, box in zip(items, masks, boxes, strict=True):
        # supervision writes the outermost pixels as corners: a row and a column less.
        inside = mask[int(box[1]) : int(box[3]) - 1, int(box[0]) : int(box[2]) - 1]
        assert item.mask[int(box[1]) : int(box[3]) - 1, int(box[0]) : int(box[2]) - 1].sum() == inside.sum()
        assert not (item.mask & ~mask).any()


def test_skimage_counts_and_measures_written_label_images(images: list[ImageRecord], tmp_path: Path) -> None:
    dataset = without_sides(mask_dataset(images))
    write_as("labels", dataset, tmp_path / "data")
    files = {path.stem: path for path in (tmp_path / "data" / "masks").iterdir()}
    assert len(files) == len(dataset)
    holds = Holds(exact=True, overlaps="cut", crowds="left out")
    names = ["a_1", "b_1", *(Path(record.source.name).stem for record in dataset.records[2:])]
    for record, name in zip(dataset.records, names, strict=True):
        regions = measure.regionprops(io.imread(files[name]))
        expected = kept(items_of(record, dataset.class_names), holds, Counter())
        assert [region.area for region in regions] == [item.mask.sum() for item in expected]
        boxes = [(region.bbox[1], region.bbox[0], region.bbox[3], region.bbox[2]) for region in regions]
        assert boxes == [_box_of(item.mask) for item in expected]


def _box_of(mask: Bitmap) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_labels_of_skimage_are_read(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).random((60, 80)) > 0.7
    labels = measure.label(pixels)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    tifffile.imwrite(tmp_path / "images/a.tif", np.zeros((60, 80), np.uint16))
    tifffile.imwrite(tmp_path / "masks/a.tif", labels.astype(np.uint32))
    name, dataset = read_back(tmp_path)
    assert name == "labels"
    regions = measure.regionprops(labels)
    assert [item.area for item in dataset.records[0].instances] == [region.area for region in regions]
    assert len(regions) > 50


def test_geojson_of_shapely_is_read(tmp_path: Path) -> None:
    shapes = [
        shapely.Point(20, 20).buffer(12.0),
        shapely.box(30, 2, 54, 20).difference(shapely.box(36, 6, 44, 14)),
        shapely.MultiPolygon([shapely.box(2, 2, 6, 9), shapely.box(40, 30, 56, 40)]),
    ]
    features = [
        {"type": "Feature", "geometry": json.loads(shapely.to_geojson(shape)), "properties": {"class": "a"}}
        for shape in shapes
    ]
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    content = {"type": "FeatureCollection", "features": features}
    (tmp_path / "a.geojson").write_text(json.dumps(content), encoding="utf-8")
    name, dataset = read_back(tmp_path)
    assert name == "geojson"
    for item, shape in zip(items_of(dataset.records[0], dataset.class_names), shapes, strict=True):
        rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
        expected = shapely.contains_xy(shape, columns, rows).astype(np.uint8)
        pair = [coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in (item.mask, expected)]
        assert coco_mask.iou(pair[:1], pair[1:], [False])[0, 0] > MIN_IOU


def test_shapely_reads_written_polygons(images: list[ImageRecord], tmp_path: Path) -> None:
    dataset = without_sides(polygon_dataset(images))
    write_as("geojson", dataset, tmp_path / "data")
    paths = sorted((tmp_path / "data").rglob("*.geojson"))
    shapes = [
        shapely.from_geojson(json.dumps(feature["geometry"]))
        for path in paths
        for feature in json.loads(path.read_text(encoding="utf-8"))["features"]
    ]
    polygons = [
        shapely.Polygon(np.reshape(item.segmentation[0], (-1, 2)))
        for record in dataset.records
        for item in record.instances
    ]
    assert all(shape.is_valid for shape in shapes)
    assert sorted(shape.area for shape in shapes) == pytest.approx(sorted(shape.area for shape in polygons), rel=1e-4)
