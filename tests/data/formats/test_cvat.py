"""CVAT's XML for images and videos; shapes worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrcnn_zoo.data.annotations.contract import ReadOptions
from mrcnn_zoo.data.annotations.detection import find_format
from mrcnn_zoo.data.annotations.listing import FileListing
from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.formats.cvat import CvatFormat
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.masks import segmentation_rle
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops import rle

SIZE = (50, 100)  # height, width
LABELS = "<labels><label><name>cat</name></label><label><name>dog</name></label><label><name>ear</name>\
<parent>cat</parent></label></labels>"
POLYGON = '<polygon label="dog" source="manual" occluded="0" points="10.00,5.00;20.00,5.00;20.00,15.00" z_order="0"/>'
BOX = '<box label="cat" xtl="10.5" ytl="5" xbr="20.5" ybr="25" z_order="0"{}><attribute name="a">1</attribute></box>'


def document(body: str, meta: str = f"<task><size>2</size><mode>annotation</mode>{LABELS}</task>") -> str:
    head = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
    return f"{head}  <meta>{meta}</meta>\n{body}\n</annotations>\n"


def image(*shapes: str, name: str = "a.png", fields: str = "") -> str:
    return f'<image id="0" name="{name}" width="100" height="50"{fields}>{"".join(shapes)}</image>'


def make(root: Path, files: dict[str, str], images: tuple[str, ...] = ("images/a.png",)) -> Path:
    for name in (*files, *images):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / name).write_text(text, encoding="utf-8")
    for name in images:
        Image.new("L", SIZE[::-1]).save(root / name)
    return root


def read(path: Path) -> Dataset:
    kind, found = find_format(path, dataset="mine")
    assert kind.name == "cvat"
    return kind.read(found, ReadOptions("mine"))


def read_shapes(root: Path, *shapes: str) -> Dataset:
    return read(make(root, {"annotations.xml": document(image(*shapes))}))


def pixels(instance: InstanceRecord) -> list[tuple[int, int]]:
    """(row, column) of the pixels of a mask."""
    bitmap = rle.decode(segmentation_rle(instance.segmentation, SIZE))
    return list(zip(*(axis.tolist() for axis in np.nonzero(bitmap)), strict=True))


def test_polygon_and_box(tmp_path: Path) -> None:
    dataset = read_shapes(tmp_path, POLYGON, BOX.format(""))
    polygon, box = dataset.records[0].instances
    assert dataset.class_names == ("cat", "dog")  # in the order of the labels, without parts of skeletons
    assert (polygon.class_index, polygon.segmentation[0].tolist()) == (1, [10, 5, 20, 5, 20, 15])
    assert (box.class_index, box.segmentation, box.box) == (0, None, (10.5, 5, 20.5, 25))
    assert dataset.notes == ()


def test_box_and_ellipse_are_rotated_clockwise(tmp_path: Path) -> None:
    ellipse = '<ellipse label="cat" cx="50" cy="20" rx="20" ry="5" rotation="90"/>'
    box, round_shape = read_shapes(tmp_path, BOX.format(' rotation="90.00"'), ellipse).records[0].instances
    # 10 x 20 about its centre (15.5, 15): the upper left corner comes to the upper right.
    assert box.segmentation[0].tolist() == pytest.approx([25.5, 10, 25.5, 20, 5.5, 20, 5.5, 10])
    assert round_shape.box == pytest.approx((45, 0, 55, 40), abs=0.1)
    area = rle.area(segmentation_rle(round_shape.segmentation, SIZE))
    assert area == pytest.approx(np.pi * 20 * 5, rel=0.03)


def test_runs_of_masks_go_along_the_rows_of_their_box(tmp_path: Path) -> None:
    mask = '<mask label="cat" rle="1, 2, 1, 1" left="7" top="3" width="3" height="2"/>'
    (item,) = read_shapes(tmp_path, mask).records[0].instances
    assert pixels(item) == [(3, 8), (3, 9), (4, 8)]  # the last zero may be missing


def test_shapes_of_one_group_and_label_are_one_object(tmp_path: Path) -> None:
    other = POLYGON.replace("10.00,5.00", "40.00,5.00").replace("20.00", "50.00")
    grouped = [shape.replace('z_order="0"', 'group_id="3"') for shape in (POLYGON, other)]
    mask = '<mask label="dog" rle="0, 4" left="80" top="3" width="2" height="2" group_id="3"/>'
    cat = BOX.format(' group_id="3"')
    first, second = read_shapes(tmp_path / "a", *grouped, cat).records[0].instances
    assert [polygon[0] for polygon in first.segmentation] == [10, 40]
    assert second.class_index == 0
    (united,) = read_shapes(tmp_path / "b", *grouped, mask).records[0].instances
    assert {(5, 12), (3, 80), (4, 81)} <= set(pixels(united))
    assert len(read_shapes(tmp_path / "c", POLYGON, other).records[0].instances) == 2


def test_box_beside_the_polygon_of_its_group_is_left_out(tmp_path: Path) -> None:
    polygon = POLYGON.replace('z_order="0"', 'group_id="3"')
    box = BOX.format(' group_id="3"').replace('label="cat"', 'label="dog"')  # as datumaro writes it
    dataset = read_shapes(tmp_path / "both", polygon, box)
    (alone,) = read_shapes(tmp_path / "alone", polygon).records[0].instances
    (item,) = dataset.records[0].instances
    assert pixels(item) == pixels(alone)
    assert dataset.notes[0].startswith("boxes of masks and polygons in the same group left out: 1")


def test_shapes_that_are_no_areas_are_counted(tmp_path: Path) -> None:
    shapes = ['<polyline label="cat" points="1,1;5,5"/>', '<points label="cat" points="1,1"/>', '<tag label="cat"/>']
    shapes += ['<cuboid label="cat" xtl1="1"/>', '<skeleton label="cat"><points label="ear" points="1,2"/></skeleton>']
    dataset = read_shapes(tmp_path, POLYGON, *shapes)
    assert len(dataset.records[0].instances) == 1
    assert [note.split(":")[0] for note in dataset.notes] == [
        *("polylines left out", "points left out", "tags of images left out", "cuboids left out", "skeletons left out")
    ]


def test_subsets_are_sides_and_images_are_found_in_their_folders(tmp_path: Path) -> None:
    body = image(POLYGON, name="x/a.png", fields=' subset="Train"') + image(
        name="x/a.png", fields=' subset="Validation"'
    )
    meta = f"<project><name>p</name><subsets>Train\nValidation</subsets>{LABELS}</project>"
    files = ("images/Train/x/a.png", "images/Validation/x/a.png", "images/b.png")
    dataset = read(make(tmp_path, {"annotations.xml": document(body, meta)}, files))
    found = [(record.split, Path(record.source.name).relative_to(tmp_path).as_posix()) for record in dataset.records]
    assert found == [("train", files[0]), ("val", files[1])]
    assert dataset.notes == ("images that are not in the file left out: 1 (first: image images/b.png)",)


def test_several_files_are_united_and_labels_may_be_absent(tmp_path: Path) -> None:
    files = {
        "train.xml": document(image(POLYGON), meta=""),
        "val.xml": document(image(BOX.format(""), name="b.png"), meta=""),
    }
    dataset = read(make(tmp_path, files, ("images/a.png", "images/b.png")))
    assert [record.split for record in dataset.records] == ["train", "val"]
    assert dataset.class_names == ("cat", "dog")


TRACK = (
    '<track id="0" label="dog" source="manual">'
    '<polygon frame="0" keyframe="1" outside="0" occluded="0" points="10,5;20,5;20,15" z_order="0"/>'
    '<polygon frame="2" keyframe="1" outside="1" occluded="0" points="10,5;20,5;20,15" z_order="0"/></track>'
)
VIDEO = document(TRACK, meta=f"<task><size>3</size><mode>interpolation</mode>{LABELS}</task>")


@pytest.mark.parametrize("name", ["images/frame_{:06d}.png", "images/{}.png"])
def test_frames_of_a_video_are_images(tmp_path: Path, name: str) -> None:
    dataset = read(make(tmp_path, {"annotations.xml": VIDEO}, tuple(name.format(number) for number in range(3))))
    assert [len(record.instances) for record in dataset.records] == [1, 0, 0]
    assert dataset.records[0].instances[0].class_index == 1


def test_video_without_images_is_refused(tmp_path: Path) -> None:
    make(tmp_path, {"annotations.xml": VIDEO}, ("video.png",))
    with pytest.raises(
        UserError, match=r"annotations.xml has the tracks of a video, .* frame 0 is missing \(frame_000000"
    ):
        read(tmp_path)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (image(POLYGON.replace("5.00;20", "5.00;x")), r"image 'a.png', polygon 1: points = '10.00,5.00;x"),
        (image(POLYGON.replace('points="', 'dots="')), "polygon 1: points = '' must be x,y;x,y;"),
        (image(POLYGON, BOX.format("").replace("xbr", "right")), "box 2: xbr of <box> is missing"),
        (image(BOX.format(' rotation="left"')), "box 1: rotation of <box> is 'left'; it must be a number"),
        (image(BOX.format("").replace('label="cat"', "")), "box 1 has no label"),
        (image("<circle/>"), "<circle> is no shape of CVAT 1.1"),
        (image('<mask label="cat" rle="1,9" left="0" top="0" width="3" height="2"/>'), "cover 10 pixels; .* 3 x 2 = 6"),
        (image('<mask label="cat" rle="" left="0" top="0" width="3" height="2"/>'), "its rle are not whole numbers"),
        (image(name="gone.png"), r"1 image that annotations name are missing.*gone.png \(.*annotations.xml\)"),
        (image().replace('"100"', '"200"'), r"image 'a.png' is 200 x 50 pixels .* there, and the file .* is 100 x 50"),
        ('<image id="3"/>', "<image id='3'> has no name"),
        (image(POLYGON)[:-3], "annotations.xml is not valid XML: .*line"),
    ],
)
def test_bad_shape_is_named(tmp_path: Path, body: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read(make(tmp_path, {"annotations.xml": document(body)}))


def test_entities_are_refused(tmp_path: Path) -> None:
    text = document(image(POLYGON)).replace("<annotations>", '<!DOCTYPE x [<!ENTITY a "ha">]><annotations>', 1)
    with pytest.raises(UserError, match="has a document type"):
        read(make(tmp_path, {"annotations.xml": text}))


@pytest.mark.parametrize("text", ["<annotation><object/></annotation>", "<annotations/>", ""])
def test_other_files_are_not_claimed(tmp_path: Path, text: str) -> None:
    assert CvatFormat().find(FileListing(make(tmp_path, {"a.xml": text}))) is None


def test_written_objects_are_read_back(tmp_path: Path) -> None:
    make(tmp_path, {}, ("source/a.png",))
    bitmap = np.zeros(SIZE, dtype=np.uint8)
    bitmap[5:40, 5:40], bitmap[10:20, 10:20] = 1, 0
    parts = [[10.25, 5, 20, 5, 20, 15], [60, 5, 80, 5, 80, 15.125]]
    items = [
        InstanceRecord((5, 5, 40, 40), 1, rle.encode(bitmap), score=0.75),
        InstanceRecord((10.25, 5, 80, 15.125), 0, parts),
        InstanceRecord((1, 2, 30.5, 40), 1),
        InstanceRecord((1, 2, 3, 4), 0, is_crowd=True),
    ]
    record = ImageRecord(1, FileImage(str(tmp_path / "source/a.png")), SIZE, tuple(items))
    writer = DatasetWriter([record])
    folder = tmp_path / "written"
    folder.mkdir()
    CvatFormat().write({"val": Dataset("mine", (record,), ("cat", 'a "b" & c'), (1, 2))}, folder, writer)
    dataset = read(folder)
    mask, polygons, box = dataset.records[0].instances
    assert dataset.class_names == ("cat", 'a "b" & c')
    assert (mask.segmentation, mask.score, mask.class_index) == (items[0].segmentation, 0.75, 1)
    assert [polygon.tolist() for polygon in polygons.segmentation] == parts
    assert (box.box, box.segmentation, box.score) == ((1, 2, 30.5, 40), None, None)
    assert dataset.records[0].split == "val"
    assert writer.lost.notes() == ("regions of uncounted objects left out: 1 (first: object a, annotation 0)",)
