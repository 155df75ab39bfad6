"""GeoJSON as QGIS and QuPath write it, and as they read it; polygons compared with shapely."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import tifffile
from PIL import Image

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.annotations.listing import FileListing
from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.catalog import load_dataset
from mrcnn_zoo.data.formats.geojson import GeoJsonFormat
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.masks import segmentation_rle
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops import rle

SQUARE = [[2, 3], [6, 3], [6, 8], [2, 8], [2, 3]]
HOLE = [[3, 4], [3, 6], [5, 6], [5, 4], [3, 4]]
UTM = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
TAGS = [  # half a metre per pixel, UTM 33 N
    (33550, "d", 3, (0.5, 0.5, 0.0), True),
    (33922, "d", 6, (0.0, 0.0, 0.0, 389000.0, 5820000.0, 0.0), True),
    (34735, "H", 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633), True),
]


def feature(*rings: Any, kind: str = "Polygon", **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": list(rings)}, "properties": properties}


def collection(*features: Any, **members: Any) -> dict[str, Any]:
    return {"type": "FeatureCollection", **members, "features": list(features)}


def put(folder: Path, content: Any, name: str = "a.geojson", *, image: str = "a.png") -> Path:
    """A GeoJSON beside an image of 12 x 16."""
    (folder / image).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    if image.endswith(".tif"):
        tifffile.imwrite(folder / image, np.zeros((12, 16, 3), np.uint8), photometric="rgb", extratags=TAGS)
    else:
        Image.new("RGB", (16, 12)).save(folder / image)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def objects(cfg: CfgNode, folder: Path) -> list[InstanceRecord]:
    return [item for record in load_dataset(cfg, str(folder)).records for item in record.instances]


def mask_of(item: InstanceRecord, size: tuple[int, int] = (12, 16)) -> np.ndarray:
    window = rle.decode_window(segmentation_rle(item.segmentation, size))
    mask = np.zeros(size, dtype=bool)
    if window is not None:
        mask[window.y :, window.x :][: window.bitmap.shape[0], : window.bitmap.shape[1]] = window.bitmap
    return mask


def test_polygon_in_pixels_is_a_polygon(cfg: CfgNode, tmp_path: Path) -> None:
    (item,) = objects(cfg, put(tmp_path, collection(feature(SQUARE, **{"class": "cell"}))))
    assert item.box == (2, 3, 6, 8)
    np.testing.assert_array_equal(item.segmentation, [[2, 3, 6, 3, 6, 8, 2, 8]])


def test_hole_is_taken_out_of_the_mask(cfg: CfgNode, tmp_path: Path) -> None:
    (item,) = objects(cfg, put(tmp_path, collection(feature(SQUARE, HOLE))))
    expected = np.zeros((12, 16), dtype=bool)
    expected[3:8, 2:6] = True
    expected[4:6, 3:5] = False
    np.testing.assert_array_equal(mask_of(item), expected)


def test_parts_of_a_multipolygon_are_one_object(cfg: CfgNode, tmp_path: Path) -> None:
    other = [[10, 1], [12, 1], [12, 2], [10, 2], [10, 1]]
    content = collection(
        feature([SQUARE], [other], kind="MultiPolygon"), feature([SQUARE, HOLE], [other], kind="MultiPolygon")
    )
    plain, with_hole = objects(cfg, put(tmp_path, content))
    assert len(plain.segmentation) == 2
    assert plain.box == (2, 1, 12, 8)
    assert (mask_of(plain).sum(), mask_of(with_hole).sum()) == (22, 18)


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"class": "a", "name": "b"}, "a"),
        ({"Class": "a"}, "a"),
        ({"label": 3}, "3"),
        ({"category": "a"}, "a"),
        (
            {"objectType": "annotation", "classification": {"name": "Tumor", "color": [200, 0, 0]}, "name": "No 1"},
            "Tumor",
        ),
        ({"class": "old", "classification": {"name": "corrected"}}, "corrected"),
        ({"class": "a", "classification": '{ "name": "a" }'}, "a"),
        ({"classification": "a"}, "a"),
        ({"type": "building"}, "building"),
        ({"name": "roof"}, "roof"),
        ({"objectType": "detection", "isLocked": False}, "object"),
        ({"class": None, "class_name": " a "}, "a"),
    ],
    ids=str,
)
def test_class_comes_from_the_properties(cfg: CfgNode, tmp_path: Path, properties: Any, expected: str) -> None:
    put(tmp_path, collection(feature(SQUARE, **properties)))
    assert load_dataset(cfg, str(tmp_path)).class_names == (expected,)


def test_names_of_single_features_are_no_classes(cfg: CfgNode, tmp_path: Path, caplog) -> None:
    put(tmp_path, collection(*(feature(SQUARE, name=f"house {number}") for number in range(30))))
    with caplog.at_level(logging.WARNING):
        assert load_dataset(cfg, str(tmp_path)).class_names == ("object",)
    assert "names of features, almost all distinct, not taken as classes" in caplog.text


def test_scores_and_crowds(cfg: CfgNode, tmp_path: Path) -> None:
    features = [feature(SQUARE, score=0.25), feature(SQUARE, confidence=1), feature(SQUARE, score=7, crowd=True)]
    items = objects(cfg, put(tmp_path, collection(*features)))
    assert [(item.score, item.is_crowd) for item in items] == [(0.25, False), (1.0, False), (None, True)]


@pytest.mark.parametrize(
    "content",
    [[feature(SQUARE), feature(SQUARE)], [feature(SQUARE)], feature(SQUARE)],
    ids=["list", "list of one", "single feature"],
)
@pytest.mark.parametrize("name", ["a.geojson", "a.json"])
def test_features_without_a_collection_as_qupath_writes_them(cfg, tmp_path: Path, content: Any, name: str) -> None:
    items = objects(cfg, put(tmp_path, content, name))
    assert len(items) == (len(content) if isinstance(content, list) else 1)


def test_points_lines_and_null_are_counted(cfg: CfgNode, tmp_path: Path, caplog) -> None:
    line = {"type": "Feature", "geometry": {"type": "LineString", "coordinates": [[0, 0], [1, 1]]}, "properties": None}
    null = {"type": "Feature", "geometry": None, "properties": {}}
    both = {"type": "GeometryCollection", "geometries": [line["geometry"], feature(SQUARE)["geometry"]]}
    put(tmp_path, collection(line, null, {"type": "Feature", "geometry": both}, feature([])))
    with caplog.at_level(logging.WARNING):
        assert len(objects(cfg, tmp_path)) == 1
    assert "points, lines and empty geometries left out: 3" in caplog.text


def on_map(ring: list[list[float]]) -> list[list[float]]:
    return [[389000 + 0.5 * x, 5820000 - 0.5 * y] for x, y in ring]


def test_map_coordinates_of_a_geotiff(cfg: CfgNode, tmp_path: Path) -> None:
    (item,) = objects(cfg, put(tmp_path, collection(feature(on_map(SQUARE)), crs=UTM), image="a.tif"))
    assert item.box == pytest.approx((2, 3, 6, 8), abs=1e-6)


def test_map_coordinates_of_a_world_file(cfg: CfgNode, tmp_path: Path) -> None:
    put(tmp_path, collection(feature(on_map(SQUARE))))
    (tmp_path / "a.pgw").write_text("0.5\n0\n0\n-0.5\n389000.25\n5819999.75")
    assert objects(cfg, tmp_path)[0].box == pytest.approx((2, 3, 6, 8), abs=1e-6)


def test_degrees_are_not_taken_for_pixels(cfg: CfgNode, tmp_path: Path) -> None:
    put(tmp_path, collection(feature([[13.002, 52.003], [13.006, 52.003], [13.006, 52.008]])))
    Image.new("RGB", (160, 120)).save(tmp_path / "a.png")  # the degrees are inside as pixels, too
    (tmp_path / "a.pgw").write_text("0.001\n0\n0\n-0.001\n13.0005\n52.0195")
    assert objects(cfg, tmp_path)[0].box == pytest.approx((2, 12, 6, 17), abs=1e-6)


def test_pixels_of_a_geotiff(cfg: CfgNode, tmp_path: Path) -> None:
    assert objects(cfg, put(tmp_path, collection(feature(SQUARE)), image="a.tif"))[0].box == (2, 3, 6, 8)


def test_coordinates_below_the_axis_are_those_of_qgis(cfg: CfgNode, tmp_path: Path) -> None:
    below = [[x, -y] for x, y in SQUARE]
    assert objects(cfg, put(tmp_path, collection(feature(below))))[0].box == (2, 3, 6, 8)


def test_polygon_around_the_whole_image_is_clipped(cfg: CfgNode, tmp_path: Path) -> None:
    wide = on_map([[-50, -50], [500, -50], [500, 500], [-50, 500]])
    assert objects(cfg, put(tmp_path, collection(feature(wide)), image="a.tif"))[0].box == (0, 0, 16, 12)


def test_coordinates_outside_a_georeferenced_image_are_refused_with_both_extents(cfg, tmp_path: Path) -> None:
    degrees = {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}
    put(tmp_path, collection(feature([[113.1, 52.4], [113.2, 52.4], [113.2, 52.5]]), crs=degrees), image="a.tif")
    message = (
        r"a.geojson: its coordinates \(EPSG:4326\) have x from 113.1 to 113.2 and y from 52.4 to 52.5, all outside the "
        r"image, which has x from 389000 to 389008 and y from 5819994 to 5820000 \(EPSG:32633, from .*a.tif\). They "
        r"seem to be longitudes and latitudes. Convert them to EPSG:32633: ogr2ogr -t_srs EPSG:32633 new.geojson "
        r"a.geojson; or give them in pixels"
    )
    with pytest.raises(UserError, match=message):
        load_dataset(cfg, str(tmp_path))


def test_map_coordinates_of_an_image_without_any_are_refused(cfg: CfgNode, tmp_path: Path) -> None:
    put(tmp_path, collection(feature(on_map(SQUARE))))
    with pytest.raises(
        UserError, match=r"a.geojson: its coordinates have x from 389001 .* of 16 x 12 pixels, which has no map"
    ):
        load_dataset(cfg, str(tmp_path))


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("a.geojson", "a.png"),
        ("a.v2.geojson", "a.v2.png"),
        ("a.tif.geojson", "a.tif"),
        ("labels/a.geojson", "images/a.png"),
        ("train/a.geojson", "train/a.png"),
        ("roofs.geojson", "ortho.tif"),
    ],
)
def test_image_has_the_name_of_the_file_or_is_the_only_one(cfg, tmp_path: Path, name: str, image: str) -> None:
    put(tmp_path, collection(feature(SQUARE)), name, image=image)
    (record,) = load_dataset(cfg, str(tmp_path)).records
    assert record.source.name == str(tmp_path / image)


def test_sides_are_folders_and_images_without_a_file_are_counted(cfg: CfgNode, tmp_path: Path, caplog) -> None:
    for name in ("train/a", "val/a", "val/b"):
        put(tmp_path, collection(feature(SQUARE)), f"{name}.geojson", image=f"{name}.png")
    Image.new("RGB", (16, 12)).save(tmp_path / "train/c.png")
    with caplog.at_level(logging.WARNING):
        assert [len(load_dataset(cfg, f"{tmp_path}:{side}")) for side in ("train", "val")] == [1, 2]
    assert "images without an annotation file left out: 1 (first: image train/c.png)" in caplog.text


def test_image_without_features_has_no_objects(cfg: CfgNode, tmp_path: Path) -> None:
    put(tmp_path, collection(), "b.geojson", image="b.png")
    put(tmp_path, collection(feature(SQUARE)))
    assert [len(record.instances) for record in load_dataset(cfg, str(tmp_path)).records] == [1, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a.geojson is not valid JSON"),
        ('{"type": "FeatureCollection", "features": [', "is truncated"),
        ({"type": "FeatureCollection"}, "is not a collection of features: its type is 'FeatureCollection'"),
        (collection({"type": "Polygon", "coordinates": []}), r"features\[0\] is .* which is not a feature"),
        (
            collection({"type": "Feature", "properties": {}}),
            r"features\[0\] has geometry None, which must be a geometry",
        ),
        (collection(feature(SQUARE) | {"properties": [1]}), r"features\[0\] has properties \[1\]"),
        (collection(feature(SQUARE), feature([[1, 2], [3]])), r"features\[1\] has coordinates .* a ring of positions"),
        (collection(feature([["a", "b"]])), r"features\[0\] has coordinates .* a ring of positions"),
        (collection(feature(SQUARE[0])), r"features\[0\] has coordinates .* a ring of positions"),
        (
            '{"type": "FeatureCollection", "features": [' + json.dumps(feature([[1, "NaN"], [2, 3], [4, 5]])) + "]}",
            "finite",
        ),
        (collection(feature(3)), r"features\[0\] has coordinates"),
        (collection(feature(SQUARE) | {"geometry": "POLYGON((1 2))"}), r"features\[0\] has geometry 'POLYGON"),
    ],
)
def test_bad_file_is_one_message_with_its_name(cfg: CfgNode, tmp_path: Path, content: Any, message: str) -> None:
    put(tmp_path, content)
    for path in (tmp_path, tmp_path / "a.geojson"):
        with pytest.raises(UserError, match=message):
            load_dataset(cfg, str(path))


def test_missing_image_is_named(cfg: CfgNode, tmp_path: Path) -> None:
    put(tmp_path, collection(feature(SQUARE)), "b.geojson")
    put(tmp_path, collection(feature(SQUARE)))
    with pytest.raises(UserError, match=r"1 image that annotations name are missing.*: b.\* \(b.geojson\)"):
        load_dataset(cfg, str(tmp_path))


@pytest.mark.parametrize("content", ["{}", '{"type": "Topology", "objects": {}}', '{"shapes": []}', "[1]", "x"])
def test_other_files_are_not_geojson(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    assert GeoJsonFormat().find(FileListing(tmp_path)) is None


def ring_mask() -> np.ndarray:
    """A disk with a hole, a pixel that touches it at a corner, and a part apart."""
    y, x = np.mgrid[:30, :40]
    radius = np.hypot(x - 15.2, y - 14.7)
    mask = (radius < 12) & (radius > 5)
    mask[2:6, 30:38] = True
    mask[6, 29] = True
    return mask


@pytest.fixture(params=["pixels.png", "map.tif"])
def written(request, tmp_path: Path) -> tuple[Dataset, Path]:
    """A dataset with a mask, a polygon, a crowd and a box, written as GeoJSON."""
    source = tmp_path / request.param
    if source.suffix == ".tif":
        tifffile.imwrite(
            source, np.zeros((30, 40, 4), np.uint16), photometric="minisblack", planarconfig="contig", extratags=TAGS
        )
    else:
        Image.new("RGB", (40, 30)).save(source)
    triangle = [[5.5, 6.25, 20.0, 8.0, 9.125, 21.5]]
    items = (
        InstanceRecord((4, 2, 38, 27), 0, rle.encode(ring_mask()), score=0.875),
        InstanceRecord((5.5, 6.25, 20.0, 21.5), 1, triangle, annotation_id=2),
        InstanceRecord((4, 2, 38, 27), 1, rle.encode(ring_mask()), is_crowd=True),
        InstanceRecord((1.0, 2.0, 3.0, 5.0), 0),
    )
    record = ImageRecord(1, FileImage(str(source)), (30, 40), items, split="val")
    dataset = Dataset("d", (record,), ("cell", "dirt"), (1, 2))
    (tmp_path / "out").mkdir()
    GeoJsonFormat().write({"val": dataset}, tmp_path / "out", DatasetWriter(dataset.records))
    return dataset, tmp_path / "out"


def test_written_masks_are_read_unchanged(cfg: CfgNode, written: tuple[Dataset, Path]) -> None:
    dataset, folder = written
    (record,) = load_dataset(cfg, f"{folder}:val").records
    (old,) = dataset.records
    assert record.image_size == (30, 40)
    for new, item in zip(record.instances, old.instances, strict=True):
        assert (new.class_index, new.score, new.is_crowd) == (item.class_index, item.score, item.is_crowd)
        assert new.box == pytest.approx(item.box, abs=1e-3)
    for row in (0, 2):
        np.testing.assert_array_equal(mask_of(record.instances[row], (30, 40)), ring_mask())
    (new,), (item,) = (np.reshape(each.instances[1].segmentation, (1, 3, 2)) for each in (record, old))
    is_turned = shapely.LinearRing(new).is_ccw != shapely.LinearRing(item).is_ccw
    np.testing.assert_allclose(new[[0, 2, 1]] if is_turned else new, item, atol=1e-3)


def test_shapely_reads_valid_polygons_that_turn_counter_clockwise(written: tuple[Dataset, Path]) -> None:
    _, folder = written
    (file,) = folder.rglob("*.geojson")
    shapes = [shapely.from_geojson(json.dumps(item["geometry"])) for item in json.loads(file.read_text())["features"]]
    unit = 0.25 if file.stem == "map" else 1.0  # square metres per pixel
    areas = [shape.area / unit for shape in shapes]
    assert areas[0] == pytest.approx(ring_mask().sum(), rel=0.05)
    assert areas[3] == pytest.approx(6)
    for shape in shapes:
        assert shape.is_valid
        for polygon in getattr(shape, "geoms", [shape]):
            assert polygon.exterior.is_ccw
            assert not any(hole.is_ccw for hole in polygon.interiors)
    assert sum(len(polygon.interiors) for polygon in shapes[0].geoms) == 1


def test_members_for_qgis_and_qupath(written: tuple[Dataset, Path]) -> None:
    _, folder = written
    (file,) = folder.rglob("*.geojson")
    content = json.loads(file.read_text())
    assert content.get("crs") == (UTM if file.stem == "map" else None)
    assert content["features"][0]["properties"] == {
        "class": "cell",
        "classification": {"name": "cell"},
        "objectType": "annotation",
        "area_pixels": float(ring_mask().sum()),
        "score": 0.875,
    }
    corners = {tuple(point) for point in content["features"][3]["geometry"]["coordinates"][0]}
    box = [[1, 2], [3, 2], [3, 5], [1, 5]]
    assert corners == {tuple(point) for point in (on_map(box) if file.stem == "map" else box)}


def test_world_file_goes_with_its_image(cfg: CfgNode, tmp_path: Path) -> None:
    put(tmp_path / "in", collection(feature(on_map(SQUARE))))
    (tmp_path / "in/a.pgw").write_text("0.5\n0\n0\n-0.5\n389000.25\n5819999.75")
    dataset = load_dataset(cfg, str(tmp_path / "in"))
    (tmp_path / "out").mkdir()
    GeoJsonFormat().write({"": dataset}, tmp_path / "out", DatasetWriter(dataset.records))
    assert (tmp_path / "out/images/a.pgw").is_file()
    assert objects(cfg, tmp_path / "out")[0].box == pytest.approx((2, 3, 6, 8), abs=1e-3)


def test_images_that_are_not_copied_are_named(cfg: CfgNode, tmp_path: Path) -> None:
    dataset = load_dataset(cfg, str(put(tmp_path / "in", collection(feature(SQUARE)))))
    (tmp_path / "out").mkdir()
    GeoJsonFormat().write({"": dataset}, tmp_path / "out", DatasetWriter(dataset.records, copies_images=False))
    (record,) = load_dataset(cfg, str(tmp_path / "out")).records
    assert Path(record.source.name).resolve() == tmp_path / "in/a.png"


def test_polygons_that_cross_become_the_outlines_of_their_mask(cfg: CfgNode, tmp_path: Path) -> None:
    dataset = load_dataset(cfg, str(put(tmp_path / "in", collection(feature(SQUARE)))))
    bow_tie, overlap = [[1.0, 1, 11, 9, 11, 1, 1, 9]], [[1.0, 1, 5, 1, 5, 5, 1, 5], [3.0, 3, 9, 3, 9, 9, 3, 9]]
    (record,) = dataset.records
    items = tuple(replace(record.instances[0], segmentation=polygons) for polygons in (bow_tie, overlap))
    dataset = replace(dataset, records=(replace(record, instances=items),))
    writer = DatasetWriter(dataset.records)
    (tmp_path / "out").mkdir()
    GeoJsonFormat().write({"": dataset}, tmp_path / "out", writer)
    features = json.loads((tmp_path / "out/images/a.geojson").read_text())["features"]
    assert all(shapely.from_geojson(json.dumps(item["geometry"])).is_valid for item in features)
    assert writer.lost.notes()[0].startswith("polygons that cross written as the outlines of their mask: 2")
    read = load_dataset(cfg, str(tmp_path / "out")).records[0].instances
    for new, old in zip(read, items, strict=True):
        np.testing.assert_array_equal(mask_of(new), mask_of(old))
