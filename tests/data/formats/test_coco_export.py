import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO

from mrcnn_zoo.config import load_config
from mrcnn_zoo.data.catalog import load_dataset
from mrcnn_zoo.data.formats.coco import load_coco
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.data.synthetic.scenes import build_scenes
from mrcnn_zoo.data.synthetic.settings import SceneSettings
from mrcnn_zoo.errors import UserError
from support.annotation_files import write_dataset


@dataclass(frozen=True)
class Pixels:
    """An image source that holds its pixels."""

    pixels: NDArray[np.generic]
    name: str = "held.png"

    def read(self) -> NDArray[np.generic]:
        return self.pixels


def scenes(length: int = 3) -> Dataset:
    return build_scenes("digits_val", SceneSettings(), kind="digits", split="val", length=length)


def one_image(pixels: NDArray[np.generic], *instances: InstanceRecord) -> Dataset:
    record = ImageRecord(7, Pixels(pixels), (pixels.shape[0], pixels.shape[1]), instances)
    return Dataset("one", (record,), ("cell", "dirt"), category_ids=(3, 9))


GREEN = np.full((5, 8, 3), (0, 200, 0), dtype=np.uint8)


def test_exported_pixels_equal_the_dataset(tmp_path: Path) -> None:
    dataset = scenes()
    write_dataset("coco", {"": dataset}, tmp_path / "out")
    for record in dataset.records:
        with Image.open(tmp_path / "out" / "images" / f"{record.image_id:012d}.png") as image:
            np.testing.assert_array_equal(np.array(image), record.source.read())


def test_pycocotools_reads_the_annotations(tmp_path: Path) -> None:
    dataset = scenes()
    write_dataset("coco", {"": dataset}, tmp_path / "out")
    coco = COCO(tmp_path / "out" / "annotations.json")
    instance = dataset.records[0].instances[0]
    annotation = coco.anns[instance.annotation_id]
    left, top, right, bottom = instance.box
    assert annotation["bbox"] == [left, top, right - left, bottom - top]
    assert coco.annToMask(annotation).sum() == instance.area
    assert coco.cats[annotation["category_id"]]["name"] == dataset.class_names[instance.class_index]


def test_reload_of_synthetic_scenes_gives_equal_records(tmp_path: Path) -> None:
    dataset = scenes()
    write_dataset("coco", {"": dataset}, tmp_path / "out")
    assert_equal_but_for_files(load_dataset(load_config(), str(tmp_path / "out")), dataset)


@pytest.mark.parametrize("kind", ["instances", "person_keypoints"])
def test_reload_of_real_annotations_gives_equal_records(tmp_path: Path, shared_dir: Path, kind: str) -> None:
    coco_mini = shared_dir / "data" / "coco_mini"
    dataset = load_coco("mini", coco_mini / "val2017", coco_mini / "annotations" / f"{kind}_val2017.json")
    crowded = [record for record in dataset.records if any(instance.is_crowd for instance in record.instances)]
    dataset = replace(dataset, records=(*crowded[:1], *dataset.records[:2]))
    write_dataset("coco", {"": dataset}, tmp_path / "out")
    by_id = replace(dataset, records=tuple(sorted(dataset.records, key=lambda record: record.image_id)))
    assert_equal_but_for_files(load_coco("mini", tmp_path / "out/images", tmp_path / "out/annotations.json"), by_id)


def assert_equal_but_for_files(new: Dataset, old: Dataset) -> None:
    assert (new.class_names, new.category_ids) == (old.class_names, old.category_ids)
    assert (new.keypoint_names, new.keypoint_flip_pairs) == (old.keypoint_names, old.keypoint_flip_pairs)
    for new_record, old_record in zip(new.records, old.records, strict=True):
        assert (new_record.image_id, new_record.image_size) == (old_record.image_id, old_record.image_size)
        for one, other in zip(new_record.instances, old_record.instances, strict=True):
            assert one.box == pytest.approx(other.box, abs=1e-9)
            np.testing.assert_equal(one.segmentation, other.segmentation)
            assert replace(one, box=other.box, segmentation=other.segmentation) == other
        np.testing.assert_array_equal(new_record.source.read(), old_record.source.read())


