"""Files of boxes: their structures, and the assignment to images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrcnn_zoo.data.given_boxes import GivenBoxes, read_given_boxes
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.structures import UNKNOWN_CLASS

DATA_SET: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "left/a.jpg", "width": 50, "height": 40},
        {"id": 3, "file_name": "right/a.jpg", "width": 20, "height": 10},
        {"id": 5, "file_name": "b.jpg", "width": 20, "height": 10},
    ],
    "annotations": [
        {"id": 11, "image_id": 3, "bbox": [1, 2, 3, 4], "category_id": 2},
        {"id": 12, "image_id": 7, "bbox": [5, 6, 7, 8], "category_id": 9},
        {"id": 13, "image_id": 3, "bbox": [0, 0, 9.5, 1], "category_id": 2, "iscrowd": 1},
        {"image_id": 3, "bbox": ["2", 2, 0, 0]},
    ],
    "categories": [{"id": 9, "name": "cat"}, {"id": 2, "name": " dog"}],
}
RESULTS = [
    {"image_id": 139, "bbox": [1, 2, 3, 4], "category_id": 2, "score": 0.5},
    {"image_id": 802, "bbox": [0, 0, 1, 1]},
    {"image_id": 139, "bbox": [5, 6, 7, 8], "category_id": None},
]


def written(content: Any, folder: Path) -> Path:
    path = folder / "boxes.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def read(content: Any, folder: Path) -> GivenBoxes:
    return read_given_boxes(written(content, folder))


def test_boxes_of_a_dataset_keep_their_order_without_crowds(tmp_path: Path) -> None:
    given = read(DATA_SET, tmp_path)
    table = given.find("somewhere/right/a.jpg")
    assert table is not None
    assert (table.image_id, table.image_size) == (3, (10, 20))
    assert table.boxes.tolist() == [[1, 2, 4, 6], [2, 2, 2, 2]]
    assert table.ids == (11, None)
    assert table.category_ids == (2, None)
    assert given.notes == (f"{given.path}: 1 crowd left out",)
    empty = given.find("b.jpg")
    assert empty is not None
    assert empty.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("name", "image_id"),
    [("left/a.jpg", 7), ("/data/left/a.jpg", 7), ("C:\\data\\right\\a.jpg", 3), ("b.jpg", 5), ("c.jpg", None)],
)
def test_images_of_a_dataset_are_found_by_file_name(name: str, image_id: int | None, tmp_path: Path) -> None:
    table = read(DATA_SET, tmp_path).find(name)
    assert (None if table is None else table.image_id) == image_id


def test_ambiguous_file_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"left/a\.jpg, right/a\.jpg may each be a\.jpg\. Give the images with their"):
        read(DATA_SET, tmp_path).find("a.jpg")


def test_images_with_unknown_names_are_found_by_id(tmp_path: Path) -> None:
    given = read(DATA_SET, tmp_path)
    found = given.find("digits_val/1", 5)
    assert found is not None
    assert found.file_name == "b.jpg"
    assert given.find("digits_val/1", 1) is None
    assert given.find("5.jpg") is None  # 5 is called b.jpg


@pytest.mark.parametrize("name", ["139.png", "000000000139.jpg", "val/COCO_val2014_000000000139.jpg"])
def test_images_of_a_results_list_are_found_by_the_number_in_their_name(name: str, tmp_path: Path) -> None:
    given = read(RESULTS, tmp_path)
    assert given.is_list
    table = given.find(name)
    assert table is not None
    assert table.boxes.tolist() == [[1, 2, 4, 6], [5, 6, 12, 14]]
    assert table.category_ids == (2, None)
    assert table.image_size is None
    assert given.find("140.png") is None
    assert given.find("x.png", 802) is not None


def test_ids_may_be_text(tmp_path: Path) -> None:
    given = read([{"image_id": "cell_a", "bbox": [1, 2, 3, 4]}], tmp_path)
    assert given.find("images/cell_a.png") is not None


def test_categories_are_matched_by_name_or_else_by_id(tmp_path: Path) -> None:
    given = read(DATA_SET, tmp_path)
    by_name = given.class_of_id(("dog", "cow", "cat"), (1, 2, 3))
    assert by_name == {2: 0, 9: 2}
    table = given.find("right/a.jpg")
    assert table is not None
    assert table.classes(by_name).tolist() == [0, UNKNOWN_CLASS]
    assert given.class_of_id((), (9, 2)) == {2: 1, 9: 0}  # the model has no class names
    results = read(RESULTS, tmp_path)
    assert results.class_of_id(("dog", "cow"), (4, 2)) == {2: 1}


def test_unknown_category_is_refused_with_the_classes_of_the_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"category_id 9 \('cat'\) is none of the model's 2 classes: dog, cow\. Rename"):
        read(DATA_SET, tmp_path).class_of_id(("dog", "cow"), (1, 2))
    with pytest.raises(UserError, match=r"category_id 2 is none of the model's 1 class: 5\."):
        read(RESULTS, tmp_path).class_of_id(("dog",), (5,))
    given = read(DATA_SET, tmp_path)
    table = given.find("right/a.jpg")
    assert table is not None
    assert given.class_of_id(("dog", "cow"), (1, 2), images=[table]) == {2: 0}  # the cat is in another image


def test_boxes_for_another_image_size_are_refused(tmp_path: Path) -> None:
    table = read(DATA_SET, tmp_path).find("left/a.jpg")
    assert table is not None
    table.check_size((40, 50), image="a.jpg", source=tmp_path)
    with pytest.raises(UserError, match=r"left/a\.jpg are for an image of 50 x 40 pixels, and a\.jpg has 100 x 80"):
        table.check_size((80, 100), image="a.jpg", source=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ({"boxes": []}, "has no boxes that can be read: it should be a COCO dataset.*it is an object with boxes"),
        ("3", "has no boxes that can be read.*it is a number or a text"),
        ({}, "it is an empty object"),
        ([3], "'annotations' is not a list of objects"),
        ([{"bbox": [1, 2, 3, 4]}], "box number 0 has no 'image_id'"),
        ([{"image_id": 1}], "box number 0 has no 'bbox'; it should be four numbers"),
        ([{"image_id": 1, "bbox": [1, 2, 3]}], r"has the bbox \[1, 2, 3\]"),
        ([{"image_id": 1, "bbox": [1, 2, -3, 4]}], r"has the bbox \[1, 2, -3, 4\]"),
        ('[{"image_id": 1, "bbox": [1, 2, NaN, 4]}]', "it should be four numbers"),
        ([{"image_id": 1, "bbox": [1, 2, 3, 4], "category_id": "x"}], "has the category_id 'x'"),
        ({**DATA_SET, "images": DATA_SET["images"][:1]}, "annotation 11 is of the image 3, which is not among"),
        ({**DATA_SET, "images": DATA_SET["images"] * 2}, "two images have the id 7"),
        ({**DATA_SET, "categories": [{"id": 1}]}, "each element of 'categories' needs an 'id'"),
    ],
)
def test_other_content_is_refused_by_name(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"boxes.json.*{message}"):
        read(content, tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.json: there is no such file"):
        read_given_boxes(tmp_path / "nowhere.json")


def test_lists_without_boxes_are_read(tmp_path: Path) -> None:
    assert read([], tmp_path).images == ()
    assert np.array_equal(read({"images": [], "annotations": []}, tmp_path).images, ())
