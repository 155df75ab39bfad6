"""COCO files with errors: repaired with a note, or refused with one message."""

import json
import re
from pathlib import Path

import pytest

from mrcnn_zoo.data.formats.coco import load_coco
from mrcnn_zoo.errors import UserError

NAN = float("nan")
SQUARE = [10, 10, 20, 10, 20, 20, 10, 20]


def _load(path: Path):
    return load_coco("test", path.parent, path)


def _only_image(path: Path):
    dataset = _load(path)
    return dataset.records[0].instances, dataset.notes


# --- repaired ---------------------------------------------------------------------------------------------------------


def test_polygon_with_two_points_is_dropped_and_the_object_stays(write_coco, annotation) -> None:
    items, notes = _only_image(write_coco([annotation(8, segmentation=[[1, 2, 3, 4], SQUARE])]))
    assert [polygon.tolist() for polygon in items[0].segmentation] == [SQUARE]
    assert notes == ("polygons with fewer than 3 points left out: 1 (first: annotation 8)",)


@pytest.mark.parametrize(
    "polygon", [[1, 2, 3, 4], [1, 2, 3, 4, 5], [NAN, 1, 2, 3, 4, 5], [None, 1, 2, 3, 4, 5], [0, 0, 0, 0, 0, 0]]
)
def test_object_without_any_usable_polygon_keeps_its_box(write_coco, annotation, polygon: list[float]) -> None:
    items, notes = _only_image(write_coco([annotation(8, segmentation=[polygon]), annotation(9)]))
    assert [item.segmentation is None for item in items] == [True, False]
    assert [item.box for item in items] == [(10, 10, 20, 20)] * 2
    assert notes[0].startswith("polygons ")
    assert notes[0].endswith("left out: 1 (first: annotation 8)")


def test_single_polygon_without_outer_list_is_read(write_coco, annotation) -> None:
    items, notes = _only_image(write_coco([annotation(segmentation=SQUARE)]))
    assert [polygon.tolist() for polygon in items[0].segmentation] == [SQUARE]
    assert notes == ()


WITHOUT_SIZE = "NaN, infinite or not above 0 in size"
HUGE = 10**400  # exceeds float64


@pytest.mark.parametrize(
    ("box", "what"),
    [
        *((box, WITHOUT_SIZE) for box in ([NAN, 1, 2, 3], [1, 2, float("inf"), 3], [1, 2, -3, 4], [1, 2, 0, 4])),
        *((box, WITHOUT_SIZE) for box in ([HUGE, 1, 2, 3], [1, 2, 3, "-4"])),
        *(
            (box, "absent")
            for box in (None, "", [], [None] * 4, [0] * 4, [-1] * 4, [0.0] * 4, -1, {}, ["", "", "", ""])
        ),
        *((box, "not four numbers") for box in ("box", [1, 2, 3], [1, 2, None, 4], [1, 2, "x", 4], {"x": 1}, 7)),
    ],
)
def test_unusable_box_is_taken_from_the_mask(write_coco, annotation, box: object, what: str) -> None:
    items, notes = _only_image(write_coco([annotation(5, bbox=box), annotation(6)]))
    assert [item.box for item in items] == [(10, 10, 20, 20)] * 2
    assert notes[-1] == f"boxes that are {what} taken from the mask: 1 (first: annotation 5)"


def test_unusable_box_without_a_mask_is_dropped(write_coco, annotation) -> None:
    items, notes = _only_image(write_coco([annotation(5, bbox=[1, 2, NAN, 4], segmentation=[])]))
    assert items == ()
    assert notes == ("boxes that are NaN, infinite or not above 0 in size left out: 1 (first: annotation 5)",)


@pytest.mark.parametrize("box", [None, [], "", [0, 0, 0, 0], [-1, -1, -1, -1]])
def test_absent_box_is_noted_as_absent(write_coco, annotation, box: object) -> None:
    items, notes = _only_image(write_coco([annotation(5, bbox=box, segmentation=[])]))
    assert items == ()
    assert notes == ("objects without a box and a mask left out: 1 (first: annotation 5)",)


def test_box_is_clipped_at_the_image(write_coco, annotation) -> None:
    items, notes = _only_image(write_coco([annotation(5, bbox=[50, 30, 20, 20], segmentation=[])]))
    assert items[0].box == (50, 30, 60, 40)
    assert notes == ("boxes that reach outside their image clipped: 1 (first: annotation 5)",)


