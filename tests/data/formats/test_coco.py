"""Valid COCO files."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mrcnn_zoo.data.formats.coco import load_coco
from mrcnn_zoo.data.keypoints import flip_pairs


def _load(path: Path):
    return load_coco("test", path.parent, path)


def test_categories_with_gaps_become_classes_in_the_order_of_their_ids(write_coco, annotation) -> None:
    dataset = _load(write_coco([annotation(1, category_id=7), annotation(2, category_id=3)]))
    assert dataset.class_names == ("dog", "cat")
    assert dataset.category_ids == (3, 7)
    assert [item.class_index for item in dataset.records[0].instances] == [1, 0]


def test_polygon_annotation_becomes_a_record(write_coco, annotation) -> None:
    dataset = _load(write_coco([annotation(4)]))
    item = dataset.records[0].instances[0]
    assert item.box == (10, 10, 20, 20)
    assert [polygon.tolist() for polygon in item.segmentation] == [[10, 10, 20, 10, 20, 20, 10, 20]]
    assert (item.area, item.annotation_id, item.is_crowd, item.keypoints) == (100, 4, False, None)
    assert dataset.notes == ()


def test_images_come_in_the_order_of_their_ids(write_coco) -> None:
    images = [{"id": number, "file_name": f"{number:03d}.png", "height": 40, "width": 60} for number in (3, 1, 2)]
    dataset = _load(write_coco([], num_images=3, images=images))
    assert [record.image_id for record in dataset.records] == [1, 2, 3]
    assert [Path(record.source.name).name for record in dataset.records] == ["001.png", "002.png", "003.png"]
    assert dataset.records[0].image_size == (40, 60)


def test_images_of_lvis_are_named_by_the_end_of_their_address(write_coco, tmp_path: Path) -> None:
    folder = tmp_path.name
    images = [{"id": 1, "coco_url": f"http://images.org/{folder}/001.png", "height": 40, "width": 60}]
    (record,) = load_coco("lvis", tmp_path.parent, write_coco([], images=images)).records
    assert Path(record.source.name) == tmp_path / "001.png"


def test_image_without_objects_is_kept(write_coco, annotation) -> None:
    dataset = _load(write_coco([annotation(1, image_id=2)], num_images=2))
    assert [len(record.instances) for record in dataset.records] == [0, 1]


@pytest.mark.parametrize("is_compressed", [True, False])
def test_run_lengths_of_both_kinds_are_the_same_mask(write_coco, annotation, is_compressed: bool) -> None:
    plain = {"size": [40, 60], "counts": [410, 10, 30, 10, 1940]}
    compressed = coco_mask.frPyObjects(plain, 40, 60)
    compressed["counts"] = compressed["counts"].decode()
    rle = compressed if is_compressed else plain
    dataset = _load(write_coco([annotation(1, segmentation=rle, bbox=[10, 10, 2, 10], iscrowd=1)]))
    item = dataset.records[0].instances[0]
    assert item.is_crowd
    assert item.segmentation == {"size": [40, 60], "counts": compressed["counts"]}


def test_annotation_without_a_mask_keeps_its_box(write_coco, annotation) -> None:
    boxes = [annotation(1), annotation(2), annotation(3)]
    del boxes[0]["segmentation"]
    boxes[1]["segmentation"] = []
    boxes[2]["segmentation"] = None
    items = _load(write_coco(boxes)).records[0].instances
    assert [item.segmentation for item in items] == [None, None, None]
    assert [item.box for item in items] == [(10, 10, 20, 20)] * 3


def test_keypoints_are_shifted_to_pixel_centres(write_coco, annotation) -> None:
    names = ["nose", "left_eye", "right_eye"]
    categories = [{"id": 7, "name": "person", "keypoints": names}]
    points = [10, 11, 2, 12, 11, 1, 0, 0, 0]
    dataset = _load(write_coco([annotation(1, keypoints=points)], categories=categories))
    assert dataset.keypoint_names == tuple(names)
    assert dataset.keypoint_flip_pairs == ((1, 2),)
    assert dataset.records[0].instances[0].keypoints == (10.5, 11.5, 2, 12.5, 11.5, 1, 0.5, 0.5, 0)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [([[1, 2], [1, 3]], ((0, 1), (0, 2))), ([[1, 4], "x", [2]], ()), (None, ()), ([[0, 1], [2, 3]], ((1, 2),))],
)
def test_skeleton_rows_start_at_0(lines, expected, write_coco, annotation) -> None:
    categories = [{"id": 7, "name": "person", "keypoints": ["a", "b", "c"], "skeleton": lines}]
    assert _load(write_coco([annotation(1)], categories=categories)).keypoint_skeleton == expected


def test_flip_pairs_differ_only_in_left_and_right() -> None:
    assert flip_pairs(["right_a", "left_a", "middle", "left_b"]) == ((1, 0),)
    assert flip_pairs([]) == ()


def test_images_in_subfolders_are_found(tmp_path: Path, write_coco, annotation) -> None:
    path = write_coco([annotation()])
    (tmp_path / "deep").mkdir()
    (tmp_path / "001.png").rename(tmp_path / "deep" / "001.png")
    document = json.loads(path.read_text())
    document["images"][0]["file_name"] = "deep/001.png"
    path.write_text(json.dumps(document))
    assert _load(path).records[0].source.read().shape == (40, 60, 3)


def test_unused_root_category_of_roboflow_is_left_out(write_coco, annotation) -> None:
    top = {"id": 0, "name": "cells", "supercategory": "none"}
    others = [{"id": number, "name": name, "supercategory": "cells"} for number, name in ((1, "red"), (2, "white"))]
    dataset = _load(write_coco([annotation(1, category_id=2)], categories=[top, *others]))
    assert dataset.class_names == ("red", "white")
    used = _load(write_coco([annotation(1, category_id=0)], categories=[top, *others]))
    assert used.class_names == ("cells", "red", "white")


@pytest.mark.parametrize("kind", ["instances", "person_keypoints"])
def test_real_annotations_are_all_read(shared_dir: Path, kind: str) -> None:
    folder = shared_dir / "data" / "coco_mini"
    path = folder / "annotations" / f"{kind}_val2017.json"
    dataset = load_coco("mini", folder / "val2017", path)
    coco = COCO(str(path))
    items = [item for record in dataset.records for item in record.instances]
    assert len(dataset) == 70
    assert dataset.notes == ()
    assert {item.annotation_id for item in items} == set(coco.anns)
    for item in items:
        raw = coco.anns[item.annotation_id]
        x, y, width, height = raw["bbox"]
        assert np.allclose(item.box, [x, y, x + width, y + height], atol=1.0)
        assert dataset.category_ids[item.class_index] == raw["category_id"]
        assert item.area == raw["area"]
