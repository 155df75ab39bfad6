"""LVIS v1 and the crowdAI mapping challenge, as their files are."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.annotations.columns import from_columns, to_columns
from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.catalog import load_dataset
from mrcnn_zoo.data.class_mapping import with_classes
from mrcnn_zoo.data.classes import in_classes
from mrcnn_zoo.data.formats.coco_writing import write_coco
from mrcnn_zoo.data.records import Dataset, FederatedLabels
from mrcnn_zoo.errors import UserError

SQUARE = [[2.0, 2.0, 6.0, 2.0, 6.0, 6.0, 2.0, 6.0]]


def category(number: int, name: str, frequency: str) -> dict[str, Any]:
    fields = {"synset": f"{name}.n.01", "synonyms": [name], "def": name, "image_count": 2, "instance_count": 3}
    return {"id": number, "name": name, "frequency": frequency, **fields}


@pytest.fixture
def lvis_root(tmp_path: Path) -> Path:
    """`lvis_v1_val.json` beside `train2017/` and `val2017/`, with an image of each, which LVIS's val has."""
    images = []
    for number, (folder, negative, incomplete) in enumerate(
        (("val2017", [2, 4], [1]), ("train2017", [4], [])), start=1
    ):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.zeros((10, 12, 3), dtype=np.uint8)).save(tmp_path / folder / f"{number:012d}.jpg")
        urls = {
            "coco_url": f"http://images.cocodataset.org/{folder}/{number:012d}.jpg",
            "flickr_url": "http://farm1.staticflickr.com/1.jpg",
        }
        federated = {"neg_category_ids": negative, "not_exhaustive_category_ids": incomplete}
        images.append({"id": number, "height": 10, "width": 12, "license": 1, "date_captured": "", **urls, **federated})
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "area": 16.0, "bbox": [2.0, 2.0, 4.0, 4.0]}
    categories = [category(1, "cup", "f"), category(2, "car", "c"), category(4, "van", "r")]
    content = {"info": {}, "annotations": [{**annotation, "segmentation": SQUARE}], "images": images}
    (tmp_path / "lvis_v1_val.json").write_text(json.dumps({**content, "licenses": [], "categories": categories}))
    return tmp_path


@pytest.fixture
def lvis(cfg: CfgNode, lvis_root: Path) -> Dataset:
    return load_dataset(cfg, str(lvis_root / "lvis_v1_val.json"))


def test_images_without_file_names_are_found_in_the_folders_of_their_addresses(cfg, lvis, lvis_root: Path) -> None:
    names = [str(lvis_root / "val2017/000000000001.jpg"), str(lvis_root / "train2017/000000000002.jpg")]
    assert [record.source.name for record in lvis.records] == names
    assert [record.source.name for record in load_dataset(cfg, str(lvis_root)).records] == names


def test_federated_fields_are_class_indices(lvis) -> None:
    assert [record.federated for record in lvis.records] == [FederatedLabels((1, 2), (0,)), FederatedLabels((2,), ())]
    assert lvis.class_frequencies == ("f", "c", "r")


def test_federated_fields_survive_writing(cfg: CfgNode, tmp_path: Path, lvis) -> None:
    (tmp_path / "out").mkdir()
    write_coco({"": lvis}, tmp_path / "out", DatasetWriter(lvis.records))
    content = json.loads((tmp_path / "out/annotations.json").read_text())
    assert content["images"][0]["neg_category_ids"] == [2, 4]
    assert content["images"][1]["not_exhaustive_category_ids"] == []
    assert [item["frequency"] for item in content["categories"]] == ["f", "c", "r"]
    again = load_dataset(cfg, str(tmp_path / "out"))
    assert [record.federated for record in again.records] == [record.federated for record in lvis.records]


def test_federated_fields_follow_the_classes(lvis) -> None:
    merged = with_classes(lvis, {"vehicle": ["car", "van"], "ignore": ["cup"]}, name="lvis")
    # Only the first image has neither cars nor vans for certain; nothing is known about cars in the second.
    assert [record.federated for record in merged.records] == [FederatedLabels((0,), ()), FederatedLabels((), ())]
    assert merged.class_frequencies == ("c",)
    reordered = in_classes(lvis, ("van", "car", "cup"))
    assert reordered.records[0].federated == FederatedLabels((0, 1), (2,))
    assert reordered.class_frequencies == ("r", "c", "f")
    assert in_classes(lvis, ("van", "car", "cup", "tree")).class_frequencies == ()


