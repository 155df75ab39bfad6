"""Writing of Pascal VOC: XML files, lists of images, and masks of objects and classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.annotations.joining import joined_outline
from mrcnn_zoo.data.annotations.mask_files import paint_labels
from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.formats.voc_files import HALF_PIXEL, VOID, colormap, save_palette
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord

MAX_NUMBER = VOID - 1  # of objects in a mask, and of classes


def write_voc(parts: Mapping[str, Dataset], folder: Path, writer: DatasetWriter) -> None:
    """JPEGImages/, Annotations/, ImageSets/, and where objects have masks SegmentationObject/ and SegmentationClass/.

    The n-th object of an XML file has the number n in the mask. Objects that are in part behind others, and those above
    254, have a polygon in the XML file. Regions of uncounted objects are boxes of "difficult" objects.

    Args:
        parts: by side.
        folder: that is empty.
        writer: see `AnnotationFormat.write`.
    """
    datasets = list(parts.values())
    class_names = datasets[0].class_names
    records = [record for dataset in datasets for record in dataset.records]
    has_masks = any(item.segmentation is not None for record in records for item in record.instances)
    kinds = ["Main", "Segmentation"] if has_masks else ["Main"]
    for name in ("Annotations", *(f"ImageSets/{kind}" for kind in kinds)):
        (folder / name).mkdir(parents=True)
    for side, dataset in parts.items():
        for kind in kinds:
            lines = [f"{writer.stem(record)}\n" for record in dataset.records]
            (folder / "ImageSets" / kind / f"{side or 'default'}.txt").write_text("".join(lines), encoding="utf-8")
    if has_masks and len(class_names) > MAX_NUMBER:
        writer.lost.add("masks of classes left out, as a palette has 254 colours", class_names, name="class")
    for record in records:
        polygons = _write_masks(record, folder, writer, num_classes=len(class_names)) if has_masks else {}
        image = writer.place_image(record, folder / "JPEGImages")
        tree = ElementTree.ElementTree(_annotation(record, image, class_names, polygons, writer))
        ElementTree.indent(tree, "\t")
        tree.write(folder / "Annotations" / f"{writer.stem(record)}.xml", encoding="utf-8")
    if has_masks and len(class_names) <= MAX_NUMBER:
        colors = zip(["background", *class_names], colormap(), strict=False)
        lines = [f"{name}:{red},{green},{blue}::\n" for name, (red, green, blue) in colors]
        text = "".join(["# label:color_rgb:parts:actions\n", *lines])
        (folder / "labelmap.txt").write_text(text, encoding="utf-8")


def _write_masks(
    record: ImageRecord, folder: Path, writer: DatasetWriter, *, num_classes: int
) -> dict[int, NDArray[np.float64]]:
    """Write the masks of an image; the polygons of the objects that the masks do not show whole, by number."""
    numbered = dict(enumerate(record.instances, start=1))
    drawn = {number: item for number, item in numbered.items() if item.segmentation is not None and not item.is_crowd}
    above = {number for number in drawn if number > MAX_NUMBER}
    painted = {number: item for number, item in drawn.items() if number not in above}
    labels, hidden, cut = paint_labels(record, painted, writer)
    for kind, numbers in (
        ("objects in part behind others in the mask, whole as a polygon in the XML file", hidden | cut),
        ("objects above 254 per image written as polygons in the XML file", above),
    ):
        writer.lost.add(kind, [writer.place_of(record, numbered[number]) for number in sorted(numbers)])
    _save(labels, folder / "SegmentationObject", writer.stem(record))
    if num_classes <= MAX_NUMBER:
        values = np.array([0, *(item.class_index + 1 for item in record.instances)])
        _save(values[labels], folder / "SegmentationClass", writer.stem(record))
    return {number: joined_outline(record, numbered[number], writer) for number in sorted(hidden | cut | above)}


def _save(values: NDArray[np.generic], folder: Path, stem: str) -> None:
    folder.mkdir(exist_ok=True)
    save_palette(values, folder / f"{stem}.png")


def _annotation(
    record: ImageRecord,
    image: str,
    class_names: Sequence[str],
    polygons: Mapping[int, NDArray[np.float64]],
    writer: DatasetWriter,
) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    height, width = record.image_size
    _add(root, {"folder": "JPEGImages", "filename": image})
    _add(ElementTree.SubElement(root, "size"), {"width": width, "height": height, "depth": 3})
    has_masks = any(item.segmentation is not None for item in record.instances)
    _add(root, {"segmented": int(has_masks)})
    for number, item in enumerate(record.instances, start=1):
        place = [writer.place_of(record, item)]
        writer.lost.add("scores left out", place if item.score is not None else [])
        is_reduced = item.is_crowd and item.segmentation is not None
        writer.lost.add("masks of crowds left out, their boxes are difficult objects", place if is_reduced else [])
        element = ElementTree.SubElement(root, "object")
        _add(element, {"name": class_names[item.class_index], "pose": "Unspecified", "truncated": 0})
        _add(element, {"difficult": int(item.is_crowd)})
        _add(ElementTree.SubElement(element, "bndbox"), _bounds(item))
        if number in polygons:
            values = [f"{value:.7g}" for value in (polygons[number].ravel() + HALF_PIXEL).tolist()]
            fields = {f"{'xy'[place % 2]}{place // 2 + 1}": value for place, value in enumerate(values)}
            _add(ElementTree.SubElement(element, "polygon"), fields)
    return root


def _bounds(item: InstanceRecord) -> dict[str, int]:
    """Whole pixels counted from 1, the last one inside."""
    x1, y1, x2, y2 = map(round, item.box)
    return {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": max(x2, x1 + 1), "ymax": max(y2, y1 + 1)}


def _add(parent: ElementTree.Element, fields: Mapping[str, object]) -> None:
    for name, value in fields.items():
        ElementTree.SubElement(parent, name).text = str(value)