def test_every_field_of_an_instance_is_written(tmp_path: Path) -> None:
    polygon = InstanceRecord(
        (1, 1, 4, 3),
        1,
        segmentation=[[1, 1, 4, 1, 4, 3]],
        keypoints=(1.5, 1.5, 2, 0.5, 0.5, 0),
        area=3.0,
        annotation_id=12,
    )
    crowd = InstanceRecord(
        (0, 0, 8, 5), 0, segmentation={"size": [5, 8], "counts": [0, 40]}, is_crowd=True, annotation_id=5
    )
    write_dataset(
        "coco", {"": replace(one_image(GREEN, polygon, crowd), keypoint_names=("nose", "tail"))}, tmp_path / "out"
    )
    content = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert content["annotations"] == [
        {
            "id": 12,
            "image_id": 7,
            "category_id": 9,
            "bbox": [1, 1, 3, 2],
            "area": 3.0,
            "iscrowd": 0,
            "segmentation": [[1.0, 1.0, 4.0, 1.0, 4.0, 3.0]],
            "keypoints": [1, 1, 2, 0, 0, 0],
            "num_keypoints": 1,
        },
        {
            "id": 5,
            "image_id": 7,
            "category_id": 3,
            "bbox": [0, 0, 8, 5],
            "area": 40,
            "iscrowd": 1,
            "segmentation": {"size": [5, 8], "counts": [0, 40]},
        },
    ]
    assert content["images"] == [{"id": 7, "file_name": "000000000007.png", "height": 5, "width": 8}]
    assert content["categories"][0] == {
        "id": 3,
        "name": "cell",
        "supercategory": "",
        "keypoints": ["nose", "tail"],
        "skeleton": [],
        "flip_pairs": [],
    }


def test_missing_annotation_ids_are_numbered_from_one(tmp_path: Path) -> None:
    box = InstanceRecord((0, 0, 2, 2), 0)
    write_dataset("coco", {"": one_image(GREEN, box, box)}, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert [annotation["id"] for annotation in content["annotations"]] == [1, 2]


def test_dataset_without_images(tmp_path: Path) -> None:
    write_dataset("coco", {"": scenes(0)}, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "annotations.json").read_text())["images"] == []
    assert list((tmp_path / "out" / "images").iterdir()) == []


def test_16_bit_grey_stays_16_bit(tmp_path: Path) -> None:
    deep = np.repeat(np.arange(40, dtype=np.uint16).reshape(5, 8, 1) * 1000, 3, axis=2)
    write_dataset("coco", {"": one_image(deep)}, tmp_path / "out")
    with Image.open(tmp_path / "out" / "images" / "000000000007.png") as image:
        np.testing.assert_array_equal(np.array(image), deep[:, :, 0])


@pytest.mark.parametrize(
    "pixels",
    [
        np.arange(160, dtype=np.uint8).reshape(5, 8, 4),
        np.arange(120, dtype=np.uint16).reshape(5, 8, 3),
        np.arange(120, dtype=np.float32).reshape(5, 8, 3) / 7,
    ],
    ids=["four channels", "16-bit colour", "float"],
)
def test_pixels_that_png_cannot_store_become_a_tiff(tmp_path: Path, pixels: NDArray[np.generic]) -> None:
    write_dataset("coco", {"": one_image(pixels)}, tmp_path / "out")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "images" / "000000000007.tif"), pixels)
    (record,) = load_dataset(load_config(), str(tmp_path / "out")).records
    np.testing.assert_array_equal(record.source.read(), pixels)


def test_missing_area_is_that_of_the_mask(tmp_path: Path) -> None:
    square = [[2, 2, 6, 2, 6, 6, 2, 6]]
    box = (2.0, 2.0, 8.0, 8.0)
    instances = (InstanceRecord(box, 0, square), InstanceRecord(box, 0), InstanceRecord(box, 0, square, area=5.0))
    write_dataset("coco", {"": one_image(np.zeros((10, 12, 3), dtype=np.uint8), *instances)}, tmp_path / "out")
    annotations = json.loads((tmp_path / "out" / "annotations.json").read_text())["annotations"]
    assert [annotation["area"] for annotation in annotations] == [16, 36, 5]


@pytest.mark.parametrize("pairs", [((0, 1),), (), None])
def test_pairs_of_keypoints_survive_an_export(tmp_path: Path, pairs: tuple | None) -> None:
    instance = InstanceRecord((2, 2, 8, 8), 0, keypoints=(3.5, 3.5, 2, 6.5, 3.5, 2))
    dataset = one_image(np.zeros((10, 12, 3), dtype=np.uint8), instance)
    dataset = replace(dataset, keypoint_names=("a", "b"), keypoint_flip_pairs=pairs)
    write_dataset("coco", {"": dataset}, tmp_path / "out")
    assert load_coco("again", tmp_path / "out/images", tmp_path / "out/annotations.json").keypoint_flip_pairs == pairs


def wrong_size() -> ImageRecord:
    return ImageRecord(1, Pixels(np.zeros((10, 12, 3), dtype=np.uint8)), (60000, 60000))


def test_image_of_another_size_than_annotated_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is 12 x 10 pixels .* have 60000 x 60000"):
        write_dataset("coco", {"": replace(one_image(GREEN), records=(wrong_size(),))}, tmp_path / "out")
