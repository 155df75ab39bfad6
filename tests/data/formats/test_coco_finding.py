"""COCO files and their images in the layouts that tools write."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.annotations.listing import FileListing
from mrcnn_zoo.data.catalog import load_dataset
from mrcnn_zoo.data.formats.coco_finding import PART_EXAMINED, find_coco_files, side_of
from mrcnn_zoo.errors import UserError

BOX = {"bbox": [1, 1, 4, 4], "segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]], "area": 16, "iscrowd": 0}
CATEGORY = {"id": 100, "name": "building", "supercategory": "building"}


def write_json(path: Path, names: Sequence[str], **sections: Any) -> Path:
    """A COCO file of images of 10 x 12 with one square each; a section of None is left out."""
    images = [{"id": row, "file_name": name, "height": 10, "width": 12} for row, name in enumerate(names, start=1)]
    annotations = [{"id": image["id"], "image_id": image["id"], "category_id": 100, **BOX} for image in images]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": [CATEGORY]} | sections
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
    return path


def write_images(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((10, 12, 3), dtype=np.uint8)).save(path)


# Annotation file, name of the image in it, and where the image is, of the side "val".
SIDES = {
    "Roboflow": ("valid/_annotations.coco.json", "b.jpg", "valid/b.jpg"),
    "COCO": ("annotations/instances_val2017.json", "b.jpg", "val2017/b.jpg"),
    "COCO, folder in the name": ("annotations/instances_val2017.json", "val2017/b.jpg", "val2017/b.jpg"),
    "crowdAI": ("val/annotation.json", "b.jpg", "val/images/b.jpg"),
    "images/val": ("annotations/val.json", "b.jpg", "images/val/b.jpg"),
    "val_images": ("val_annotations.json", "b.jpg", "val_images/b.jpg"),
    "all in images": ("annotations/coco_val.json", "b.jpg", "images/b.jpg"),
}


@pytest.mark.parametrize("layout", SIDES)
def test_sides_are_found_with_their_images(cfg: CfgNode, tmp_path: Path, layout: str) -> None:
    for side in ("train", "val"):
        text = "\n".join(SIDES[layout])
        if side == "train":
            text = text.replace("valid", "train").replace("val", "train").replace("b.jpg", "a.jpg")
        annotations, name, image = text.split("\n")
        write_json(tmp_path / annotations, [name])
        write_images(tmp_path / image)
    (val,) = load_dataset(cfg, f"{tmp_path}:val").records
    assert (val.source.name, val.split) == (str(tmp_path / SIDES[layout][2]), "val")
    (train,) = load_dataset(cfg, f"{tmp_path}:train").records
    assert train.source.name.endswith("a.jpg")


@pytest.mark.parametrize(
    ("annotations", "image"),
    [
        ("labels.json", "images/b.jpg"),
        ("labels.json", "b.jpg"),
        ("annotations/labels.json", "images/b.jpg"),
        ("annotations/labels.json", "b.jpg"),
        ("result.json", "images/b.jpg"),
    ],
)
def test_folder_and_file_mean_the_same_images(cfg: CfgNode, tmp_path: Path, annotations: str, image: str) -> None:
    path = write_json(tmp_path / annotations, ["b.jpg"])
    write_images(tmp_path / image)
    for named in (tmp_path, path):
        (record,) = load_dataset(cfg, str(named)).records
        assert record.source.name == str(tmp_path / image)


def test_named_file_has_no_side(cfg: CfgNode, tmp_path: Path) -> None:
    path = write_json(tmp_path / "annotations/instances_val2017.json", ["b.jpg"])
    write_images(tmp_path / "val2017/b.jpg")
    assert find_coco_files(FileListing(path)) == {"": [path]}
    assert len(load_dataset(cfg, str(path))) == 1


@pytest.mark.parametrize(("keypoints", "expected"), [(False, 2), (True, 1)])
@pytest.mark.parametrize("named", [".", "val2017"])
def test_file_with_keypoints_is_read_only_for_keypoints(
    cfg: CfgNode, tmp_path: Path, named: str, keypoints: bool, expected: int
) -> None:
    write_images(*(tmp_path / "val2017" / name for name in ("a.jpg", "b.jpg")))
    write_json(tmp_path / "annotations/instances_val2017.json", ["a.jpg", "b.jpg"])
    write_json(tmp_path / "annotations/person_keypoints_val2017.json", ["a.jpg"])
    write_json(tmp_path / "annotations/captions_val2017.json", ["a.jpg"], categories=None)
    write_json(tmp_path / "annotations/panoptic_val2017.json", ["a.jpg"])
    cfg.MODEL.KEYPOINT_ON = keypoints
    assert len(load_dataset(cfg, str(tmp_path / named))) == expected


def test_subset_beside_its_file_is_not_read(cfg: CfgNode, tmp_path: Path) -> None:
    write_images(tmp_path / "train/images/a.jpg", tmp_path / "train/images/b.jpg")
    write_json(tmp_path / "train/annotation.json", ["a.jpg", "b.jpg"])
    write_json(tmp_path / "train/annotation-small.json", ["a.jpg"])
    assert len(load_dataset(cfg, str(tmp_path / "train"))) == 2
    assert len(load_dataset(cfg, str(tmp_path / "train/annotation-small.json"))) == 1


def test_unlabelled_test_images_are_not_mixed_with_labelled_ones(cfg: CfgNode, tmp_path: Path) -> None:
    write_images(tmp_path / "train2017/a.jpg", tmp_path / "test2017/b.jpg")
    write_json(tmp_path / "annotations/instances_train2017.json", ["a.jpg"])
    write_json(tmp_path / "annotations/image_info_test2017.json", ["b.jpg"], annotations=None)
    assert [Path(record.source.name).name for record in load_dataset(cfg, f"{tmp_path}:all").records] == ["a.jpg"]
    assert not load_dataset(cfg, f"{tmp_path}:test").is_labelled


def test_sections_in_the_middle_of_a_large_file_are_found(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", ["b.jpg"])
    content = json.loads(path.read_text())
    padding = [{"id": 2, "image_id": 1, "text": "x" * 2 * PART_EXAMINED}]
    order = {"info": {}, "annotations": padding, "images": content["images"], "categories": [{"def": "y" * 200000}]}
    path.write_text(json.dumps(order))
    assert find_coco_files(FileListing(tmp_path)) == {"": [path]}
    path.write_text(json.dumps({"annotations": padding, "pictures": [], "categories": []}))
    assert find_coco_files(FileListing(tmp_path)) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"image_id": 1, "bbox": [1, 1, 2, 2], "score": 0.5, "category_id": 100}], "a COCO results file"),
        ({"images": [], "annotations": [{"image_id": 1, "caption": "a"}]}, "COCO's captions: they have no objects"),
        (
            {"images": [], "categories": [], "annotations": [{"image_id": 1, "segments_info": []}]},
            "COCO's panoptic annotations",
        ),
    ],
)
def test_named_file_without_objects_is_refused(cfg: CfgNode, tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_dataset(cfg, str(tmp_path / "a.json"))


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"shapes": [], "imagePath": "a.png"}', '{"images": {}, "categories": []}']
)
def test_other_json_files_are_not_coco(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    assert find_coco_files(FileListing(tmp_path)) == {}
    assert find_coco_files(FileListing(tmp_path / "a.json")) == {}


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("annotations/instances_train2014.json", "train"),
        ("annotations/instances_valminusminival2014.json", ""),
        ("lvis_v1_val.json", "val"),
        ("test-annotations.json", "test"),
        ("train/annotations/coco.json", "train"),
        ("training_data.json", "train"),
        ("trainees.json", ""),
    ],
)
def test_side_is_a_whole_word_of_the_name_or_a_folder(name: str, side: str) -> None:
    assert side_of(name) == side


def test_missing_images_are_one_message(cfg: CfgNode, tmp_path: Path) -> None:
    write_images(tmp_path / "images/a.jpg")
    write_json(tmp_path / "labels.json", ["a.jpg", "b.jpg"])
    with pytest.raises(UserError, match=r"images: 1 of the 2 images that .*labels.json lists are missing: b.jpg"):
        load_dataset(cfg, str(tmp_path))
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(UserError, match=r"2 of the 2 images that .*labels.json lists are missing"):
        load_dataset(cfg, str(tmp_path))