def test_box_rounded_up_at_the_border_is_clipped_without_a_note(write_coco, annotation) -> None:
    items, notes = _only_image(write_coco([annotation(5, bbox=[50, 30, 10.5, 10], segmentation=[])]))
    assert items[0].box == (50, 30, 60, 40)
    assert notes == ()


def test_box_outside_the_image_is_dropped(write_coco, annotation) -> None:
    items, notes = _only_image(write_coco([annotation(5, bbox=[70, 5, 10, 10], segmentation=[]), annotation(6)]))
    assert [item.annotation_id for item in items] == [6]
    assert notes == ("boxes outside their image left out: 1 (first: annotation 5)",)


def test_box_that_contradicts_its_mask_is_taken_from_the_mask(write_coco, annotation) -> None:
    items, notes = _only_image(write_coco([annotation(5, bbox=[30, 20, 10, 10])]))
    assert items[0].box == (10, 10, 20, 20)
    assert notes == ("boxes that contradict their mask taken from the mask: 1 (first: annotation 5)",)


def test_loose_box_is_kept(write_coco, annotation) -> None:
    items, notes = _only_image(write_coco([annotation(5, bbox=[9, 9, 12, 12])]))
    assert items[0].box == (9, 9, 21, 21)
    assert notes == ()


def test_annotation_of_an_image_that_is_not_listed_is_dropped(write_coco, annotation) -> None:
    items, notes = _only_image(write_coco([annotation(5, image_id=99), annotation(6)]))
    assert [item.annotation_id for item in items] == [6]
    assert notes == ("annotations of images that are not listed left out: 1 (first: annotation 5)",)


@pytest.mark.parametrize("counts", [[2400], [], ""])
def test_empty_run_lengths_are_dropped(write_coco, annotation, counts: object) -> None:
    empty = {"size": [40, 60], "counts": counts}
    items, notes = _only_image(write_coco([annotation(5, segmentation=empty)]))
    assert items[0].segmentation is None
    assert notes == ("empty masks left out: 1 (first: annotation 5)",)


# --- refused ----------------------------------------------------------------------------------------------------------


def _refused(path: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        _load(path)
    assert str(path) in str(caught.value)


def test_duplicate_annotation_ids_are_refused(write_coco, annotation) -> None:
    path = write_coco([annotation(5), annotation(6), annotation(5)])
    _refused(path, "id 5 is used 2 times in 'annotations' .elements number 0 and 2")


def test_duplicate_image_ids_are_refused(write_coco) -> None:
    images = [{"id": 1, "file_name": "001.png", "height": 40, "width": 60}] * 2
    _refused(write_coco([], images=images), "id 1 is used 2 times in 'images'")


def test_duplicate_category_ids_are_refused(write_coco) -> None:
    _refused(write_coco([], categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]), "in 'categories'")


@pytest.mark.parametrize("name", [None, "", " ", [], True, {"en": "cat"}])
def test_category_without_a_name_is_refused(write_coco, name: object) -> None:
    _refused(write_coco([], categories=[{"id": 3, "name": name}]), "category 3 has name .*, which must be a text")


def test_unknown_category_is_refused(write_coco, annotation) -> None:
    path = write_coco([annotation(5, category_id=4)])
    _refused(path, re.escape("annotation 5 has category_id 4, which 'categories' does not list: 3 (dog), 7 (cat)."))


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [60, 40], "counts": [2400]}, r"a mask of \[60, 40\] pixels .height, width. .* image is \[40, 60\]"),
        ({"size": [40, 60], "counts": [2300]}, "cannot be decoded: the runs of its RLE cover 2300 pixels"),
        ({"size": [40, 60], "counts": "P"}, "cannot be decoded: its compressed RLE is cut off"),
        ({"size": [40, 60], "counts": [0.5, 2399.5]}, "has the run length 0.5, which is not a whole number"),
        ({"size": [40, 60], "counts": [2**63, 2**63, 2400]}, "cannot be decoded"),
        ({"size": [40, 60], "counts": [-1, 2401]}, "cannot be decoded: a run of its RLE has a negative length"),
        ({"size": [2**20, 2**20], "counts": [0, 2**40]}, r"a mask of \[1048576, 1048576\] pixels"),
        ({"counts": [2400]}, "needs 'counts' and 'size' as run lengths, it has counts"),
        ("polygon", "is neither a list of polygons .*; it is 'polygon'"),
        (3, "is neither a list of polygons .*; it is 3"),
        ([{"x": 1}], "is neither"),
        ([["1", "2", "a", "4", "5", "6"]], "has the coordinate 'a', which is not a number"),
        ([[1, 2, True, 4, 5, 6], [1, 2, [3], 4, 5, 6]], "is neither|has the coordinate"),
    ],
)
def test_malformed_segmentation_is_refused(write_coco, annotation, rle: object, message: str) -> None:
    _refused(
        write_coco([annotation(4), annotation(5, segmentation=rle)]), f"the segmentation of annotation 5.*{message}"
    )


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([1, 2, 2], "has 3 keypoint values; 2 keypoints need 6"),
        ([1, 2, 2, 4, NAN, 2], r"has a labelled keypoint at \[4, nan\]"),
        ([1, 2, 2, 4, None, 2], r"has a labelled keypoint at \[4, None\]"),
        ([1, 2, 3, 4, 5, 2], "has a keypoint visibility 3, which must be 0 .not labelled., 1 .hidden. or 2"),
        ([1, 2, 0.97, 4, 5, 2], "has a keypoint visibility 0.97"),
        ("nose", "has keypoints 'nose'"),
        ({"nose": [1, 2]}, "has keypoints"),
    ],
)
def test_malformed_keypoints_are_refused(write_coco, annotation, points: object, message: str) -> None:
    categories = [{"id": 7, "name": "person", "keypoints": ["nose", "chin"]}]
    _refused(write_coco([annotation(5, keypoints=points)], categories=categories), f"annotation 5 {message}")


