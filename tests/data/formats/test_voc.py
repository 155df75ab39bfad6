"""Pascal VOC as the devkit, LabelImg, Roboflow, CVAT and labelme2voc write it; numbers worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrcnn_zoo.data.annotations.contract import ReadOptions
from mrcnn_zoo.data.annotations.detection import find_format
from mrcnn_zoo.data.annotations.listing import FileListing
from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.formats.voc import VocFormat
from mrcnn_zoo.data.formats.voc_files import save_palette
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.masks import segmentation_rle
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops import rle

CAT = "<name>cat</name><bndbox><xmin>11</xmin><ymin>6</ymin><xmax>20</xmax><ymax>15</ymax></bndbox>"
DOG = "<name>dog</name><bndbox><xmax>60</xmax><xmin>41</xmin><ymax>40</ymax><ymin>21</ymin></bndbox>"
SIZE = (50, 100)


def xml(*objects: str, filename: str = "a.jpg") -> str:
    items = "".join(f"\t<object>{item}</object>\n" for item in objects)
    return f"<annotation>\n\t<folder>x</folder>\n\t<filename>{filename}</filename>\n{items}</annotation>\n"


def make(root: Path, files: dict[str, str], images: tuple[str, ...] = ()) -> Path:
    """Text files, and images of 100 x 50 (width x height)."""
    for name in (*files, *images):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / name).write_text(text, encoding="utf-8")
    for name in images:
        Image.new("L", SIZE[::-1]).save(root / name)
    return root


def paint(path: Path, *regions: tuple[int, int, int, int, int]) -> None:
    """A PNG with VOC's palette; regions are value, x1, y1, x2, y2."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros(SIZE, dtype=np.uint8)
    for value, x1, y1, x2, y2 in regions:
        values[y1:y2, x1:x2] = value
    save_palette(values, path)


def read(path: Path, *, needs_masks: bool = True) -> Dataset:
    kind, found = find_format(path, dataset="mine")
    assert kind.name == "voc"
    return kind.read(found, ReadOptions("mine", needs_masks=needs_masks))


def names_by_side(dataset: Dataset) -> dict[str, list[str]]:
    sides: dict[str, list[str]] = {}
    for record in dataset.records:
        sides.setdefault(record.split, []).append(Path(record.source.name).stem)
    return sides


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """Four images of VOC2012: two of the segmentation sets, three of the main sets."""
    person, chair = CAT.replace("cat", "person"), DOG.replace("dog", "chair")
    files = {f"Annotations/{name}.xml": xml(person, chair, filename=f"{name}.jpg") for name in ("a", "b", "c")}
    files |= {"ImageSets/Main/train.txt": "a\nb\n", "ImageSets/Main/val.txt": "c\n"}
    files |= {"ImageSets/Main/trainval.txt": "a\nb\nc\n", "ImageSets/Main/chair_train.txt": "a  1\nb -1\n"}
    files |= {"ImageSets/Segmentation/train.txt": "a\n", "ImageSets/Segmentation/val.txt": "c\n"}
    make(tmp_path, files, tuple(f"JPEGImages/{name}.jpg" for name in ("a", "b", "c", "d")))
    for name in ("a", "c"):
        paint(tmp_path / f"SegmentationObject/{name}.png", (255, 9, 4, 21, 16), (1, 10, 5, 20, 15), (2, 40, 20, 60, 40))
        paint(tmp_path / f"SegmentationClass/{name}.png", (255, 9, 4, 21, 16), (15, 10, 5, 20, 15), (9, 40, 20, 60, 40))
    return tmp_path


def test_masks_have_the_classes_of_the_masks_of_classes(devkit: Path) -> None:
    dataset = read(devkit)
    assert names_by_side(dataset) == {"train": ["a"], "val": ["c"]}
    assert dataset.class_names == ("chair", "person")
    person, chair = dataset.records[0].instances
    assert (person.class_index, person.box) == (1, (10, 5, 20, 15))
    assert rle.area(segmentation_rle(person.segmentation, SIZE)) == 100  # without the border
    assert (chair.class_index, chair.box) == (0, (40, 20, 60, 40))


def test_main_sets_are_used_without_masks(devkit: Path) -> None:
    dataset = read(devkit, needs_masks=False)
    assert names_by_side(dataset) == {"train": ["a", "b"], "val": ["c"]}
    assert (
        "images without an annotation file, or in no list, left out: 1 (first: image JPEGImages/d.jpg)" in dataset.notes
    )


def test_boxes_are_counted_from_one_and_inclusive(tmp_path: Path) -> None:
    dataset = read(make(tmp_path, {"a.xml": xml(CAT, DOG)}, ("a.jpg",)))
    boxes = [item.box for item in dataset.records[0].instances]
    assert boxes == [(10, 5, 20, 15), (40, 20, 60, 40)]
    assert [item.segmentation for item in dataset.records[0].instances] == [None, None]


