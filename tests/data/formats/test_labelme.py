"""labelme's JSON files: shapes, images, sides, bad input, and what is written."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mrcnn_zoo.errors import UserError
from support.annotation_files import (
    boxes_and_crowd,
    example_dataset,
    masks_of,
    read_dataset,
    ring,
    save_image,
    write_dataset,
)

POLYGON = [[10, 10], [20, 10], [20, 20], [10, 20]]


def _png(bitmap: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(bitmap).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def _shape(label: str = "cat", points: Any = POLYGON, kind: str = "polygon", **fields: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **fields}


def _write(folder: Path, name: str, shapes: Any, **fields: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "version": "5.4.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": f"{name}.png",
        "imageData": None,
        "imageHeight": 40,
        "imageWidth": 60,
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**content, **fields}))
    return path


def _read(tmp_path: Path, shapes: list[dict[str, Any]], **fields: Any) -> Any:
    save_image(tmp_path / "a.png")
    _write(tmp_path, "a", shapes, **fields)
    return read_dataset(tmp_path, format_name="labelme")


def test_polygons_rectangles_and_circles_are_objects(tmp_path: Path) -> None:
    shapes = [_shape(), _shape("dog", [[30, 25], [20, 5]], "rectangle"), _shape("cat", [[40, 20], [43, 24]], "circle")]
    dataset = _read(tmp_path, shapes)
    polygon, rectangle, circle = dataset.records[0].instances
    assert dataset.class_names == ("cat", "dog")
    assert np.asarray(polygon.segmentation).tolist() == [[10, 10, 20, 10, 20, 20, 10, 20]]
    assert (rectangle.box, rectangle.segmentation, rectangle.class_index) == ((20, 5, 30, 25), None, 1)
    assert circle.box == pytest.approx((35, 15, 45, 25), abs=0.05)  # radius 5, from 3 and 4
    assert masks_of(dataset.records[0])[1].sum() == pytest.approx(np.pi * 25, rel=0.05)


def test_shapes_of_one_group_and_label_are_parts_of_one_object(tmp_path: Path) -> None:
    other = [[30, 10], [40, 10], [40, 20]]
    shapes = [_shape(group_id=1), _shape("dog", group_id=1), _shape(points=other, group_id=1), _shape(group_id=2)]
    first, dog, last = _read(tmp_path, shapes).records[0].instances
    assert [len(item.segmentation) for item in (first, dog, last)] == [2, 1, 1]
    assert first.box == (10, 10, 40, 20)


def test_mask_is_placed_at_its_first_pixel_and_united_with_its_group(tmp_path: Path) -> None:
    bitmap = np.array([[1, 0, 1], [1, 1, 1]], dtype=np.uint8)
    mask = _shape("cat", [[4, 7], [6, 8]], "mask", mask=_png(bitmap))
    clipped = _shape("cat", [[59, 39], [61, 40]], "mask", mask=_png(bitmap))
    parts = [_shape("dog", [[4, 7], [6, 8]], "mask", mask=_png(bitmap), group_id=3), _shape("dog", group_id=3)]
    masks = masks_of(_read(tmp_path, [mask, clipped, *parts]).records[0])
    expected = np.zeros((40, 60), dtype=bool)
    expected[7:9, 4:7] = bitmap
    assert (masks[0] == expected).all()
    assert np.argwhere(masks[1]).tolist() == [[39, 59]]
    expected[10:20, 10:20] = True
    assert (masks[2] == expected).all()


def test_lines_and_points_are_left_out_and_counted(tmp_path: Path) -> None:
    lines = [_shape(points=[[1, 1], [5, 5]], kind="line"), _shape(points=[[1, 1]], kind="point")]
    dataset = _read(tmp_path, [_shape(), *lines, _shape(points=[[1, 2], [3, 4], [5, 9]], kind="linestrip")])
    assert len(dataset.records[0].instances) == 1
    assert "lines and points left out: 3" in dataset.notes[0]


def test_shapes_with_nan_or_without_extent_are_left_out_and_counted(tmp_path: Path) -> None:
    nan, far = float("nan"), 1e300
    shapes = [_shape(points=[[nan, 1], [2, 3], [4, 9]]), _shape(points=[[nan, 2], [3, 4]], kind="circle")]
    shapes += [_shape(points=[[5, 5], [5, 9]], kind="rectangle"), _shape(points=[[1, 2], [far, far]], kind="circle")]
    dataset = _read(tmp_path, [_shape(), *shapes])
    assert dataset.records[0].instances[0].box == (10, 10, 20, 20)
    assert len(dataset.records[0].instances) == 2  # the circle of any size covers the image
    assert "polygons with NaN, infinite or null coordinates left out: 2" in " ".join(dataset.notes)


def test_files_of_x_anylabeling_are_read(tmp_path: Path) -> None:
    rotated = [[20, 5], [35, 20], [20, 35], [5, 20]]
    box = [[10, 10], [20, 10], [20, 30], [10, 30]]
    shapes = [
        _shape("ship", rotated, "rotation", direction=0.78, score=None, difficult=False),
        _shape("ship", box, "rectangle", score=0.5, attributes={}),
        _shape("ship", rotated, "oriented_rectangle"),  # labelme 6
    ]
    first, second, third = _read(tmp_path, shapes, version="2.4.3").records[0].instances
    assert np.asarray(first.segmentation).ravel().tolist() == [20, 5, 35, 20, 20, 35, 5, 20]
    assert third.box == first.box == (5, 5, 35, 35)
    assert (first.score, second.score, second.box) == (None, 0.5, (10, 10, 20, 30))


def test_version_3_without_shape_types_and_sizes_is_read(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png")
    shape = {"label": "cat", "line_color": None, "fill_color": None, "points": POLYGON}
    content = {"version": "3.5.0", "flags": {}, "shapes": [shape], "lineColor": [0, 255, 0, 128]}
    (tmp_path / "a.json").write_text(json.dumps({**content, "imagePath": "a.png", "imageData": None}))
    record = read_dataset(tmp_path, format_name="labelme").records[0]
    assert (record.image_size, len(record.instances)) == ((40, 60), 1)


def test_images_are_found_by_windows_paths_and_beside_the_file(tmp_path: Path) -> None:
    for side in ("train", "val"):
        save_image(tmp_path / "images" / side / "a.png")
        _write(tmp_path / "labels" / side, "a", [_shape()], imagePath=f"..\\..\\images\\{side}\\a.png")
    save_image(tmp_path / "labels" / "val" / "moved.png")
    _write(tmp_path / "labels" / "val", "moved", [_shape()], imagePath="old/name.png")
    dataset = read_dataset(tmp_path, format_name="labelme")
    found = [(Path(record.source.name).relative_to(tmp_path).as_posix(), record.split) for record in dataset.records]
    assert found == [("images/train/a.png", "train"), ("images/val/a.png", "val"), ("labels/val/moved.png", "val")]


def test_image_with_the_same_name_in_both_sides_is_the_one_of_the_side(tmp_path: Path) -> None:
    for side in ("train", "val"):
        save_image(tmp_path / "images" / side / "a.png")
        _write(tmp_path / "labels" / side, "a", [_shape()])
    records = read_dataset(tmp_path, format_name="labelme").records
    assert [Path(record.source.name).parent.name for record in records] == ["train", "val"]


def test_image_outside_the_folder_is_found(tmp_path: Path) -> None:
    save_image(tmp_path / "photos" / "a.png")
    _write(tmp_path / "labels", "a", [_shape()], imagePath="../photos/a.png")
    record = read_dataset(tmp_path / "labels", format_name="labelme").records[0]
    assert Path(record.source.name).resolve() == (tmp_path / "photos" / "a.png").resolve()


def test_absolute_image_path_into_the_folder_is_not_left_out(tmp_path: Path) -> None:
    path = save_image(tmp_path / "photos" / "a.png")
    _write(tmp_path, "b", [_shape()], imagePath=str(path))
    dataset = read_dataset(tmp_path, format_name="labelme")
    assert (dataset.records[0].source.name, dataset.notes) == (str(path), ())


def test_embedded_image_replaces_a_missing_file(tmp_path: Path) -> None:
    pixels = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)
    _write(tmp_path, "a", [_shape()], imageData=_png(pixels), imageHeight=None, imageWidth=None)
    dataset = read_dataset(tmp_path, format_name="labelme")
    assert dataset.records[0].image_size == (40, 60)
    assert (dataset.records[0].source.read() == pixels).all()
    assert "imageData of the JSON: 1" in dataset.notes[0]


def test_images_without_a_file_and_other_json_files_are_counted(tmp_path: Path) -> None:
    save_image(tmp_path / "b.png")
    (tmp_path / "zoo.json").write_text('{"info": 1}')
    notes = " ".join(_read(tmp_path, [_shape()]).notes)
    assert "images without an annotation file left out: 1 (first: image b.png)" in notes
    assert "JSON files of another kind left out: 1 (first: file zoo.json)" in notes


def test_file_with_sorted_keys_and_a_large_image_is_detected(tmp_path: Path) -> None:
    path = _write(tmp_path, "a", [_shape()] * 60, imageData=_png(np.zeros((40, 60, 3), np.uint8)) + " " * 9000)
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    assert len(read_dataset(tmp_path, format_name="labelme").records[0].instances) == 60


def test_one_file_is_a_dataset(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_image(tmp_path / f"{name}.png")
        _write(tmp_path, name, [_shape()])
    dataset = read_dataset(tmp_path / "b.json", format_name="labelme")
    assert [Path(record.source.name).name for record in dataset.records] == ["b.png"]
    assert not dataset.notes


BAD_SHAPES = [
    ({"points": POLYGON}, r"a\.json: shapes\[1\] has label None, which must be a text"),
    (_shape(kind="spline"), r"shapes\[1\] has shape_type 'spline', which must be one of polygon"),
    (_shape(points=[[1, 2], [3]]), r"shapes\[1\] has points .*, which must be a list of points \[x, y\]"),
    (_shape(points=[[1, 2], ["a", 3]]), r"shapes\[1\] has points"),
    (_shape(kind="mask", points=[[1, 2], [2, 3]], mask="@@"), r"shapes\[1\]: 'mask' is '@@', which is not an image"),
    ("cat", r"shapes\[1\] is 'cat', which must be an object"),
]


@pytest.mark.parametrize(("shape", "words"), BAD_SHAPES)
def test_wrong_shape_error_names_file_and_field(tmp_path: Path, shape: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        _read(tmp_path, [_shape(), shape])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"imageHeight": "tall"}, r"a\.json: 'imageHeight' is 'tall', which must be a whole number"),
        ({"shapes": {"a": 1}}, r"a\.json: 'shapes' is .*, which must be a list"),
    ],
)
def test_wrong_field_error_names_file_and_field(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    save_image(tmp_path / "b.png")
    _write(tmp_path, "b", [_shape()])
    with pytest.raises(UserError, match=words):
        _read(tmp_path, **{"shapes": [_shape()], **fields})


def test_missing_image_and_empty_file_are_errors(tmp_path: Path) -> None:
    _write(tmp_path, "a", [_shape()])
    with pytest.raises(UserError, match=r"1 image that annotations name .*: a\.png \(a\.json\)"):
        read_dataset(tmp_path, format_name="labelme")
    save_image(tmp_path / "a.png")
    (tmp_path / "b.json").write_text("")
    with pytest.raises(UserError, match=r"b\.json is not valid JSON"):
        read_dataset(tmp_path, format_name="labelme")


def test_written_files_are_read_back_equal(tmp_path: Path) -> None:
    dataset = example_dataset(tmp_path / "photos")
    writer = write_dataset("labelme", {"": dataset}, tmp_path / "out")
    again = read_dataset(tmp_path / "out", format_name="labelme")
    assert (again.class_names, again.notes, writer.lost.notes()) == (("cat", "dog"), (), ())
    before, after = dataset.records[0], again.records[0]
    assert [item.class_index for item in after.instances] == [1, 0, 1]
    assert [item.score for item in after.instances] == [0.75, None, None]
    assert all((one == other).all() for one, other in zip(masks_of(before), masks_of(after), strict=True))
    assert again.records[1].instances == ()


def test_written_file_has_the_fields_of_labelme(tmp_path: Path) -> None:
    parts = {side: example_dataset(tmp_path / "photos", split=side) for side in ("train", "val")}
    write_dataset("labelme", parts, tmp_path / "out")
    content = json.loads((tmp_path / "out/val/val_first.json").read_text())
    assert (content["imagePath"], content["imageData"], content["imageHeight"]) == ("val_first.png", None, 40)
    assert [shape["shape_type"] for shape in content["shapes"]] == ["polygon", "polygon", "polygon", "mask"]
    assert [shape["group_id"] for shape in content["shapes"]] == [None, 1, 1, None]
    mask = content["shapes"][3]
    assert mask["points"] == [[40, 20], [51, 31]]  # the first and the last pixel
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(mask["mask"]))))
    assert (pixels == ring()[20:32, 40:52]).all()
    dataset = read_dataset(tmp_path / "out", format_name="labelme")
    assert [record.split for record in dataset.records] == ["train", "train", "val", "val"]


def test_written_boxes_are_boxes_and_crowds_stay_crowds(tmp_path: Path) -> None:
    dataset = boxes_and_crowd(example_dataset(tmp_path / "photos"))
    writer = write_dataset("labelme", {"": dataset}, tmp_path / "out")
    found = read_dataset(tmp_path / "out", format_name="labelme").records[0].instances
    assert [(item.box, item.is_crowd) for item in found] == [
        ((5.5, 6.0, 30.0, 20.25), False),
        ((5.0, 5.0, 25.5, 30.0), True),
    ]
    assert (found[0].segmentation, writer.lost.notes()) == (None, ())
