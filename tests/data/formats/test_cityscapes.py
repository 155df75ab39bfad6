"""Cityscapes' polygons and instance ids: occlusion, crowds, classes, layout, bad input, and what is written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mrcnn_zoo.data.formats.cityscapes_polygons import draw, outlines_of_labels
from mrcnn_zoo.errors import UserError
from support.annotation_files import example_dataset, masks_of, read_dataset, ring, save_image, write_dataset

CITYSCAPES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
SCENE = "aachen_000000_000019"


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache for this test."""
    monkeypatch.setenv("MRCNN_ZOO_CACHE", str(tmp_path / "cache"))


def _square(label: str, x1: int, y1: int, x2: int, y2: int, **fields: Any) -> dict[str, Any]:
    return {"label": label, "polygon": [[x1, y1], [x2, y1], [x2, y2], [x1, y2]], **fields}


def _write(root: Path, objects: Any, *, side: str = "train", scene: str = SCENE, kind: str = "gtFine") -> Path:
    save_image(root / "leftImg8bit" / side / "aachen" / f"{scene}_leftImg8bit.png")
    path = root / kind / side / "aachen" / f"{scene}_{kind}_polygons.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"imgHeight": 40, "imgWidth": 60, "objects": objects}))
    return path


def _read(root: Path) -> Any:
    return read_dataset(root, format_name="cityscapes")


def test_later_polygons_cover_earlier_ones_and_stuff_is_no_object(tmp_path: Path) -> None:
    objects = [
        _square("road", 0, 0, 59, 39),
        _square("car", 2, 2, 11, 11),  # 10 x 10 pixels with those on the outline
        _square("person", 8, 2, 9, 20),
        _square("pole", 4, 0, 4, 39),
        _square("license plate", 2, 2, 3, 3),  # is not drawn
        _square("truck", 30, 5, 40, 15, deleted=1),
    ]
    _write(tmp_path / "data", objects)
    dataset = _read(tmp_path / "data")
    car, person = dataset.records[0].instances
    assert (dataset.class_names, dataset.records[0].split) == (CITYSCAPES, "train")
    assert (car.class_index, person.class_index, car.is_crowd) == (2, 0, False)
    assert [mask.sum() for mask in masks_of(dataset.records[0])] == [100 - 20 - 10, 2 * 19]
    assert person.box == (8, 2, 10, 21)


def test_labels_of_groups_are_crowds_and_hidden_objects_are_counted(tmp_path: Path) -> None:
    objects = [_square("bus", 20, 20, 22, 22), _square("cargroup", 15, 15, 30, 30), _square("car", 1, 1, 5, 5)]
    objects.append({"label": "car", "polygon": [[1, 2], [3, 4]]})
    _write(tmp_path / "data", objects)
    dataset = _read(tmp_path / "data")
    assert [(item.class_index, item.is_crowd) for item in dataset.records[0].instances] == [(2, True), (2, False)]
    assert "hidden, or polygons of fewer than 3 points, left out: 2" in dataset.notes[0]


def test_instance_ids_are_preferred_to_polygons(tmp_path: Path) -> None:
    path = _write(tmp_path / "data", [_square("car", 2, 2, 11, 11)])
    ids = np.zeros((40, 60), dtype=np.uint16)
    ids[0:4, 0:4], ids[10:12, 10:13], ids[20:22, 0:60], ids[30:35, 5:9], ids[36:, :] = 26000, 24003, 7, 33, 29001
    Image.fromarray(ids).save(path.with_name(path.name.replace("polygons.json", "instanceIds.png")))
    dataset = _read(tmp_path / "data")
    found = [(dataset.class_names[item.class_index], item.is_crowd, item.area) for item in dataset.records[0].instances]
    assert found == [("bicycle", True, 20), ("person", False, 6), ("car", False, 16)]  # no road (7), no caravan (29)


def test_labels_of_other_datasets_are_classes(tmp_path: Path) -> None:
    _write(
        tmp_path / "data",
        [_square("wall", 0, 0, 3, 3), _square("roof", 5, 5, 9, 9), _square("roofgroup", 20, 5, 29, 9)],
    )
    dataset = _read(tmp_path / "data")
    assert dataset.class_names == ("roof", "wall")
    assert [(item.class_index, item.is_crowd) for item in dataset.records[0].instances] == [
        (1, False),
        (0, False),
        (0, True),
    ]


