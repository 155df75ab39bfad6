"""Numbers and masks in other forms than COCO's: read if they are unambiguous."""

import json
from pathlib import Path

import pytest

from mrcnn_zoo.data.formats.coco import load_coco
from mrcnn_zoo.errors import UserError

NAN = float("nan")
SQUARE = [10, 10, 20, 10, 20, 20, 10, 20]
CATEGORIES = [{"id": 7, "name": "person", "keypoints": ["left_a", "right_a"]}]


def _load(path: Path, **needs: bool):
    return load_coco("test", path.parent, path, **needs)


def _only_item(path: Path, **needs: bool):
    dataset = _load(path, **needs)
    return dataset.records[0].instances[0], dataset.notes


@pytest.mark.parametrize(
    ("value", "is_crowd", "is_noted"),
    [
        (0, False, False),
        (1, True, False),
        (0.0, False, False),
        (1.0, True, False),
        (False, False, False),
        (True, True, False),
        ("0", False, True),
        ("1", True, True),
        ("0.0", False, True),
        ("false", False, True),
        ("True", True, True),
        (None, False, True),
        ("", False, True),
        (-1, False, True),
    ],
)
def test_iscrowd_is_read_from_any_form(write_coco, annotation, value: object, is_crowd: bool, is_noted: bool) -> None:
    item, notes = _only_item(write_coco([annotation(5, iscrowd=value)]))
    assert item.is_crowd is is_crowd
    assert [note.startswith("iscrowd values ") for note in notes] == [True] * is_noted


def test_missing_iscrowd_is_false(write_coco, annotation) -> None:
    entry = annotation(5)
    del entry["iscrowd"]
    item, notes = _only_item(write_coco([entry]))
    assert (item.is_crowd, notes) == (False, ())


@pytest.mark.parametrize("value", [2, 0.5, "yes", "maybe", [0], {}, NAN, -2])
def test_invalid_iscrowd_is_refused(write_coco, annotation, value: object) -> None:
    path = write_coco([annotation(4), annotation(5, iscrowd=value)])
    with pytest.raises(UserError, match=r"annotation 5 has iscrowd .* which must be 0 or 1"):
        _load(path)


@pytest.mark.parametrize("value", [0, -1, -5.5, NAN, float("inf"), "large", 2401, [100], True, 10**400])
def test_invalid_area_is_computed_from_the_mask(write_coco, annotation, value: object) -> None:
    item, notes = _only_item(write_coco([annotation(5, area=value)]))
    assert item.area is None
    assert notes[0].startswith("areas that are not above 0, or larger than the image, computed from mask or box")


@pytest.mark.parametrize("value", [None, ""])
def test_absent_area_is_computed(write_coco, annotation, value: object) -> None:
    item, notes = _only_item(write_coco([annotation(5, area=value)]))
    assert item.area is None
    assert notes == ("areas that are absent computed from mask or box: 1 (first: annotation 5)",)


@pytest.mark.parametrize(("value", "area"), [(3, 3), (0.5, 0.5), ("12.5", 12.5), (2400, 2400)])
def test_area_of_the_file_is_kept(write_coco, annotation, value: object, area: float) -> None:
    item, _ = _only_item(write_coco([annotation(5, area=value, iscrowd=1)]))
    assert item.area == area


def test_numbers_written_as_text_are_the_same_numbers(write_coco, annotation) -> None:
    plain = annotation(5, keypoints=[12, 13, 2, 0, 0, 0])
    text = {
        **{name: str(plain[name]) for name in ("id", "image_id", "category_id", "area", "iscrowd")},
        "bbox": ["10", "10.0", " 10", "1e1"],
        "segmentation": [[str(number) for number in SQUARE]],
        "keypoints": ["12", "13", "2", "0", "0", "0"],
    }
    images = [{"id": "1", "file_name": "001.png", "height": "40", "width": "60.0"}]
    expected = _load(write_coco([plain], categories=CATEGORIES))
    dataset = _load(write_coco([text], images=images, categories=[{**CATEGORIES[0], "id": "7"}]))
    for ours, theirs in ((dataset, expected),):
        item, other = ours.records[0].instances[0], theirs.records[0].instances[0]
        assert item.segmentation[0].tolist() == other.segmentation[0].tolist()
        assert (item.box, item.area, item.keypoints) == (other.box, other.area, other.keypoints)
        assert (item.annotation_id, item.class_index, item.is_crowd) == (5, 0, False)
        assert (ours.records[0].image_id, ours.records[0].image_size) == (1, (40, 60))
        assert ours.category_ids == theirs.category_ids
    assert len(dataset.notes) >= 8
    assert all("text" in note and "first:" in note for note in dataset.notes)


