"""Datasets named by paths: detection, sides, classes by name, the number of classes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.data import load_dataset, load_train_and_test
from mrcnn_zoo.data.classes import fit_num_classes
from mrcnn_zoo.errors import UserError


def _object(number: int, image: int, category: int) -> dict:
    square = [10, 10, 20, 10, 20, 20, 10, 20]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [10, 10, 10, 10],
        "segmentation": [square],
    }


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    """Ten images of five slides, with cars in all and a van in every second one."""
    images, annotations = [], []
    for number in range(1, 11):
        name = f"slide{number // 2}_{number}.png"
        Image.fromarray(np.full((24, 32, 3), 20 * number, dtype=np.uint8)).save(tmp_path / name)
        images.append({"id": number, "file_name": name, "height": 24, "width": 32})
        annotations += [_object(2 * number, number, 1), *([_object(2 * number + 1, number, 2)] * (number % 2))]
    categories = [{"id": 1, "name": "car"}, {"id": 2, "name": "van"}, {"id": 3, "name": "blurry"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "all.json").write_text(json.dumps(content))
    return tmp_path


def _config(*overrides: str) -> CfgNode:
    return load_config(None, ["MODEL.MASK_ON", "True", *overrides])


def _names(dataset) -> set[str]:
    return {Path(record.source.name).name for record in dataset.records}


def test_made_split_is_stratified_and_leaves_no_image_out(slides: Path) -> None:
    loaded = load_train_and_test(_config("DATASETS.TRAIN", f"[{slides}]"))
    (train,), (val,) = loaded.train, loaded.test
    assert (len(train), len(val)) == (8, 2)
    assert not _names(train) & _names(val)
    vans = [sum(item.class_index == 1 for record in part.records for item in record.instances) for part in (train, val)]
    assert vans == [4, 1]
    again = load_train_and_test(_config("DATASETS.TRAIN", f"[{slides}]", "SEED", "7"))
    assert _names(again.test[0]) == _names(val)


def test_made_val_side_of_a_train_side_is_not_trained_on(slides: Path) -> None:
    (slides / "all.json").rename(slides / "train.json")
    loaded = load_train_and_test(_config("DATASETS.TRAIN", f"[{slides}]"))
    assert (len(loaded.train[0]), len(loaded.test[0])) == (8, 2)
    assert not _names(loaded.train[0]) & _names(loaded.test[0])


def test_made_split_does_not_divide_groups(slides: Path) -> None:
    loaded = load_train_and_test(
        _config(
            "DATASETS.TRAIN",
            f"[{slides}]",
            "DATASETS.DEFAULTS.GROUP",
            r"(slide\d+)_",
            "DATASETS.DEFAULTS.VAL_FRACTION",
            "0.4",
        )
    )
    groups = [{name.split("_")[0] for name in _names(part)} for part in (loaded.train[0], loaded.test[0])]
    assert not groups[0] & groups[1]
    assert len(loaded.test[0]) == 4


def test_training_set_without_side_has_all_images_where_another_set_is_tested(slides: Path) -> None:
    loaded = load_train_and_test(_config("DATASETS.TRAIN", f"[{slides}]", "DATASETS.TEST", "[digits_val]"))
    assert len(loaded.train[0]) == 10


def test_carried_sides_are_used(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("roboflow")
    for side, last in (("train", 6), ("valid", 10)):
        content = json.loads((slides / "all.json").read_text())
        content["images"] = content["images"][last - 4 : last]
        content["annotations"] = [
            item for item in content["annotations"] if item["image_id"] in range(last - 3, last + 1)
        ]
        (root / side).mkdir()
        (root / side / "_annotations.coco.json").write_text(json.dumps(content))
        for image in content["images"]:
            shutil.copy(slides / image["file_name"], root / side)
    loaded = load_train_and_test(_config("DATASETS.TRAIN", f"[{root}]"))
    assert ([len(loaded.train[0]), len(loaded.test[0])], loaded.test[0].name) == ([4, 4], f"{root}:val")
    assert "slide5_10.png" in _names(loaded.test[0])
    assert "slide5_10.png" not in _names(loaded.train[0])


@pytest.mark.parametrize(
    ("classes", "names", "counts"),
    [
        ("{vehicle: [car, van]}", ("vehicle", "blurry"), [15, 0]),
        ("{car: [car, van], ignore: [blurry]}", ("car",), [15]),
        ("{lorry: van}", ("lorry", "car", "blurry"), [5, 10, 0]),
        ("{a: [blurry], b: [van]}", ("a", "b", "car"), [0, 5, 10]),
        ("[van]", ("van",), [5]),
        ("{ignore: [van]}", ("car", "blurry"), [10, 0]),
    ],
)
def test_classes_are_merged_renamed_and_left_out(slides: Path, classes: str, names: tuple, counts: list[int]) -> None:
    dataset = load_dataset(_config(f"DATASETS.DEFINITIONS.mine={{IMAGES: {slides}, CLASSES: {classes}}}"), "mine")
    found = [item.class_index for record in dataset.records for item in record.instances]
    assert (dataset.class_names, [found.count(index) for index in range(len(names))]) == (names, counts)
    assert dataset.category_ids == tuple(range(1, len(names) + 1))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("{a: [vam]}", r"names 'vam' under 'a', which the dataset lacks\. Did you mean 'van'"),
        ("{a: [van], b: [van]}", "names 'van' under 'a' and 'b'"),
        ("{ignore: [car, van, blurry]}", "leaves no class"),
        ("van", "must be a mapping"),
    ],
)
def test_invalid_classes_are_refused(slides: Path, classes: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_dataset(_config(f"DATASETS.DEFINITIONS.mine={{IMAGES: {slides}, CLASSES: {classes}}}"), "mine")


def test_classes_of_all_paths_are_a_default(slides: Path) -> None:
    dataset = load_dataset(_config("DATASETS.DEFAULTS.CLASSES={car: [car, van]}"), str(slides))
    assert dataset.class_names == ("car", "blurry")


def test_number_of_classes_comes_from_the_data_unless_it_is_set_as_close(slides: Path) -> None:
    quickstart = "Quickstart/mask_rcnn_R_18_FPN_digits.yaml"
    key = "MODEL.ROI_HEADS.NUM_CLASSES"
    for overrides, count in (([], 3), ([key, "5"], 5)):
        cfg = load_config(quickstart, ["DATASETS.TRAIN", f"[{slides}]", *overrides])
        assert fit_num_classes(cfg, 3, owner="cars").value_of(key) == count
    named = load_config(quickstart, ["DATASETS.TRAIN", "[shapes_train]"])
    assert fit_num_classes(named, 3, owner="shapes").value_of(key) == 10


def test_single_image_has_no_val_side(slides: Path) -> None:
    content = json.loads((slides / "all.json").read_text())
    content["images"] = content["images"][:1]
    (slides / "all.json").write_text(json.dumps(content))
    cfg = _config("DATASETS.TRAIN", f"[{slides}]")
    with pytest.raises(UserError, match=r"has no val side: VAL_FRACTION is 0\.2 of 1 image"):
        load_train_and_test(cfg)


def test_folder_of_images_error_names_the_folder_with_annotations(slides: Path) -> None:
    (slides / "annotations").mkdir()
    (slides / "all.json").rename(slides / "annotations" / "all.json")
    (slides / "photos").mkdir()
    for image in slides.glob("*.png"):
        image.rename(slides / "photos" / image.name)
    with pytest.raises(UserError, match=f"has no annotations, but {slides} has COCO JSON. Name that folder"):
        load_dataset(_config(), str(slides / "photos"))