def test_size_of_another_image_is_counted(tmp_path: Path) -> None:
    text = xml(CAT).replace("<folder>x</folder>", "<size><width>200</width><height>100</height><depth>3</depth></size>")
    dataset = read(make(tmp_path, {"a.xml": text}, ("a.jpg",)))
    assert dataset.records[0].image_size == SIZE
    assert dataset.notes == ("sizes that are not those of the image file ignored: 1 (first: file a.xml)",)


def test_difficult_objects_are_ignored_regions(tmp_path: Path) -> None:
    dataset = read(make(tmp_path, {"a.xml": xml(f"{CAT}<difficult>1</difficult>", DOG)}, ("a.jpg",)))
    assert [item.is_crowd for item in dataset.records[0].instances] == [True, False]


ROBOFLOW = "<polygon><x1>11</x1><y1>6</y1><x2>21</x2><y2>6</y2><x3>21</x3><y3>16</y3></polygon>"
LABELME_ONLINE = "<polygon><pt><x>11</x><y>6</y></pt><pt><x>21</x><y>6</y></pt><pt><x>21</x><y>16</y></pt></polygon>"
ROLABELIMG = "<robndbox><cx>50</cx><cy>20</cy><w>20</w><h>10</h><angle>1.5707963</angle></robndbox>"


@pytest.mark.parametrize(
    ("extension", "expected"),
    [
        (f"{CAT}{ROBOFLOW}", [10.5, 5.5, 20.5, 5.5, 20.5, 15.5]),
        (f"<name>cat</name><deleted>0</deleted>{LABELME_ONLINE}", [10.5, 5.5, 20.5, 5.5, 20.5, 15.5]),
        (f"<name>cat</name>{ROLABELIMG}", [55, 10, 55, 30, 45, 30, 45, 10]),
    ],
)
def test_polygons_of_other_tools(tmp_path: Path, extension: str, expected: list[float]) -> None:
    dataset = read(make(tmp_path, {"a.xml": xml(extension)}, ("a.jpg",)))
    assert dataset.records[0].instances[0].segmentation[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_folders_are_sides(tmp_path: Path) -> None:
    files = {"train/a.xml": xml(CAT), "valid/b.xml": xml(DOG, filename="other.jpg")}
    dataset = read(make(tmp_path, files, ("train/a.jpg", "valid/b.jpg", "valid/c.jpg")))
    assert names_by_side(dataset) == {"train": ["a"], "val": ["b"]}


@pytest.mark.parametrize(
    ("lines", "colors"),
    [
        ("background:0,0,0::\ncell:10,20,30::\nrod:9,9,9::\n", [(10, 20, 30), (9, 9, 9)]),
        ("background:::\ncell:::\nrod:::\n", [(128, 0, 0), (0, 128, 0)]),  # datumaro's, with VOC's palette
    ],
)
def test_masks_in_colours_without_xml(tmp_path: Path, lines: str, colors: list[tuple[int, int, int]]) -> None:
    files = {"labelmap.txt": f"# label:color_rgb:parts:actions\n{lines}"}
    files["ImageSets/Segmentation/default.txt"] = "a\n"
    make(tmp_path, files, ("JPEGImages/a.jpg",))
    for folder, pair in (("Object", [(1, 2, 3), (128, 0, 0)]), ("Class", colors)):
        pixels = np.zeros((*SIZE, 3), dtype=np.uint8)
        pixels[5:15, 10:20], pixels[20:40, 40:60] = pair
        (tmp_path / f"Segmentation{folder}").mkdir()
        Image.fromarray(pixels).save(tmp_path / f"Segmentation{folder}/a.png")
    dataset = read(tmp_path)
    assert dataset.class_names == ("cell", "rod")
    assert {(item.class_index, item.box) for item in dataset.records[0].instances} == {
        (0, (10, 5, 20, 15)),
        (1, (40, 20, 60, 40)),
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", r"a.xml is empty \(0 bytes\)"),
        (xml(CAT)[:-20], r"a.xml is not valid XML: .*line 4"),
        (xml(DOG, CAT.replace("<name>cat</name>", "")), r"a.xml, object 2 has no <name>"),
        (xml("<name>cat</name>"), "object 1 has neither <bndbox> nor <polygon>"),
        (xml(CAT.replace("<xmin>11</xmin>", "")), "object 1: xmin of <bndbox> is missing"),
        (xml(CAT.replace("11", "11px")), "object 1: xmin of <bndbox> is '11px'; it must be a number"),
        (xml(CAT.replace("11", "nan")), "xmin of <bndbox> is 'nan'"),
        (xml(f"{CAT}<polygon><x1>1</x1><x2>2</x2></polygon>"), "its <polygon> has the fields 'x1 x2'"),
        (xml(DOG, filename="gone.jpg"), r"1 image that annotations name are missing.*gone.jpg \(.*b.xml\)"),
    ],
)
def test_bad_file_is_named(tmp_path: Path, content: str, words: str) -> None:
    is_missing = "gone" in content
    files = {"ok.xml": xml(CAT), "good.xml": xml(CAT), "b.xml" if is_missing else "a.xml": content}
    make(tmp_path, files, ("ok.jpg", "good.jpg", *([] if is_missing else ["a.jpg"])))
    with pytest.raises(UserError, match=words):
        read(tmp_path)