def test_sides_are_folders_and_coarse_files_are_left_out_beside_fine_ones(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for side, scene in (("train", "a_000000_000001"), ("val", "b_000000_000002")):
        _write(root, [_square("car", 2, 2, 11, 11)], side=side, scene=scene)
        _write(root, [_square("car", 0, 0, 30, 30)], side=side, scene=scene, kind="gtCoarse")
    save_image(root / "leftImg8bit/test/aachen/c_000000_000003_leftImg8bit.png")
    dataset = _read(root)
    assert [(record.split, record.instances[0].area) for record in dataset.records] == [("train", 100), ("val", 100)]
    assert "images without an annotation file left out: 1" in dataset.notes[0]
    assert len(_read(root / "gtFine")) == 2  # leftImg8bit is beside it


def test_labelme_and_cityscapes_files_are_told_apart(tmp_path: Path) -> None:
    path = _write(tmp_path / "data", [_square("car", 2, 2, 11, 11)])
    assert len(read_dataset(path, format_name="cityscapes")) == 1
    shape = {"label": "car", "points": [[2, 2], [9, 2], [9, 9]], "shape_type": "polygon"}
    image = {"imagePath": "a.png", "imageData": None, "imageHeight": 40, "imageWidth": 60}
    save_image(tmp_path / "other/a.png")
    (tmp_path / "other/a_gtFine_polygons.json").write_text(json.dumps({"version": "5.0", "shapes": [shape], **image}))
    assert len(read_dataset(tmp_path / "other", format_name="labelme")) == 1


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        ([{"polygon": [[1, 2]]}], r"polygons\.json: objects\[0\] has the label None"),
        (
            [{"label": "car", "polygon": [[1, 2], [3]]}],
            r"objects\[0\] has the polygon .*, which must be a list of points",
        ),
        ([{"label": "car", "polygon": [[1, 2], ["x", 3]]}], r"objects\[0\] has the polygon"),
    ],
)
def test_wrong_object_error_names_file_and_field(tmp_path: Path, objects: Any, words: str) -> None:
    _write(tmp_path / "data", objects)
    with pytest.raises(UserError, match=words):
        _read(tmp_path / "data")


def test_missing_image_and_other_size_are_errors(tmp_path: Path) -> None:
    _write(tmp_path / "data", [_square("car", 2, 2, 11, 11)])
    image = tmp_path / "data/leftImg8bit/train/aachen" / f"{SCENE}_leftImg8bit.png"
    save_image(image, (20, 30))
    with pytest.raises(UserError, match=r"polygons\.json is of an image of 60 x 40 pixels .* has 30 x 20"):
        _read(tmp_path / "data")
    image.unlink()
    with pytest.raises(UserError, match=rf"{SCENE}_leftImg8bit\.png \(gtFine/train/aachen"):
        _read(tmp_path / "data")


def _drawn_again(labels: np.ndarray) -> np.ndarray:
    return draw([(number, outline.tolist()) for number, outline in outlines_of_labels(labels)], labels.shape)


def test_drawn_outlines_of_labels_are_the_labels_again() -> None:
    random = np.random.default_rng(0)
    for number in range(12):
        labels = random.integers(0, 4, random.integers(2, 16, 2)).astype(np.int32)
        if number % 2:
            labels = labels.repeat(3, axis=0).repeat(3, axis=1)
        assert (_drawn_again(labels) == labels).all()


def test_objects_in_holes_of_others_are_drawn_after_them() -> None:
    labels = np.zeros((20, 30), dtype=np.int32)
    for margin, number in ((1, 2), (3, 0), (4, 1), (5, 2), (7, 1)):
        labels[margin:-margin, margin:-margin] = number
    assert (_drawn_again(labels) == labels).all()


def test_written_instance_ids_are_read_back_equal(tmp_path: Path) -> None:
    dataset = example_dataset(tmp_path / "photos")
    names = ("car", "person")
    parts = {"train": type(dataset)(**{**vars(dataset), "class_names": names})}
    writer = write_dataset("cityscapes", parts, tmp_path / "out")
    again = _read(tmp_path / "out")
    found = {again.class_names[item.class_index]: mask for item, mask in _objects(again.records[0])}
    assert [name for name, _ in _named(again)] == ["person", "person", "car"]  # in the order of the instance ids
    assert (found["car"] == masks_of(dataset.records[0])[1]).all()
    assert [note.split(":")[0] for note in writer.lost.notes()] == ["scores left out"]
    assert (tmp_path / "out/leftImg8bit/train/images/second_leftImg8bit.png").is_file()


def test_written_polygons_of_other_classes_keep_holes(tmp_path: Path) -> None:
    dataset = example_dataset(tmp_path / "photos")
    writer = write_dataset("cityscapes", {"": dataset}, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*instanceIds*"))
    again = _read(tmp_path / "out")
    assert (again.class_names, again.records[0].split) == (("cat", "dog"), "")
    masks = masks_of(again.records[0])
    assert any(mask.shape == ring().shape and (mask == ring()).all() for mask in masks)
    assert len(masks) == 4  # the two squares of one object are two
    assert "several parts written as an object per part: 1" in " ".join(writer.lost.notes())


def _objects(record: Any) -> Any:
    return zip(record.instances, masks_of(record), strict=True)


def _named(dataset: Any) -> list[tuple[str, Any]]:
    return [(dataset.class_names[item.class_index], mask) for item, mask in _objects(dataset.records[0])]