def test_federated_fields_and_kinds_of_images_are_in_the_columns_of_the_cache(lvis) -> None:
    first, second = lvis.records
    dataset = replace(lvis, records=(replace(first, stratum="grey"), replace(second, federated=None, stratum="blue")))
    columns = to_columns(dataset)
    assert columns is not None
    again = from_columns(columns, name="lvis")
    assert [(record.federated, record.stratum) for record in again.records] == [
        (first.federated, "grey"),
        (None, "blue"),
    ]
    assert again.class_frequencies == ("f", "c", "r")


def test_datasets_of_other_kinds_have_no_federated_fields(cfg: CfgNode, tmp_path: Path, lvis) -> None:
    records = tuple(replace(record, federated=None) for record in lvis.records)
    (tmp_path / "out").mkdir()
    write_coco({"": replace(lvis, records=records, class_frequencies=())}, tmp_path / "out", DatasetWriter(records))
    text = (tmp_path / "out/annotations.json").read_text()
    assert "neg_category_ids" not in text
    assert "frequency" not in text
    assert [record.federated for record in load_dataset(cfg, str(tmp_path / "out")).records] == [None, None]


@pytest.mark.parametrize("value", ["2", [2.5], {"2": 1}, [[2]]])
def test_field_that_is_no_list_of_ids_is_named(cfg: CfgNode, lvis_root: Path, value: Any) -> None:
    path = lvis_root / "lvis_v1_val.json"
    content = json.loads(path.read_text())
    content["images"][1]["neg_category_ids"] = value
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"lvis_v1_val.json: image 2 has neg_category_ids .* a list of category ids"):
        load_dataset(cfg, str(path))


def test_unlisted_ids_are_left_out_and_counted(cfg: CfgNode, lvis_root: Path, caplog) -> None:
    path = lvis_root / "lvis_v1_val.json"
    path.write_text(path.read_text().replace('"neg_category_ids": [2, 4]', '"neg_category_ids": [2, 77]'))
    with caplog.at_level(logging.WARNING):
        assert load_dataset(cfg, str(path)).records[0].federated == FederatedLabels((1,), (0,))
    assert "neg_category_ids that 'categories' does not list left out: 1 (first: id 77 of image 1)" in caplog.text


def crowdai(root: Path, boxes: list[list[float]], polygons: list[list[float]]) -> Path:
    """A side of the mapping challenge: `annotation.json`, `annotation-small.json` and `images/` of 300 x 300."""
    image = {"id": 44153, "file_name": "000000044153.jpg", "width": 300, "height": 300}
    annotations = [
        {"id": row, "image_id": 44153, "segmentation": [polygon], "area": 400.0, "bbox": box}
        | {"category_id": 100, "iscrowd": 0}
        for row, (box, polygon) in enumerate(zip(boxes, polygons, strict=True), start=377544)
    ]
    categories = [{"id": 100, "name": "building", "supercategory": "building"}]
    content = {"info": {"version": "1"}, "images": [image], "annotations": annotations, "categories": categories}
    (root / "images").mkdir(parents=True)
    Image.fromarray(np.zeros((300, 300, 3), dtype=np.uint8)).save(root / "images/000000044153.jpg")
    (root / "annotation.json").write_text(json.dumps(content))
    (root / "annotation-small.json").write_text(json.dumps(content | {"annotations": annotations[:1]}))
    return root


# x, y, width and height of the buildings; the last one overlaps its box with exchanged axes.
BUILDINGS = [(100, 20, 30, 40), (200, 50, 20, 50), (10, 250, 50, 30), (150, 152, 40, 44)]


@pytest.mark.parametrize(
    "order",
    [lambda x, y, w, h: [x, y, w, h], lambda x, y, w, h: [y, x, h, w], lambda x, y, w, h: [x, y, x + w, y + h]],
    ids=["x y w h", "y x h w", "x1 y1 x2 y2"],
)
def test_buildings_have_the_boxes_of_their_outlines_whatever_the_order_of_bbox(cfg, tmp_path: Path, order) -> None:
    polygons = [[x, y, x + w, y, x + w, y + h, x, y + h] for x, y, w, h in BUILDINGS]
    for side in ("train", "val"):
        crowdai(tmp_path / side, [order(*box) for box in BUILDINGS], polygons)
    dataset = load_dataset(cfg, f"{tmp_path}:train")
    assert (dataset.class_names, dataset.category_ids) == (("building",), (100,))
    (record,) = dataset.records
    assert [item.box for item in record.instances] == [(x, y, x + w, y + h) for x, y, w, h in BUILDINGS]