def test_entities_are_refused(tmp_path: Path) -> None:
    bomb = '<?xml version="1.0"?>\n<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>\n' + xml(CAT)
    make(tmp_path, {"a.xml": bomb}, ("a.jpg",))
    with pytest.raises(UserError, match=r"a.xml has a document type .* may declare entities"):
        read(tmp_path)
    (tmp_path / "a.xml").write_bytes(bomb.encode("utf-16"))
    with pytest.raises(UserError, match="has a document type"):
        read(tmp_path)


def test_mask_of_another_size_is_refused(devkit: Path) -> None:
    Image.new("L", (20, 20)).save(devkit / "SegmentationObject/a.png")
    with pytest.raises(UserError, match=r"SegmentationObject/a.png is 20 x 20 pixels .* 100 x 50"):
        read(devkit)


def test_class_without_a_name_is_refused(devkit: Path) -> None:
    paint(devkit / "SegmentationClass/c.png", (77, 0, 0, 100, 50))
    with pytest.raises(UserError, match=r"SegmentationClass/c.png, object 1: its pixels are 77 in the mask of classes"):
        read(devkit)


@pytest.mark.parametrize("files", [{"a.xml": "<annotations><image/></annotations>"}, {"a.xml": "<x/>"}, {}])
def test_other_folders_are_not_claimed(tmp_path: Path, files: dict[str, str]) -> None:
    assert VocFormat().find(FileListing(make(tmp_path, files, ("a.jpg",)))) is None


def mask(*boxes: tuple[int, int, int, int]) -> dict:
    bitmap = np.zeros(SIZE, dtype=np.uint8)
    for x1, y1, x2, y2 in boxes:
        bitmap[y1:y2, x1:x2] ^= 1
    return rle.encode(bitmap)


@pytest.fixture
def written(tmp_path: Path):
    """Writes objects of one image and reads them back; returns the folder, the dataset and the notes of the writer."""

    def write(instances: list[InstanceRecord], side: str = ""):
        make(tmp_path, {}, ("source/a.png",))
        record = ImageRecord(1, FileImage(str(tmp_path / "source/a.png")), SIZE, tuple(instances))
        dataset = Dataset("mine", (record,), ("cat", "grün"), (1, 2))
        writer = DatasetWriter([record])
        folder = tmp_path / "written"
        folder.mkdir()
        VocFormat().write({side: dataset}, folder, writer)
        return folder, read(folder), writer.lost.notes()

    return write


def test_masks_boxes_and_crowds_are_read_back(written) -> None:
    masks = [mask((5, 5, 40, 40), (10, 10, 30, 30), (60, 3, 70, 8)), mask((50, 20, 80, 45)), mask((60, 25, 90, 48))]
    items = [InstanceRecord(rle.bounding_box(item), number % 2, item) for number, item in enumerate(masks)]
    items += [InstanceRecord((2, 3, 9, 8), 1, is_crowd=True), InstanceRecord((80, 2, 99.6, 10.4), 0)]
    folder, dataset, notes = written(items, side="val")
    found = dataset.records[0].instances
    assert [item.class_index for item in found] == [0, 1, 0, 1, 0]
    assert [segmentation_rle(item.segmentation, SIZE) for item in found[:3]] == masks
    assert [(item.box, item.is_crowd) for item in found[3:]] == [((2, 3, 9, 8), True), ((80, 2, 100, 10), False)]
    assert dataset.records[0].split == "val"
    assert (folder / "ImageSets/Segmentation/val.txt").read_text() == "a\n"
    kind = "objects in part behind others in the mask, whole as a polygon in the XML file"
    assert [note.split(": ")[:2] for note in notes] == [[kind, "1 (first"]]
    pixels = np.asarray(Image.open(folder / "SegmentationObject/a.png"))
    assert [int(pixels[y, x]) for x, y in ((6, 6), (15, 15), (55, 22), (65, 30))] == [1, 0, 2, 3]
    assert np.asarray(Image.open(folder / "SegmentationClass/a.png").convert("RGB"))[22, 55].tolist() == [0, 128, 0]


def test_more_objects_than_a_palette_holds(written) -> None:
    boxes = [(x, y, x + 2, y + 2) for y in range(0, 48, 3) for x in range(0, 96, 4)]
    items = [InstanceRecord(box, 0, mask(box)) for box in boxes]
    _, dataset, notes = written(items)
    found = [segmentation_rle(item.segmentation, SIZE) for item in dataset.records[0].instances]
    assert len(boxes) == 384
    assert found == [item.segmentation for item in items]
    assert notes == (
        "objects above 254 per image written as polygons in the XML file: 130 (first: object a, annotation 0)",
    )


def test_dataset_of_boxes_has_no_masks(written) -> None:
    folder, dataset, notes = written([InstanceRecord((10, 5, 20, 15), 1)])
    assert sorted(path.name for path in folder.iterdir()) == ["Annotations", "ImageSets", "JPEGImages"]
    assert dataset.records[0].instances[0].box == (10, 5, 20, 15)
    assert "<xmin>11</xmin>" in (folder / "Annotations/a.xml").read_text()
    assert notes == ()