def test_lists_written_as_text_are_read(write_coco, annotation) -> None:
    entry = annotation(5, bbox="[10, 10, 10, 10]", segmentation=json.dumps([SQUARE]), keypoints="[12, 13, 2, 0, 0, 0]")
    item, notes = _only_item(write_coco([entry], categories=CATEGORIES))
    assert item.box == (10, 10, 20, 20)
    assert item.segmentation[0].tolist() == SQUARE
    assert item.keypoints[:3] == (12.5, 13.5, 2)
    assert len(notes) == 2


@pytest.mark.parametrize("value", ["1", "1.0", "001", "001.png", "images/001.png", 1.0])
def test_image_ids_are_resolved_from_any_form(write_coco, annotation, value: object) -> None:
    images = [
        {"id": 1, "file_name": "001.png", "height": 40, "width": 60},
        {"id": 2, "file_name": "002.png", "height": 40, "width": 60},
    ]
    path = write_coco([annotation(5, image_id=value)], num_images=2, images=images)
    if value == "images/001.png":
        with pytest.raises(
            UserError, match=r"annotation 5, has image_id 'images/001.png'; the images have the ids 1, 2"
        ):
            _load(path)
    else:
        assert len(_load(path).records[0].instances) == 1


@pytest.mark.parametrize("value", [True, [1], {}])
def test_malformed_image_id_is_refused(write_coco, annotation, value: object) -> None:
    with pytest.raises(UserError, match=r"annotation 5 has image_id"):
        _load(write_coco([annotation(5, image_id=value)]))


def test_category_name_replaces_its_id(write_coco, annotation) -> None:
    item, notes = _only_item(write_coco([annotation(5, category_id="cat")]))
    assert item.class_index == 1
    assert notes == ("category_id values that are names taken for the category: 1 (first: annotation 5: 'cat')",)


@pytest.mark.parametrize("value", [0, -1, None, "", "bird", True, [7]])
def test_category_that_is_not_listed_is_refused(write_coco, annotation, value: object) -> None:
    with pytest.raises(UserError, match=r"annotation 5 has category_id .* does not list: 3 .dog., 7 .cat."):
        _load(write_coco([annotation(5, category_id=value)]))


@pytest.mark.parametrize("ids", [(0, 0), (-1, -1), (None, None), ("", "")])
def test_annotations_without_ids_are_numbered(write_coco, annotation, ids: tuple) -> None:
    dataset = _load(write_coco([annotation(ids[0]), annotation(4), annotation(ids[1])]))
    assert [item.annotation_id for item in dataset.records[0].instances] == [5, 4, 6]
    assert dataset.notes == ("annotations without an id of their own numbered anew: 2 (first: annotation number 0)",)


def test_single_id_of_0_is_kept(write_coco, annotation) -> None:
    dataset = _load(write_coco([annotation(0), annotation(1)]))
    assert [item.annotation_id for item in dataset.records[0].instances] == [0, 1]
    assert dataset.notes == ()


@pytest.mark.parametrize("size", [(0, 0), (None, None), (-1, 60), ("", "")])
def test_missing_size_is_read_from_the_image_file(write_coco, annotation, size: tuple) -> None:
    images = [{"id": 1, "file_name": "001.png", "height": size[0], "width": size[1]}]
    dataset = _load(write_coco([annotation()], images=images))
    assert dataset.records[0].image_size == (40, 60)
    assert dataset.notes == ("images without height or width measured in the image file: 1 (first: image 1)",)


# --- masks ------------------------------------------------------------------------------------------------------------

PAIRS = [[10, 10], [20, 10], [20, 20], [10, 20]]
OBJECTS = [{"x": x, "y": y} for x, y in PAIRS]


@pytest.mark.parametrize("value", [PAIRS, [PAIRS], OBJECTS, [OBJECTS], [SQUARE], SQUARE, json.dumps([PAIRS])])
def test_points_in_any_form_are_the_same_polygon(write_coco, annotation, value: object) -> None:
    item, notes = _only_item(write_coco([annotation(5, segmentation=value)]))
    assert [polygon.tolist() for polygon in item.segmentation] == [SQUARE]
    assert len(notes) == (value not in ([SQUARE], SQUARE))


def test_odd_number_of_coordinates_is_noted(write_coco, annotation) -> None:
    item, notes = _only_item(write_coco([annotation(5, segmentation=[[*SQUARE, 7.0]])]))
    assert [polygon.tolist() for polygon in item.segmentation] == [SQUARE]  # as pycocotools reads it
    assert notes == (
        "polygons with an odd number of coordinates read without the last one: 1 (first: annotation 5: 9 numbers)",
    )


