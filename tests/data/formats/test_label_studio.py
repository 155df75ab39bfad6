"""Label Studio's exports: results, tasks, names of images, brush masks, bad input, and what is written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrcnn_zoo.data.formats.label_studio_brush import decode_brush, encode_brush
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError
from support.annotation_files import boxes_and_crowd, example_dataset, masks_of, read_dataset, save_image, write_dataset

POLYGON = {"points": [[10, 25], [20, 25], [20, 50]], "closed": True, "polygonlabels": ["cat"]}  # percent of 60 x 40
# Written by label-studio-converter 0.0.59 for the mask of 4 x 6 pixels in BRUSH_MASK, ...
BRUSH = [0, 0, 0, 96, 57, 27, 254, 31, 0, 183, 255, 124, 2, 63, 252, 62, 0]
# ... and for a coloured stroke, opaque where BRUSH_MASK has its first row and nearly transparent in the second.
STROKE = [0, 0, 0, 96, 57, 27, 254, 31, 0, 0, 40, 1, 64, 7, 128, 255, 0, 40, 1, 64, 7, 128, 255, 0, 40, 1, 64, 7]
STROKE += [128, 255, 190, 0, 0, 80, 2, 128, 15, 0, 15, 135, 192, 0]
BRUSH_MASK = np.array([[0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0]], dtype=bool)


def _result(value: dict[str, Any], number: int = 0, **fields: Any) -> dict[str, Any]:
    size = {"original_width": 60, "original_height": 40, "image_rotation": 0}
    return {**size, "value": value, "id": f"r{number}", "from_name": "label", "to_name": "image", **fields}


def _task(results: Any, image: str = "/data/upload/3/0a1b2c3d-a.png", **fields: Any) -> dict[str, Any]:
    annotation = {"id": 4, "completed_by": 1, "result": results, "was_cancelled": False, "ground_truth": False}
    rest = {"file_upload": "0a1b2c3d-a.png", "drafts": [], "predictions": [], "data": {"image": image}}
    return {"id": 7, "annotations": [annotation], **rest, **fields}


def _read(tmp_path: Path, *tasks: Any) -> Dataset:
    save_image(tmp_path / "a.png")
    (tmp_path / "project-1.json").write_text(json.dumps(tasks))
    return read_dataset(tmp_path, format_name="label_studio")


def test_polygons_rectangles_and_ellipses_are_in_percent(tmp_path: Path) -> None:
    box = {"x": 50, "y": 25, "width": 20, "height": 10, "rotation": 0, "rectanglelabels": ["dog"]}
    ellipse = {"x": 50, "y": 50, "radiusX": 10, "radiusY": 25, "rotation": 90, "ellipselabels": ["cat"]}
    values = [POLYGON, box, {**box, "rotation": 90}, ellipse]
    dataset = _read(tmp_path, _task([_result(value, number) for number, value in enumerate(values)]))
    polygon, rectangle, turned, circle = dataset.records[0].instances
    assert dataset.class_names == ("cat", "dog")
    assert np.asarray(polygon.segmentation).ravel().tolist() == pytest.approx([6, 10, 12, 10, 12, 20])
    assert (rectangle.box, rectangle.segmentation) == ((30, 10, 42, 14), None)
    assert turned.box == pytest.approx((26, 10, 30, 22))  # a quarter clockwise about the upper left corner
    assert circle.box == pytest.approx((20, 14, 40, 26), abs=0.05)  # radii 6 and 10, exchanged by the rotation


def test_brush_masks_of_the_converter_are_decoded() -> None:
    assert (decode_brush(BRUSH, (4, 6)) == BRUSH_MASK).all()
    assert (decode_brush(STROKE, (4, 6)) == BRUSH_MASK).all()


def test_encoded_brush_is_that_of_the_converter_and_is_decoded_to_the_mask() -> None:
    assert encode_brush(BRUSH_MASK) == BRUSH
    random = np.random.default_rng(0)
    for size in ((1, 1), (37, 21), (60, 50)):
        mask = random.random(size) < 0.5
        assert (decode_brush(encode_brush(mask), size) == mask).all()
    assert decode_brush(encode_brush(np.ones((300, 200), dtype=bool)), (300, 200)).all()


def test_brush_result_is_a_mask_and_its_label_may_be_a_result_of_its_own(tmp_path: Path) -> None:
    mask = np.zeros((40, 60), dtype=bool)
    mask[3:9, 5:50] = True
    brush = _result({"format": "rle", "rle": encode_brush(mask)}, 1, type="brush")
    label = _result({"format": "rle", "rle": encode_brush(mask), "labels": ["cell"]}, 1, type="labels")
    dataset = _read(tmp_path, _task([brush, label]))
    assert dataset.class_names == ("cell",)
    assert len(dataset.records[0].instances) == 1
    assert (masks_of(dataset.records[0])[0] == mask).all()


def test_results_without_area_or_label_are_left_out_and_counted(tmp_path: Path) -> None:
    point = {"x": 3, "y": 4, "width": 0.2, "keypointlabels": ["nose"]}
    values = [POLYGON, point, {"choices": ["good"]}, {**POLYGON, "polygonlabels": []}]
    dataset = _read(tmp_path, _task([_result(value, number) for number, value in enumerate(values)]))
    assert len(dataset.records[0].instances) == 1
    assert "results without an area left out: 2" in dataset.notes[0]
    assert "regions without a label left out: 1" in dataset.notes[1]


def test_first_annotation_that_is_not_cancelled_is_read(tmp_path: Path) -> None:
    annotations = [
        {"result": [_result(POLYGON), _result(POLYGON, 1)], "was_cancelled": True},
        {"result": [_result(POLYGON)], "was_cancelled": False},
        {"result": []},
    ]
    prediction = {"result": [_result(POLYGON)], "score": 0.4}
    unlabelled = _task([], annotations=[], predictions=[prediction])
    dataset = _read(tmp_path, _task([], annotations=annotations), unlabelled)
    assert [len(record.instances) for record in dataset.records] == [1]
    assert [note.split(":")[0] for note in dataset.notes] == [
        "cancelled annotations left out",
        "further annotations of a task left out",
        "tasks without an annotation left out",
    ]


@pytest.mark.parametrize(
    "image",
    [
        "/data/upload/1/0a1b2c3d-a%20b.png",
        "/data/local-files/?d=set/photos/a%20b.png",
        "s3://bucket/photos/a b.png",
        "https://example.org/x/photos/a%20b.png?token=5",
        "photos\\a b.png",
    ],
)
def test_images_are_found_by_addresses(tmp_path: Path, image: str) -> None:
    save_image(tmp_path / "photos" / "a b.png")
    dataset = _read(tmp_path, _task([_result(POLYGON)], image))
    assert Path(dataset.records[0].source.name).relative_to(tmp_path).as_posix() == "photos/a b.png"


def test_image_with_its_upload_prefix_is_found(tmp_path: Path) -> None:
    save_image(tmp_path / "images" / "0a1b2c3d-a.png")
    dataset = _read(tmp_path, _task([_result(POLYGON)]))
    assert Path(dataset.records[0].source.name).name == "0a1b2c3d-a.png"


def test_json_min_is_read(tmp_path: Path) -> None:
    regions = [{**POLYGON, "original_width": 60, "original_height": 40}]
    task = {"image": "/data/upload/3/a.png", "id": 7, "label": regions, "annotator": 1, "annotation_id": 4}
    dataset = _read(tmp_path, task)
    assert dataset.records[0].instances[0].box == pytest.approx((6, 10, 12, 20))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({**POLYGON, "points": [[640, 480], [10, 20], [4, 5]]}, r"tasks\[0\], result r0 has points 640, .* in percent"),
        ({**POLYGON, "points": [[1, 2], 3]}, r"has points .*, which must be a list of points"),
        ({"x": 1, "y": "b", "width": 2, "height": 3, "rectanglelabels": ["a"]}, "has y 'b', which must be a number"),
        ({"rle": BRUSH, "brushlabels": ["a"]}, r"has rle .*it has 96 values, 40 x 60 pixels"),
        ({"rle": [0, 0, 37, 128, 57, 27, 254, 31], "brushlabels": ["a"]}, r"has rle .*it is cut off"),
    ],
)
def test_wrong_value_error_names_file_task_and_field(tmp_path: Path, value: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=rf"project-1\.json: .*{words}"):
        _read(tmp_path, _task([_result(value)]))


def test_wrong_task_and_missing_image_errors_name_the_task(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tasks\[1\] has 'result' None, which must be a list"):
        _read(tmp_path, _task([_result(POLYGON)]), _task(None))
    with pytest.raises(UserError, match=r"tasks\[0\] has original_height 40 and original_width 'x'"):
        _read(tmp_path, _task([_result(POLYGON, original_width="x")]))
    with pytest.raises(UserError, match=r"z\.png \(project-1\.json: tasks\[0\]\)"):
        _read(tmp_path, _task([_result(POLYGON)], "/data/upload/1/z.png"))


def test_written_tasks_are_read_back_equal(tmp_path: Path) -> None:
    parts = {side: example_dataset(tmp_path / "photos", split=side) for side in ("train", "val")}
    writer = write_dataset("label_studio", parts, tmp_path / "out")
    again = read_dataset(tmp_path / "out", format_name="label_studio")
    assert (again.class_names, again.notes, writer.lost.notes()) == (("cat", "dog"), (), ())
    assert [record.split for record in again.records] == ["train", "train", "val", "val"]
    before, after = parts["val"].records[0], again.records[2]
    assert [item.class_index for item in after.instances] == [1, 0, 1]
    assert [item.score for item in after.instances] == [0.75, None, None]
    assert all((one == other).all() for one, other in zip(masks_of(before), masks_of(after), strict=True))


def test_images_that_are_not_copied_are_named_by_their_paths(tmp_path: Path) -> None:
    dataset = example_dataset(tmp_path / "photos")
    write_dataset("label_studio", {"": dataset}, tmp_path / "out", copies_images=False)
    address = json.loads((tmp_path / "out/tasks.json").read_text())[0]["data"]["image"]
    assert address == f"/data/local-files/?d={(tmp_path / 'photos/first.png').as_posix()[1:]}"
    again = read_dataset(tmp_path / "out", format_name="label_studio")
    assert again.records[0].source == dataset.records[0].source


def test_written_task_has_the_fields_of_label_studio(tmp_path: Path) -> None:
    write_dataset("label_studio", {"": example_dataset(tmp_path / "photos")}, tmp_path / "out")
    task = json.loads((tmp_path / "out/tasks.json").read_text())[0]
    assert task["data"] == {"image": "/data/local-files/?d=images/first.png"}
    results = task["annotations"][0]["result"]
    assert [item["type"] for item in results] == ["polygonlabels", "brushlabels", "brushlabels"]
    assert results[0]["value"]["points"][0] == pytest.approx([100 * 5 / 60, 100 * 5 / 40])
    config = (tmp_path / "out/label_config.xml").read_text()
    assert all(f'name="{item["from_name"]}" toName="{item["to_name"]}"' in config for item in results)


def test_written_boxes_are_boxes_and_crowds_are_left_out(tmp_path: Path) -> None:
    dataset = boxes_and_crowd(example_dataset(tmp_path / "photos"))
    writer = write_dataset("label_studio", {"": dataset}, tmp_path / "out")
    found = read_dataset(tmp_path / "out", format_name="label_studio").records[0].instances
    assert [(item.box, item.is_crowd) for item in found] == [((5.5, 6.0, 30.0, 20.25), False)]
    assert "regions of uncounted objects left out: 1" in writer.lost.notes()[0]
