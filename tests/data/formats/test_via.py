"""VIA's projects and exports of all versions: shapes, classes, images, bad input, and what is written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError
from support.annotation_files import (
    SQUARES,
    TRIANGLE,
    boxes_and_crowd,
    example_dataset,
    masks_of,
    read_dataset,
    save_image,
    write_dataset,
)

POLYGON = {"name": "polygon", "all_points_x": [10, 20, 20, 10], "all_points_y": [10, 10, 20, 20]}


def _region(shape: Any = POLYGON, **attributes: Any) -> dict[str, Any]:
    return {"shape_attributes": shape, "region_attributes": attributes}


def _entry(name: str, regions: Any) -> dict[str, Any]:
    return {"filename": name, "size": 12, "regions": regions, "file_attributes": {}}


def _export(path: Path, **regions: Any) -> Path:
    """An export of version 2; the image files are a.png for a=..."""
    for name in regions:
        save_image(path.parent / f"{name}.png")
    path.write_text(json.dumps({f"{name}.png12": _entry(f"{name}.png", items) for name, items in regions.items()}))
    return path


def _read(tmp_path: Path, *regions: Any) -> Dataset:
    _export(tmp_path / "via.json", a=list(regions))
    return read_dataset(tmp_path, format_name="via")


def test_polygons_rectangles_circles_and_ellipses_are_objects(tmp_path: Path) -> None:
    dataset = _read(
        tmp_path,
        _region(label="cat"),
        _region({"name": "rect", "x": 5, "y": 6, "width": 10, "height": 20}, label="dog"),
        _region({"name": "circle", "cx": 30, "cy": 20, "r": 8}, label="cat"),
        _region({"name": "ellipse", "cx": 30, "cy": 20, "rx": 10, "ry": 4, "theta": np.pi / 2}, label="cat"),
        _region({"name": "polyline", "all_points_x": [0, 9, 9], "all_points_y": [0, 0, 9]}, label="cat"),
        _region({"name": "point", "cx": 3, "cy": 3}, label="cat"),
        _region({"name": "polyline", "all_points_x": [0, 9], "all_points_y": [0, 0]}, label="cat"),
    )
    polygon, rectangle, circle, ellipse, polyline = dataset.records[0].instances
    assert np.asarray(polygon.segmentation).tolist() == [[10, 10, 20, 10, 20, 20, 10, 20]]
    assert (rectangle.box, rectangle.segmentation, dataset.class_names) == ((5, 6, 15, 26), None, ("cat", "dog"))
    assert circle.box == pytest.approx((22, 12, 38, 28), abs=0.05)
    assert ellipse.box == pytest.approx((26, 10, 34, 30), abs=0.05)
    assert polyline.box == (0, 0, 9, 9)
    assert "lines and points left out: 2" in dataset.notes[0]


def test_balloons_of_version_1_without_a_class_are_objects_of_two_sides(tmp_path: Path) -> None:
    """The layout of the balloon dataset: regions as a mapping, no attributes, a file per side."""
    closed = {"name": "polygon", "all_points_x": [10, 20, 20, 10, 10], "all_points_y": [10, 10, 20, 20, 10]}
    for side in ("train", "val"):
        (tmp_path / side).mkdir()
        _export(tmp_path / side / "via_region_data.json", a={"0": _region(closed)}, b={})
    dataset = read_dataset(tmp_path, format_name="via")
    assert [(record.split, len(record.instances)) for record in dataset.records] == [
        ("train", 1),
        ("train", 0),
        ("val", 1),
        ("val", 0),
    ]
    assert dataset.class_names == ("object",)
    assert len(dataset.records[0].instances[0].segmentation[0]) == 8  # the first point is not repeated
    assert "regions without a class attribute taken as class 'object': 2" in dataset.notes[0]


def test_class_is_the_preferred_attribute_and_a_checked_box(tmp_path: Path) -> None:
    first = _region(colour="red", Class={"cat": False, "dog": True})
    dataset = _read(tmp_path, first, _region(colour="blue", Class={"cat": True}), _region(colour="red", Class={}))
    assert [dataset.class_names[item.class_index] for item in dataset.records[0].instances] == ["dog", "cat"]
    assert "regions without a value of 'Class' left out: 1" in dataset.notes[0]


def test_numbered_options_of_a_project_are_named_by_their_descriptions(tmp_path: Path) -> None:
    save_image(tmp_path / "a b.png")
    project = {
        "_via_settings": {"core": {"filepath": {}}},
        "_via_img_metadata": {"x": _entry("a%20b.png", [_region(kind="2"), _region(kind="1")])},
        "_via_attributes": {"region": {"kind": {"type": "radio", "options": {"1": "zebra", "2": "ant", "3": "bee"}}}},
    }
    (tmp_path / "p.json").write_text(json.dumps(project))
    dataset = read_dataset(tmp_path, format_name="via")
    assert dataset.class_names == ("zebra", "ant", "bee")
    assert [item.class_index for item in dataset.records[0].instances] == [1, 0]


def test_csv_export_is_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_image(tmp_path / f"{name}.png")
    shape = json.dumps(POLYGON).replace('"', '""')
    (tmp_path / "via.csv").write_text(
        "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
        f'a.png,12,"{{}}",1,0,"{shape}","{{""class"":""cat""}}"\n'
        'b.png,13,"{}",0,0,"{}","{}"\n'
    )
    dataset = read_dataset(tmp_path, format_name="via")
    assert [len(record.instances) for record in dataset.records] == [1, 0]
    assert dataset.records[0].instances[0].box == (10, 10, 20, 20)


def _project_3(tmp_path: Path, metadata: dict[str, Any]) -> None:
    for name in ("a.png", "b.png"):
        save_image(tmp_path / name)
    names = {"1": "a.png", "2": "b.png"}
    options = {"k": "cat", "m": "dog"}
    content = {
        "project": {"pid": "__VIA_PROJECT_ID__", "rev": "1", "vid_list": ["1", "2"]},
        "config": {"file": {"loc_prefix": {"1": ""}}},
        "attribute": {"1": {"aname": "kind", "anchor_id": "FILE1_Z0_XY1", "type": 4, "options": options}},
        "file": {key: {"fid": int(key), "fname": name, "type": 2, "loc": 1, "src": ""} for key, name in names.items()},
        "view": {key: {"fid_list": [int(key)]} for key in names},
        "metadata": metadata,
    }
    (tmp_path / "project.json").write_text(json.dumps(content))


def test_project_of_version_3_is_read(tmp_path: Path) -> None:
    shapes = [
        [7, 10, 10, 20, 10, 20, 20],
        [2, 5, 6, 10, 20],
        [3, 30, 20, 8],
        [4, 30, 20, 10, 4],
        [8, 5, 9, 20, 8, 10, 3, 12, 30],
        [9, 35, 20, 30, 25, 25, 20],
    ]
    metadata = {
        f"1_{number}": {"vid": "1", "flg": 0, "z": [], "xy": xy, "av": {"1": "m"}} for number, xy in enumerate(shapes)
    }
    metadata["2_x"] = {"vid": "2", "z": [1.5, 2], "xy": [], "av": {}}
    _project_3(tmp_path, metadata)
    dataset = read_dataset(tmp_path, format_name="via")
    boxes = [item.box for item in dataset.records[0].instances]
    expected = [(10, 10, 20, 20), (5, 6, 15, 26), (22, 12, 38, 28), (20, 16, 40, 24), (5, 3, 20, 30), (25, 15, 35, 25)]
    for box, numbers in zip(boxes, expected, strict=True):
        assert box == pytest.approx(numbers, abs=0.1)
    assert dataset.class_names == ("cat", "dog")
    assert {item.class_index for item in dataset.records[0].instances} == {1}
    assert dataset.records[1].instances == ()
    assert "segments of time, left out: 1" in dataset.notes[0]


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"name": "blob"}, r"via\.json: a\.png, regions\[0\] has the shape 'blob', which must be one of rect"),
        (
            {"name": "rect", "x": 1, "y": "b", "width": 3, "height": 4},
            r"regions\[0\] has y 'b', which must be a number",
        ),
        ({**POLYGON, "all_points_x": [1, 2]}, r"all_points_x \[1, 2\] .* two lists of as many numbers"),
        ({"name": "polygon"}, r"all_points_x None"),
        ([], r"regions\[0\] is .* must have 'shape_attributes'"),
    ],
)
def test_wrong_region_error_names_file_image_and_field(tmp_path: Path, shape: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        _read(tmp_path, _region(shape))


def test_wrong_version_3_shape_and_csv_line_errors_name_the_place(tmp_path: Path) -> None:
    _project_3(tmp_path, {"1_a": {"vid": "1", "z": [], "xy": [44, 1, 2], "av": {}}})
    with pytest.raises(UserError, match=r"metadata 1_a has the shape 44, which must be one of 1 point, 2 rect"):
        read_dataset(tmp_path, format_name="via")
    (tmp_path / "project.json").unlink()
    header = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    (tmp_path / "via.csv").write_text(f'{header}\na.png,12,"{{}}",1,0,"{{name","{{}}"\n')
    with pytest.raises(UserError, match=r"via\.csv, line 2: region_shape_attributes is '\{name'"):
        read_dataset(tmp_path, format_name="via")


def test_missing_images_are_errors_only_with_regions(tmp_path: Path) -> None:
    path = _export(tmp_path / "via.json", a=[_region()], b=[], c=[_region()])
    (tmp_path / "b.png").unlink()
    assert "missing images without regions left out: 1" in " ".join(read_dataset(tmp_path, format_name="via").notes)
    (tmp_path / "c.png").unlink()
    with pytest.raises(UserError, match=r"c\.png \(via\.json\)"):
        read_dataset(path, format_name="via")


def test_two_files_of_the_same_images_are_an_error(tmp_path: Path) -> None:
    for name in ("old.json", "new.json"):
        _export(tmp_path / name, a=[_region()])
    with pytest.raises(UserError, match=r"old\.json has regions of the image a\.png, and .*new\.json has, too"):
        read_dataset(tmp_path, format_name="via")


def test_written_project_is_read_back_with_an_object_per_part(tmp_path: Path) -> None:
    dataset = example_dataset(tmp_path / "photos")
    writer = write_dataset("via", {"": dataset}, tmp_path / "out")
    again = read_dataset(tmp_path / "out", format_name="via")
    triangle, first, second, ring = again.records[0].instances
    assert (again.class_names, again.notes) == (("cat", "dog"), ())
    assert [np.asarray(item.segmentation).ravel().tolist() for item in (triangle, first, second)] == [
        TRIANGLE,
        *SQUARES,
    ]
    assert [item.class_index for item in again.records[0].instances] == [1, 0, 0, 1]
    assert (triangle.score, ring.score) == (0.75, None)
    assert masks_of(again.records[0])[3].sum() == 144  # the hole is filled
    assert " ".join(writer.lost.notes()).count(": 1 (first: object first, annotation") == 2


def test_written_project_has_the_sections_of_version_2(tmp_path: Path) -> None:
    parts = {side: example_dataset(tmp_path / "photos", split=side) for side in ("train", "val")}
    write_dataset("via", parts, tmp_path / "out")
    project = json.loads((tmp_path / "out/val/via_project.json").read_text())
    size = (tmp_path / "out/val/val_first.png").stat().st_size
    assert project["_via_image_id_list"][0] == f"val_first.png{size}"
    assert project["_via_img_metadata"][f"val_first.png{size}"]["size"] == size
    assert list(project["_via_attributes"]["region"]["class"]["options"]) == ["cat", "dog"]
    records = read_dataset(tmp_path / "out", format_name="via").records
    assert [record.split for record in records] == ["train", "train", "val", "val"]


def test_written_boxes_are_boxes_and_crowds_stay_crowds(tmp_path: Path) -> None:
    dataset = boxes_and_crowd(example_dataset(tmp_path / "photos"))
    writer = write_dataset("via", {"": dataset}, tmp_path / "out")
    found = read_dataset(tmp_path / "out", format_name="via").records[0].instances
    assert [(item.box, item.is_crowd) for item in found] == [
        ((5.5, 6.0, 30.0, 20.25), False),
        ((5.0, 5.0, 25.5, 30.0), True),
    ]
    assert (found[0].segmentation, writer.lost.notes()) == (None, ())
