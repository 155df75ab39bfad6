"""Datasets by name."""

import json
import logging
import os
import shutil
from pathlib import Path

import pytest

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.catalog import KNOWN_DATASETS, dataset_names, load_dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registries import DATASET_FORMATS


@pytest.fixture(autouse=True)
def no_root(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without datasets."""
    monkeypatch.delenv("MRCNN_ZOO_DATASETS", raising=False)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))


def _as_coco_2017_val(path: Path) -> Path:
    """Move the files of `write_coco` into COCO's layout; returns the root."""
    root = path.parent / "root"
    (root / "coco" / "annotations").mkdir(parents=True)
    (root / "coco" / "val2017").mkdir()
    path.rename(root / "coco" / "annotations" / "instances_val2017.json")
    for image in path.parent.glob("*.png"):
        image.rename(root / "coco" / "val2017" / image.name)
    return root


@pytest.mark.parametrize("variable", ["MRCNN_ZOO_DATASETS", "DETECTRON2_DATASETS"])
def test_built_in_dataset_is_found_below_the_root(cfg, write_coco, annotation, monkeypatch, variable: str) -> None:
    monkeypatch.setenv(variable, str(_as_coco_2017_val(write_coco([annotation()]))))
    dataset = load_dataset(cfg, "coco_2017_val")
    assert (dataset.name, len(dataset), dataset.class_names) == ("coco_2017_val", 1, ("dog", "cat"))


def test_own_variable_precedes_that_of_detectron2(cfg, write_coco, annotation, monkeypatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", "/nowhere")
    monkeypatch.setenv("MRCNN_ZOO_DATASETS", str(_as_coco_2017_val(write_coco([annotation()]))))
    assert len(load_dataset(cfg, "coco_2017_val")) == 1


def test_root_is_datasets_by_default(cfg, write_coco, annotation) -> None:
    os.rename(_as_coco_2017_val(write_coco([annotation()])), "datasets")
    assert len(load_dataset(cfg, "coco_2017_val")) == 1


def test_missing_folder_error_names_the_candidates_and_the_variable(cfg, monkeypatch) -> None:
    monkeypatch.setenv("MRCNN_ZOO_DATASETS", "/my/data")
    with pytest.raises(UserError, match=r"/my/data/coco/train2017\. Set the environment variable MRCNN_ZOO_DATASETS"):
        load_dataset(cfg, "coco_2017_train")


def test_unknown_name_error_suggests_and_lists_names(cfg) -> None:
    cfg.DATASETS.DEFINITIONS = CfgNode({"my_cells": {"FORMAT": "coco", "IMAGES": "x"}})
    with pytest.raises(UserError, match=r"Did you mean 'coco_2017_train'.*dsb2018_val.*my_cells"):
        load_dataset(cfg, "coco_2017_trian")


def test_folder_is_named_in_the_config(cfg, write_coco, annotation) -> None:
    path = write_coco([annotation()])
    definition = {"FORMAT": "coco", "IMAGES": str(path.parent), "ANNOTATIONS": str(path)}
    cfg.DATASETS.DEFINITIONS = CfgNode({"cells": definition})
    dataset = load_dataset(cfg, "cells")
    assert (dataset.name, dataset.annotation_file) == ("cells", str(path))


def test_relative_paths_are_below_the_current_folder_or_the_root(cfg, write_coco, annotation, monkeypatch) -> None:
    path = write_coco([annotation()])
    definition = {"FORMAT": "coco", "IMAGES": path.parent.name, "ANNOTATIONS": f"{path.parent.name}/annotations.json"}
    cfg.DATASETS.DEFINITIONS = CfgNode({"cells": definition})
    monkeypatch.setenv("MRCNN_ZOO_DATASETS", str(path.parent.parent))
    assert len(load_dataset(cfg, "cells")) == 1
    monkeypatch.delenv("MRCNN_ZOO_DATASETS")
    monkeypatch.chdir(path.parent.parent)
    assert len(load_dataset(cfg, "cells")) == 1


def test_folder_with_one_json_needs_no_definition(cfg, write_coco, annotation) -> None:
    path = write_coco([annotation()])
    assert load_dataset(cfg, str(path.parent)).annotation_file == str(path)


def test_images_may_be_in_a_separate_folder(cfg, write_coco, annotation) -> None:
    path = write_coco([annotation()])
    (path.parent / "images").mkdir()
    (path.parent / "001.png").rename(path.parent / "images" / "001.png")
    assert load_dataset(cfg, str(path.parent)).records[0].source.read().shape == (40, 60, 3)


def test_roboflow_folder_needs_no_definition(cfg, write_coco, annotation) -> None:
    path = write_coco([annotation()])
    (path.parent / "other.json").write_text("{}")
    path.rename(path.parent / "_annotations.coco.json")
    assert len(load_dataset(cfg, str(path.parent))) == 1


def test_folder_of_a_coco_split_needs_no_definition(cfg, write_coco, annotation) -> None:
    root = _as_coco_2017_val(write_coco([annotation()]))
    assert len(load_dataset(cfg, str(root / "coco" / "val2017"))) == 1


def test_folder_of_several_sides_has_one_dataset_per_side(cfg, write_coco, annotation) -> None:
    root = _as_coco_2017_val(write_coco([annotation()])) / "coco"
    shutil.copytree(root / "val2017", root / "train2017")
    shutil.copy(root / "annotations/instances_val2017.json", root / "annotations/instances_train2017.json")
    sides = {side: load_dataset(cfg, f"{root}:{side}").records for side in ("train", "val", "all")}
    names = [Path(records[0].source.name).parent.name for records in sides.values()]
    assert (names, [len(records) for records in sides.values()]) == (["train2017", "val2017", "train2017"], [1, 1, 2])
    assert [record.image_id for record in sides["all"]] == [1, 2]
    with pytest.raises(UserError, match="has no side 'test': its files have train, val"):
        load_dataset(cfg, f"{root}:test")


def test_folder_without_annotations_error_lists_what_was_looked_for(cfg, tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(UserError, match=r"it has 1 x \.png\. Looked for:(.|\n)*coco: a \.json file with 'images'"):
        load_dataset(cfg, str(tmp_path))


def test_folder_with_several_coco_files_is_refused(cfg, write_coco, annotation) -> None:
    path = write_coco([annotation()])
    shutil.copy(path, path.parent / "more.json")
    with pytest.raises(UserError, match=r"several COCO files \(.*annotations.json, .*more.json\); name the one"):
        load_dataset(cfg, str(path.parent))


def test_json_files_of_other_content_are_not_read(cfg, write_coco, annotation) -> None:
    path = write_coco([annotation()])
    (path.parent / "more.json").write_text('{"licenses": [], "images": [1]}')
    assert len(load_dataset(cfg, str(path.parent))) == 1


def test_missing_path_is_refused(cfg) -> None:
    with pytest.raises(UserError, match=r"there is no such folder, searched .*/elsewhere.*/no/such"):
        load_dataset(cfg, "no/such")


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ({"IMAGES": "x"}, r"dataset 'cells': the image folder \(IMAGES\) is missing, searched .*/x"),
        ({"FORMAT": "coco", "IMAGES": "x", "SPLIT": "fold"}, "SPLIT = 'fold' is not one of auto, train"),
        ({"FORMAT": "cocco", "IMAGES": "x"}, "DATASETS.DEFINITIONS.cells.FORMAT = 'cocco' .*Did you mean 'coco'"),
        ({"FORMAT": "coco"}, "needs the field IMAGES"),
        ({"FORMAT": "coco", "IMAGE": "x"}, "has no field 'IMAGE'.*Did you mean 'IMAGES'"),
        ({"FORMAT": "coco", "IMAGES": "x", "ANNOTATIONS": 3}, "ANNOTATIONS = 3 must be of type str"),
        ("coco", "must be a mapping"),
    ],
)
def test_invalid_definition_is_named(cfg, definition: object, message: str) -> None:
    cfg.DATASETS.DEFINITIONS = CfgNode({"cells": definition})
    with pytest.raises(UserError, match=message):
        load_dataset(cfg, "cells")


def test_one_line_has_format_counts_and_notes(cfg, write_coco, annotation, caplog: pytest.LogCaptureFixture) -> None:
    path = write_coco([annotation(1, bbox=[1, 1, -1, 1]), annotation(2, bbox=[1, 1, -1, 1])])
    with caplog.at_level(logging.INFO):
        load_dataset(cfg, str(path.parent))
    note = "boxes that are NaN, infinite or not above 0 in size taken from the mask: 2"
    assert [record.getMessage() for record in caplog.records] == [
        f"{path.parent}: COCO JSON (annotations.json): 1 image, 2 objects, 2 classes (dog, cat); left out or changed: "
        f"{note}",
        f"{path.parent}: {note} (first: annotation 1)",
    ]


def test_custom_format_is_selected_by_its_module(cfg, write_coco, annotation, monkeypatch) -> None:
    path = write_coco([annotation()])
    module = path.parent / "my_format.py"
    module.write_text(
        "from mrcnn_zoo.data.records import Dataset\n"
        "def build(cfg, name, definition):\n"
        "    return Dataset(name, (), (definition['NAME'],), (1,))\n"
    )
    monkeypatch.syspath_prepend(str(path.parent))
    cfg.DATASETS.DEFINITIONS = CfgNode({"mine": {"FORMAT": "my_format:build", "NAME": "frog"}})
    assert load_dataset(cfg, "mine").class_names == ("frog",)


def test_every_known_dataset_has_a_registered_format(cfg) -> None:
    assert {definition["FORMAT"] for definition in KNOWN_DATASETS.values()} <= set(DATASET_FORMATS.names())
    assert {"coco_2017_train", "keypoints_coco_2017_val", "dsb2018_val", "digits_train"} <= set(dataset_names(cfg))


@pytest.mark.parametrize("name", ["digits_val", "shapes_train"])
def test_synthetic_datasets_need_no_files(cfg, name: str) -> None:
    cfg.DATASETS.SCENES.NUM_TRAIN = cfg.DATASETS.SCENES.NUM_VAL = 3
    assert len(load_dataset(cfg, name)) == 3


def test_real_split_is_deterministic_and_disjoint(cfg, shared_dir: Path, monkeypatch, tmp_path: Path) -> None:
    root = shared_dir / "data" / "dsb2018"
    few = tmp_path / "dsb2018" / "stage1_train"
    few.mkdir(parents=True)
    for path in sorted((root / "stage1_train").iterdir())[::12]:
        (few / path.name).symlink_to(path)
    monkeypatch.setenv("MRCNN_ZOO_DATASETS", str(tmp_path))
    monkeypatch.setenv("MRCNN_ZOO_CACHE", str(tmp_path / "cache"))
    train, val, again = (load_dataset(cfg, name) for name in ("dsb2018_train", "dsb2018_val", "dsb2018_val"))
    files = [{record.source.name for record in dataset.records} for dataset in (train, val)]
    assert (len(train), len(val)) == (33, 8)
    assert not files[0] & files[1]
    assert again == val


def test_empty_json_object_is_refused(cfg, tmp_path: Path) -> None:
    (tmp_path / "annotations.json").write_text(json.dumps({}))
    cfg.DATASETS.DEFAULTS.FORMAT = "coco"
    with pytest.raises(UserError, match="has no 'images', it has nothing"):
        load_dataset(cfg, str(tmp_path / "annotations.json"))
