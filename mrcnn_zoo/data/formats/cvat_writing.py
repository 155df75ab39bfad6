"""Writing of CVAT's XML 1.1 for images."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO
from xml.etree import ElementTree

import numpy as np

from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.ops import rle

SCORE = "score"  # an attribute of shapes
SUBSETS = {"train": "Train", "val": "Validation", "test": "Test"}
DECIMALS = 4


def write_cvat(parts: Mapping[str, Dataset], folder: Path, writer: DatasetWriter) -> None:
    """`annotations.xml` and `images/`; sides are subsets, several polygons of one object are a group.

    Args:
        parts: by side.
        folder: that is empty.
        writer: see `AnnotationFormat.write`.
    """
    datasets = list(parts.values())
    instances = [item for dataset in datasets for record in dataset.records for item in record.instances]
    has_scores = any(item.score is not None for item in instances)
    number = 0
    with (folder / "annotations.xml").open("w", encoding="utf-8") as file:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n')
        count = sum(len(dataset) for dataset in datasets)
        _write(file, _meta(datasets[0], count, has_scores=has_scores))
        for side, dataset in parts.items():
            for record in dataset.records:
                name = writer.place_image(record, folder / "images")
                height, width = record.image_size
                fields = {"id": str(number), "name": name, **({"subset": SUBSETS[side]} if side else {})}
                image = ElementTree.Element("image", fields | {"width": str(width), "height": str(height)})
                for group, item in enumerate(record.instances, start=1):
                    label = dataset.class_names[item.class_index]
                    image.extend(_shapes(record, item, writer, label=label, group=group))
                _write(file, image)
                number += 1
        file.write("</annotations>\n")


def _write(file: TextIO, element: ElementTree.Element) -> None:
    ElementTree.indent(element, "  ", level=1)
    file.write(f"  {ElementTree.tostring(element, encoding='unicode')}\n")


def _meta(dataset: Dataset, num_images: int, *, has_scores: bool) -> ElementTree.Element:
    attribute = (
        f"<attribute><name>{SCORE}</name><mutable>False</mutable><input_type>text</input_type>"
        "<default_value></default_value><values></values></attribute>"
    )
    meta = ElementTree.fromstring(
        f"<meta><task><name>annotations</name><size>{num_images}</size><mode>annotation</mode><labels/></task></meta>"
    )
    labels = next(meta.iter("labels"))
    for name in dataset.class_names:
        label = ElementTree.SubElement(labels, "label")
        ElementTree.SubElement(label, "name").text = name
        attributes = ElementTree.SubElement(label, "attributes")
        if has_scores:
            attributes.append(ElementTree.fromstring(attribute))
    return meta


def _shapes(
    record: ImageRecord, item: InstanceRecord, writer: DatasetWriter, *, label: str, group: int
) -> Iterator[ElementTree.Element]:
    place = [writer.place_of(record, item)]
    if item.is_crowd:
        writer.lost.add("regions of uncounted objects left out", place)
        return
    writer.lost.add("keypoints left out", place if item.keypoints is not None else [])
    shapes: list[tuple[str, dict[str, str]]]
    if item.segmentation is None:
        fields = zip(("xtl", "ytl", "xbr", "ybr"), map(_text, item.box), strict=True)
        shapes = [("box", dict(fields))]
    elif isinstance(item.segmentation, dict):
        shapes = [("mask", _mask_fields(item.segmentation))]
    else:
        polygons = [list(map(_text, polygon)) for polygon in item.segmentation]
        texts = [";".join(map(",".join, zip(values[0::2], values[1::2], strict=True))) for values in polygons]
        shapes = [("polygon", {"points": text}) for text in texts]
    grouped = {"group_id": str(group)} if len(shapes) > 1 else {}
    for tag, fields_of_shape in shapes:
        common = {"label": label, "source": "manual" if item.score is None else "auto", "occluded": "0"}
        shape = ElementTree.Element(tag, common | fields_of_shape | {"z_order": "0"} | grouped)
        if item.score is not None:
            ElementTree.SubElement(shape, "attribute", name=SCORE).text = f"{item.score:.6g}"
        yield shape


def _mask_fields(mask: rle.Rle) -> dict[str, str]:
    """Runs of 0, 1, 0, ... along the rows of the box around the mask."""
    window = rle.decode_window(mask)
    if window is None:
        return {"rle": "1", "left": "0", "top": "0", "width": "1", "height": "1"}
    height, width = window.bitmap.shape
    flat = np.concatenate([[0], window.bitmap.astype(np.int8).ravel()])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(edges, prepend=0, append=height * width)
    fields = {"left": window.x, "top": window.y, "width": width, "height": height}
    return {"rle": ", ".join(map(str, runs.tolist())), **{name: str(value) for name, value in fields.items()}}


def _text(value: float) -> str:
    return f"{round(float(value), DECIMALS):.10g}"
