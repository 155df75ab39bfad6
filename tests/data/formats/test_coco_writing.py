"""The writer of COCO's format: layouts, names, scores, polygons; read by pycocotools and by the own reader."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.catalog import load_dataset
from mrcnn_zoo.data.formats.coco_writing import write_coco
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.data.splits import units_of
from mrcnn_zoo.ops import rle

SQUARE = InstanceRecord((2.0, 3.0, 6.0, 8.0), 1, [[2.0, 3.0, 6.0, 3.0, 6.0, 8.0, 2.0, 8.0]], area=20.0, annotation_id=5)


@pytest.fixture
def make_dataset(tmp_path: Path):
    """A dataset with one image file of 12 x 16 per name, and one square in each."""

    def make(*names: str, folder: str = "source", split: str = "", **fields: object) -> Dataset:
        records = []
        for number, name in enumerate(names, start=1):
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 12), (number, 0, 0)).save(path)
            square = replace(SQUARE, annotation_id=number, **fields)
            records.append(ImageRecord(number, FileImage(str(path)), (12, 16), (square,), split=split))
        return Dataset("d", tuple(records), ("cat", "dog"), (3, 8))

    return make


def write(parts: dict[str, Dataset], folder: Path, **options: object) -> Path:
    folder.mkdir()
    records = [record for dataset in parts.values() for record in dataset.records]
    write_coco(parts, folder, DatasetWriter(records, **options))
    return folder


def test_image_files_keep_their_names_so_that_group_patterns_match(tmp_path: Path, make_dataset, cfg: CfgNode) -> None:
    out = write({"": make_dataset("slide1_a.png", "slide1_b.png", "slide2_a.bmp")}, tmp_path / "out")
    assert sorted(path.name for path in (out / "images").iterdir()) == ["slide1_a.png", "slide1_b.png", "slide2_a.bmp"]
    units = units_of([load_dataset(cfg, str(out))], group=r"(slide\d+)_")
    assert [(unit.key, len(unit)) for unit in units] == [("slide1", 2), ("slide2", 1)]


def test_sides_have_the_layout_of_coco(tmp_path: Path, make_dataset, cfg: CfgNode) -> None:
    train, val = make_dataset("a.png", "b.png", split="train"), make_dataset("c.png", split="val")
    out = write({"train": train, "val": val}, tmp_path / "out")
    coco = COCO(out / "annotations" / "instances_train.json")
    assert [(out / "images" / "train" / image["file_name"]).is_file() for image in coco.loadImgs(coco.getImgIds())] == [
        True
    ] * 2
    assert coco.loadCats([3, 8])[1]["name"] == "dog"
    for side, dataset in {"train": train, "val": val}.items():
        read = load_dataset(cfg, f"{out}:{side}")
        for new, old in zip(read.records, dataset.records, strict=True):
            np.testing.assert_equal(vars(new.instances[0]), vars(old.instances[0]))
        assert [record.image_id for record in read.records] == [record.image_id for record in dataset.records]
        assert {Path(record.source.name).parent for record in read.records} == {out / "images" / side}


@pytest.mark.parametrize("sides", [("",), ("train", "val")])
def test_images_that_are_not_copied_are_found_where_they_are(
    tmp_path: Path, make_dataset, cfg: CfgNode, sides: tuple[str, ...]
) -> None:
    dataset = make_dataset("deep/a.png", "b.png")
    out = write(dict.fromkeys(sides, dataset), tmp_path / "out", copies_images=False)
    assert not list(out.rglob("*.png"))
    read = load_dataset(cfg, f"{out}:{sides[0]}" if sides[0] else str(out))
    originals = [Path(record.source.name) for record in dataset.records]
    assert [Path(record.source.name).resolve() for record in read.records] == originals


def test_scores_are_written_in_the_field_of_result_files(tmp_path: Path, make_dataset) -> None:
    out = write({"": make_dataset("a.png", score=0.75)}, tmp_path / "out")
    (annotation,) = json.loads((out / "annotations.json").read_text())["annotations"]
    assert annotation["score"] == 0.75


def test_equal_ids_of_merged_datasets_are_counted_anew(tmp_path: Path, make_dataset, cfg: CfgNode) -> None:
    one, other = make_dataset("a.png"), make_dataset("a.png", folder="other")
    out = write({"": replace(one, records=one.records + other.records)}, tmp_path / "out")
    coco = COCO(out / "annotations.json")
    assert (coco.getImgIds(), coco.getAnnIds()) == ([1, 2], [1, 2])
    assert [coco.anns[number]["image_id"] for number in (1, 2)] == [1, 2]
    names = [Path(record.source.name).name for record in load_dataset(cfg, str(out)).records]
    assert len(set(names)) == 2


def test_images_without_labels_are_written_without_annotations(tmp_path: Path, make_dataset, cfg: CfgNode) -> None:
    dataset = make_dataset("a.png")
    records = tuple(replace(record, instances=()) for record in dataset.records)
    out = write({"": replace(dataset, records=records, is_labelled=False)}, tmp_path / "out")
    assert not load_dataset(cfg, str(out)).is_labelled


def with_mask(dataset: Dataset, *, hole: bool, is_crowd: bool = False) -> Dataset:
    mask = np.zeros((12, 16), dtype=bool)
    mask[2:9, 3:12] = True
    mask[4:6, 5:8] = not hole
    item = replace(SQUARE, segmentation=rle.encode(mask), box=(3.0, 2.0, 12.0, 9.0), area=None, is_crowd=is_crowd)
    return replace(dataset, records=(replace(dataset.records[0], instances=(item,)),))


def test_a_tolerance_makes_polygons_of_masks(tmp_path: Path, make_dataset) -> None:
    dataset = with_mask(make_dataset("a.png"), hole=False)
    out = write({"": dataset}, tmp_path / "out", tolerance=0.5)
    (annotation,) = json.loads((out / "annotations.json").read_text())["annotations"]
    (polygon,) = annotation["segmentation"]
    mask = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([polygon], 12, 16)))
    np.testing.assert_array_equal(mask, coco_mask.decode(dataset.records[0].instances[0].segmentation))


@pytest.mark.parametrize("fields", [{"hole": True}, {"hole": False, "is_crowd": True}], ids=["hole", "crowd"])
def test_masks_that_polygons_cannot_hold_stay_run_lengths(tmp_path: Path, make_dataset, fields: dict) -> None:
    dataset = with_mask(make_dataset("a.png"), **fields)
    out = write({"": dataset}, tmp_path / "out", tolerance=0.5)
    coco = COCO(out / "annotations.json")
    expected = coco_mask.decode(dataset.records[0].instances[0].segmentation)
    np.testing.assert_array_equal(coco.annToMask(coco.anns[5]), expected)