def test_run_lengths_in_a_list_are_united(write_coco, annotation) -> None:
    parts = [{"size": [40, 60], "counts": [first, 10, 2390 - first]} for first in (410, 450)]
    item, _ = _only_item(write_coco([annotation(5, segmentation=parts, bbox=[10, 10, 2, 10])]))
    whole, _ = _only_item(
        write_coco(
            [
                annotation(
                    5, segmentation={"size": ["40", "60"], "counts": ["410", 10, 30, 10, 1940]}, bbox=[10, 10, 2, 10]
                )
            ]
        )
    )
    assert item.segmentation == whole.segmentation


def test_run_lengths_written_as_bytes_are_read(write_coco, annotation) -> None:
    good, _ = _only_item(write_coco([annotation(5, segmentation={"size": [40, 60], "counts": [410, 10, 1980]})]))
    counts = good.segmentation["counts"]
    item, notes = _only_item(
        write_coco([annotation(5, segmentation={"size": [40, 60], "counts": f"b'{counts}'"}, bbox=[10, 10, 1, 10])])
    )
    assert item.segmentation["counts"] == counts
    assert notes == ("run lengths written as b'...' read: 1 (first: annotation 5)",)


# --- what a model does not use ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        [],
        [[]],
        [[], []],
        [[10, 10, 10, 10]],
        [[0, 0, 0, 0, 0, 0]],
        [[0, 0, 1, 0, 1, 1]],
        [[NAN] * 6],
        [["a"] * 6],
        None,
        "",
        "none",
        0,
        5,
        {},
        {"counts": "!"},
        {"size": [1, 1], "counts": [1]},
        {"size": [40, 60], "counts": "b"},
        [{"x": 1}],
    ],
)
def test_unreadable_segmentations_keep_the_object_without_mask_on(write_coco, annotation, value: object) -> None:
    item, _ = _only_item(write_coco([annotation(5, segmentation=value)]), needs_masks=False)
    assert item.box == (10, 10, 20, 20)


@pytest.mark.parametrize("value", [5, "nose", [1], [1, 2, 9, 3, 4, 5], {"a": 1}])
def test_unreadable_keypoints_keep_the_object_without_keypoint_on(write_coco, annotation, value: object) -> None:
    path = write_coco([annotation(5, keypoints=value)], categories=CATEGORIES)
    item, notes = _only_item(path, needs_keypoints=False)
    assert item.keypoints is None
    assert "MODEL.KEYPOINT_ON is False" in notes[0]
    with pytest.raises(UserError, match=r"annotation 5 has"):
        _load(path)


def test_malformed_keypoint_names_are_left_out_without_keypoint_on(write_coco, annotation) -> None:
    path = write_coco([annotation()], categories=[{"id": 7, "name": "person", "keypoints": 5}])
    assert _load(path, needs_keypoints=False).keypoint_names == ()
    with pytest.raises(UserError, match=r"category 7 has 'keypoints' 5"):
        _load(path)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([12, 13, 2, None, None, 0], (12.5, 13.5, 2, 0.5, 0.5, 0)),
        ([12, 13, 2, NAN, NAN, -1], (12.5, 13.5, 2, 0.5, 0.5, 0)),
        ([12, 13, 2, 1e30, 5, 2], (12.5, 13.5, 2, 0.5, 0.5, 0)),
        ([12, 13, True, -5, 5, 1.0], (12.5, 13.5, 1, -4.5, 5.5, 1)),
        ([[12, 13, 2], [0, 0, 0]], (12.5, 13.5, 2, 0.5, 0.5, 0)),
        ([-1] * 6, None),
        ([], None),
        ("", None),
    ],
)
def test_placeholder_visibility_means_not_labelled(write_coco, annotation, points: object, expected: object) -> None:
    item, _ = _only_item(write_coco([annotation(5, keypoints=points)], categories=CATEGORIES))
    assert item.keypoints == expected


def test_boxes_in_fractions_of_the_image_are_refused(write_coco, annotation) -> None:
    boxes = [annotation(n, bbox=[0.2, 0.3, 0.1 * n, 0.2], segmentation=[]) for n in (1, 2)]
    with pytest.raises(UserError, match=r"all boxes lie between 0 and 1 .annotation 1: .*COCO's boxes are"):
        _load(write_coco(boxes))


def test_unreadable_box_without_a_mask_is_refused(write_coco, annotation) -> None:
    path = write_coco([annotation(4), annotation(5, bbox=[1, 2, 3], segmentation=[])])
    with pytest.raises(UserError, match=r"annotation 5 has bbox \[1, 2, 3\], which must be four numbers"):
        _load(path)