def test_dataset_without_images_is_refused(write_coco) -> None:
    _refused(write_coco([], images=[]), "no images")


def test_dataset_without_categories_is_refused(write_coco) -> None:
    _refused(write_coco([], categories=[]), "'categories' is empty")


@pytest.mark.parametrize("size", [(40.5, 60), ("forty", 60), (-40, 60), (40, True), (40, [60]), (2**31, 60)])
def test_invalid_image_size_is_refused(write_coco, size: tuple[object, object]) -> None:
    images = [{"id": 1, "file_name": "001.png", "height": size[0], "width": size[1]}]
    _refused(write_coco([], images=images), "image 1 has (height|width) ")


def test_image_with_too_many_pixels_for_run_lengths_is_refused(write_coco) -> None:
    images = [{"id": 1, "file_name": "001.png", "height": 100_000, "width": 100_000}]
    _refused(write_coco([], images=images), "image 1 has height 100000 and width 100000, more than 4294967295 pixels")


@pytest.mark.parametrize(
    ("section", "element", "message"),
    [
        ("annotations", {"id": 3, "category_id": 7}, "id 3 of 'annotations' has no 'image_id'"),
        ("images", {"id": 3, "height": 4, "width": 4}, "id 3 of 'images' has no 'file_name'"),
        ("images", {"id": "a", "file_name": "b", "height": 4, "width": 4}, "id 'a' in 'images' is not a whole"),
    ],
)
def test_missing_field_is_named(write_coco, section: str, element: dict, message: str) -> None:
    _refused(write_coco([], **{section: [element]}), message)


def test_truncated_json_is_refused_with_the_position(write_coco, annotation) -> None:
    path = write_coco([annotation()])
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    _refused(path, "not valid JSON: .* at line 1, column .*truncated")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid JSON.*truncated"),
        ("[1, 2]", "not in COCO's format: it holds a list"),
        ('{"images": []}', "it has no 'annotations', it has 'images'"),
        ('{"images": {}, "annotations": [], "categories": []}', "'images' is not a list"),
        ('{"images": [], "annotations": [3], "categories": []}', "'annotations' is not a list of objects"),
        ('{"images": ]', "not valid JSON: .* column 12"),
    ],
)
def test_json_of_another_format_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(content)
    _refused(path, message)


def test_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_bytes(b"\x89PNG\xff\xfe")
    _refused(path, "not a JSON text file")


def test_missing_images_are_counted_and_named(write_coco) -> None:
    path = write_coco([], num_images=6)
    for number in (1, 3, 4, 6):
        (path.parent / f"{number:03d}.png").unlink()
    _refused(path, "4 of the 6 images that .* lists are missing: 001.png, 003.png, 004.png, ...")


def test_duplicate_in_a_large_file_is_found_fast(write_coco, annotation) -> None:
    annotations = [annotation(number) for number in range(1, 20001)]
    path = write_coco(annotations)
    assert len(_load(path).records[0].instances) == 20000
    document = json.loads(path.read_text())
    document["annotations"][-1]["id"] = 1
    path.write_text(json.dumps(document))
    _refused(path, "id 1 is used 2 times")
