"""Error messages for files that are no COCO files; encodings of JSON; files of unlabelled images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mrcnn_zoo.config import load_config
from mrcnn_zoo.data import build_train_loader, load_dataset
from mrcnn_zoo.data.formats.coco import load_coco
from mrcnn_zoo.data.formats.other_formats import describe_other_format
from mrcnn_zoo.errors import UserError

LABELME = {"version": "5.0", "flags": {}, "shapes": [], "imagePath": "0.png", "imageData": "A" * 9000}
CITY = {"imgHeight": 24, "imgWidth": 32, "objects": []}
VIA = {"0.png123": {"filename": "0.png", "size": 123, "regions": [], "file_attributes": {}}}
VOC = "<annotation><filename>0.png</filename><object><name>a</name></object></annotation>"
YOLO = "0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.2 0.2 0.3 0.3\n"
ANSWERS = {
    "labelme": "labelme JSON, one file per image",
    "via": "VIA (VGG Image Annotator)",
    "yolo": "YOLO text, one file per image",
    "voc": "Pascal VOC XML, one file per image",
    "cityscapes": "Cityscapes polygons",
}


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def _images(folder: Path, count: int = 2) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(np.zeros((24, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, tuple[Path, Path]]:
    """The folder of a dataset in each format, and one of its annotation files."""
    for name in ("labelme", "via"):
        _images(tmp_path / name)
    for number in range(2):
        _write(tmp_path / f"labelme/{number}.json", LABELME)
        _write(tmp_path / f"yolo/labels/train/{number}.txt", YOLO)
        _write(tmp_path / f"voc/Annotations/{number}.xml", VOC)
        _write(tmp_path / f"cityscapes/gtFine/train/aachen/{number}_gtFine_polygons.json", CITY)
    _write(tmp_path / "via/via.json", VIA)
    _write(tmp_path / "yolo/data.yaml", "train: images/train\nval: images/train\nnames: [a, b]\n")
    _images(tmp_path / "yolo/images/train")
    _images(tmp_path / "voc/JPEGImages")
    files = {
        "labelme": "0.json",
        "via": "via.json",
        "yolo": "data.yaml",
        "voc": "Annotations/0.xml",
        "cityscapes": "gtFine/train/aachen/0_gtFine_polygons.json",
    }
    return {name: (tmp_path / name, tmp_path / name / file) for name, file in files.items()}


@pytest.mark.parametrize("name", ANSWERS)
def test_format_of_a_file_is_named(folders, name: str) -> None:
    folder, file = folders[name]
    with pytest.raises(UserError, match=f"which FORMAT {name} reads") as caught:
        load_coco("mine", folder, file)
    assert f"{file} is {ANSWERS[name]}" in str(caught.value)


def test_format_without_a_reader_is_named(tmp_path: Path) -> None:
    _write(tmp_path / "a.json", {"objects": [], "size": {"width": 3, "height": 3}})
    with pytest.raises(UserError, match=r"a.json is Supervisely JSON .*, which is not read yet: convert it to COCO"):
        load_coco("mine", tmp_path, tmp_path / "a.json")


@pytest.mark.parametrize("name", ["labelme", "yolo"])
def test_folder_instead_of_a_file_is_named(folders, name: str) -> None:
    folder, file = folders[name]
    with pytest.raises(UserError) as caught:
        load_coco("mine", folder, file.parent)
    assert f"{file.parent} is a folder with {ANSWERS[name]}" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}], "a COCO results file"),
        ({"objects": [], "size": {"width": 3, "height": 3}}, "Supervisely"),
        ([{"image": "a.png", "annotations": []}], "CreateML"),
        ([{"bbox": [1, 2, 3, 4]}], "a list of annotations without their images"),
        ({"images": [], "annotations": [], "categories": []}, ""),
        ([1, 2], ""),
        (3, ""),
    ],
)
def test_other_json_formats_are_named(tmp_path: Path, content: object, words: str) -> None:
    _write(tmp_path / "a.json", content)
    answer = describe_other_format(tmp_path / "a.json", content)
    assert answer.startswith(words)
    assert bool(answer) == bool(words)


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ({"id": 1, "image_id": 1, "caption": "a cat"}, "COCO's captions"),
        ({"image_id": 1, "file_name": "a.png", "segments_info": []}, "COCO's panoptic annotations"),
    ],
)
def test_coco_files_without_objects_are_named(write_coco, annotation: dict, words: str) -> None:
    path = write_coco([annotation])
    with pytest.raises(UserError, match=words):
        load_coco("mine", path.parent, path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_json_of_every_unicode_encoding_is_read(write_coco, annotation, encoding: str) -> None:
    path = write_coco([annotation()], categories=[{"id": 7, "name": "grün"}])
    path.write_bytes(json.dumps(json.loads(path.read_text()), ensure_ascii=False).encode(encoding))
    assert load_coco("mine", path.parent, path).class_names == ("grün",)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_configs_with_a_byte_order_mark_are_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes("SEED: 7\n".encode(encoding))
    assert load_config(path, []).SEED == 7


@pytest.fixture
def unlabelled(tmp_path: Path) -> Path:
    """COCO's layout of test images: a folder, and a file that lists them without annotations."""
    folder = _images(tmp_path / "test2017")
    images = [{"id": n, "file_name": f"{n}.png", "height": 24, "width": 32} for n in range(2)]
    content = {"info": {}, "licenses": [], "images": images, "categories": [{"id": 1, "name": "cat"}]}
    _write(tmp_path / "annotations" / "image_info_test2017.json", content)
    return folder


def test_unlabelled_test_images_are_read_and_not_trained_on(cfg, unlabelled: Path) -> None:
    dataset = load_dataset(cfg, str(unlabelled))
    assert (len(dataset), dataset.is_labelled, dataset.class_names) == (2, False, ("cat",))
    with pytest.raises(UserError, match=r"has no annotations: .*image_info_test2017.json lists images alone"):
        build_train_loader(cfg, [dataset])


def test_file_without_categories_error_names_the_section(unlabelled: Path, tmp_path: Path) -> None:
    path = tmp_path / "annotations" / "image_info_test2017.json"
    content = json.loads(path.read_text())
    del content["categories"]
    _write(path, content)
    with pytest.raises(UserError, match=r"has no 'annotations'.*Add 'categories' with the ids and names"):
        load_coco("mine", unlabelled, path)
