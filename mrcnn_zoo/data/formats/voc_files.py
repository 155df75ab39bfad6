"""Files of Pascal VOC: the XML of an image, and its masks of objects and classes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mrcnn_zoo.data.annotations.shapes import box_polygon, rotated
from mrcnn_zoo.data.annotations.xml_files import Element, number_in, read_xml
from mrcnn_zoo.data.classes import listed
from mrcnn_zoo.data.images.reading import open_image
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops.label_images import encode_labels
from mrcnn_zoo.ops.rle import Rle
from mrcnn_zoo.structures import ImageSize

VOID = 255  # palette index of the border of objects
BACKGROUND = ("background", "_background_")
CLASSES = (  # 1 to 20 in the masks of classes of the original data
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
POLYGON_FIELD = re.compile(r"[xy]\d*")
HALF_PIXEL = 0.5  # the centre of the first pixel is 1 in VOC and 0.5 here


@dataclass(frozen=True)
class VocObject:
    """An object of an XML file, in pixels whose first centre is 0.5.

    Args:
        name: of its class.
        where: "object 2".
        box: x1, y1, x2, y2; None for polygons without a box.
        polygons: extension of some tools.
        is_difficult: not counted in evaluation.
    """

    name: str
    where: str
    box: tuple[float, float, float, float] | None
    polygons: list[list[float]]
    is_difficult: bool


@dataclass(frozen=True)
class VocMask:
    """An object of a mask file.

    Args:
        number: of the object, from 1.
        name: of its class; "" if there is no mask of classes.
        mask: compressed run lengths.
        box: x1, y1, x2, y2.
    """

    number: int
    name: str
    mask: Rle
    box: Sequence[int]


def colormap() -> list[tuple[int, int, int]]:
    """The 256 colours of VOC's palette: the bits of an index, three at a time, are the highest bits of R, G and B."""
    colors = []
    for index in range(256):
        channels = [0, 0, 0]
        for level in range(8):
            for channel in range(3):
                channels[channel] |= (index >> (3 * level + channel) & 1) << (7 - level)
        colors.append((channels[0], channels[1], channels[2]))
    return colors


def read_objects(path: Path) -> tuple[str, tuple[str, ...], list[VocObject]]:
    """The name of the image in an XML file, its height and width there as text, and the objects.

    Args:
        path: of the file.

    Raises:
        UserError: no annotation of VOC, a missing field, or a value that is no number.
    """
    root = read_xml(path)
    if root.tag != "annotation":
        raise UserError(f"{path} is no annotation of Pascal VOC: its root is <{root.tag}> instead of <annotation>.")
    objects = []
    for number, element in enumerate(root.findall("object"), start=1):
        if (element.findtext("deleted") or "0").strip() != "1":
            objects.append(_object_of(element, f"object {number}", path))
    size = tuple((root.findtext(f"size/{side}") or "").strip() for side in ("height", "width"))
    return (root.findtext("filename") or "").strip(), size, objects


def _object_of(element: Element, where: str, path: Path) -> VocObject:
    place = f"{path}, {where}"
    name = (element.findtext("name") or "").strip()
    if not name:
        raise UserError(f"{place} has no <name>, the name of its class. Add it, or remove the object.")
    polygons = [_polygon_of(polygon, place) for polygon in element.findall("polygon")]
    turned = element.find("robndbox")  # of roLabelImg
    if turned is not None:
        x, y, width, height, angle = (number_in(turned, key, place=place) for key in ("cx", "cy", "w", "h", "angle"))
        corners = box_polygon([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
        polygons.append(rotated(corners, angle=angle, about=(x, y)))
    bounds, box = element.find("bndbox"), None
    if bounds is not None:
        x1, y1, x2, y2 = (number_in(bounds, key, place=place) for key in ("xmin", "ymin", "xmax", "ymax"))
        box = (x1 - 1, y1 - 1, x2, y2)  # pixels are counted from 1, and the last one is in the box
    elif not polygons:
        raise UserError(f"{place} has neither <bndbox> nor <polygon>. Add its box, or remove the object.")
    difficult = (element.findtext("difficult") or "0").strip().lower() in ("1", "true", "yes")
    return VocObject(name, where, box, polygons, difficult)


def _polygon_of(element: Element, place: str) -> list[float]:
    """Points as x1, y1, x2, y2, ... or as pairs of x and y."""
    fields = [item for item in element.iter() if POLYGON_FIELD.fullmatch(item.tag)]
    axes = [item.tag[0] for item in fields]
    if axes != ["x", "y"] * (len(fields) // 2) or not fields:
        raise UserError(
            f"{place}: its <polygon> has the fields {' '.join(item.tag for item in fields)!r} instead of x, y."
        )
    try:
        return [float(item.text or "") - HALF_PIXEL for item in fields]
    except ValueError as error:
        raise UserError(f"{place}: its <polygon> has a coordinate that is no number: {error}.") from error


def read_masks(objects: Path, classes: Path | None, *, names: Mapping[int, str], size: ImageSize) -> list[VocMask]:
    """The objects of a mask file.

    Args:
        objects: image whose values are the numbers of objects.
        classes: image whose values are the classes; None if there is none.
        names: of the classes, see `class_values`.
        size: (height, width) of the image.

    Raises:
        UserError: an image of another size, or a class without a name.
    """
    labels = _numbers_of(_read_values(objects, size))
    class_image = None if classes is None else _read_values(classes, size)
    masks = encode_labels(np.where(labels == VOID, 0, labels))
    found = []
    for number, counts, box, _ in zip(*masks, strict=True):
        x1, y1, x2, y2 = box
        name = ""
        if class_image is not None:
            values = class_image[y1:y2, x1:x2][labels[y1:y2, x1:x2] == number]
            name = _class_of(values, names, f"{classes}, object {number}")
        found.append(VocMask(number, name, {"size": list(size), "counts": counts}, box))
    return found


def _read_values(path: Path, size: ImageSize) -> NDArray[np.int32]:
    """(H, W) palette indices or grey values; of images with colours, their codes, which are above all indices."""
    with open_image(str(path), max_pixels=0) as image:
        if image.mode in ("P", "L", "1", "I", "I;16"):
            values = np.asarray(image).astype(np.int32)
        else:
            values = (
                np.asarray(image.convert("RGB")).astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.int32)
                + NUM_INDICES
            )
    if values.shape != size:
        raise UserError(
            f"{path} is {values.shape[1]} x {values.shape[0]} pixels (width x height) where its image is {size[1]} x "
            f"{size[0]}. A mask must have the size of its image."
        )
    return values


def _numbers_of(values: NDArray[np.int32]) -> NDArray[np.int32]:
    """The numbers of objects. Colours outside VOC's palette are objects, too."""
    if values.max(initial=0) < NUM_INDICES:
        return values
    present, places = np.unique(values, return_inverse=True)
    known = dict(zip(CODES, range(NUM_INDICES), strict=True))
    numbers = [known.get(value, value) for value in present.tolist()]
    result: NDArray[np.int32] = np.array(numbers, dtype=np.int32)[places].reshape(values.shape)
    return result


def _class_of(values: NDArray[np.int32], names: Mapping[int, str], place: str) -> str:
    """The most frequent class of an object's pixels."""
    if values.max() < NUM_INDICES:
        counts = np.bincount(values)
        present = np.flatnonzero(counts)
        counts = counts[present]
    else:
        present, counts = np.unique(values, return_counts=True)
    for value in present[np.argsort(-counts, kind="stable")].tolist():
        name = names.get(value, "")
        if name not in BACKGROUND and value not in (VOID, CODES[VOID]):
            if name:
                return name
            break
    shown = [value if value < NUM_INDICES else f"#{value - NUM_INDICES:06x}" for value in present.tolist()]
    raise UserError(
        f"{place}: its pixels are {listed(list(map(str, shown)))} in the mask of classes, which is no class "
        "of labelmap.txt, class_names.txt or the 20 classes of VOC. Add it there."
    )


def class_values(root: Path) -> tuple[dict[int, str], tuple[str, ...]]:
    """The class of each value in masks of classes, and the names in the order of a file; VOC's own without a file.

    Args:
        root: of the dataset, which may have labelmap.txt (name:red,green,blue::) or class_names.txt.

    Returns:
        names by palette index and by code of the colour; names in the order of the file.

    Raises:
        UserError: a line of labelmap.txt without a colour.
    """
    path = root / "labelmap.txt"
    if path.is_file():
        colors = _read_labelmap(path)
        names = list(colors)
        return {**dict(enumerate(names)), **{code: name for name, code in colors.items()}}, _classes_of(names)
    path = root / "class_names.txt"
    names = [BACKGROUND[0], *CLASSES]
    if path.is_file():
        names = [line.strip() for line in _lines_of(path) if line.strip()]
    values = {**dict(enumerate(names)), **dict(zip(CODES, names, strict=False))}
    return values, _classes_of(names) if path.is_file() else ()


def _read_labelmap(path: Path) -> dict[str, int]:
    """The code of the colour of each class; datumaro leaves out those of VOC's palette."""
    colors: dict[str, int] = {}
    for number, line in enumerate(_lines_of(path), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.strip().rsplit(":", 3)
        if len(fields) == 4 and not fields[1].strip():
            colors[fields[0]] = CODES[len(colors) % len(CODES)]
            continue
        channels = [part.strip() for part in fields[1].split(",")] if len(fields) == 4 else []
        if len(channels) != 3 or not all(channel.isdecimal() for channel in channels):
            raise UserError(f"{path}, line {number}: {line.strip()!r} is not name:red,green,blue:parts:actions.")
        colors[fields[0]] = _code(list(map(int, channels)))
    return colors


def _lines_of(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a list of classes in UTF-8: {error}. Save it again.") from error


def _classes_of(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in BACKGROUND)


def save_palette(values: NDArray[np.generic], path: Path) -> None:
    """Write a PNG with VOC's palette.

    Args:
        values: (H, W) below 256.
        path: of the file.
    """
    image = Image.fromarray(values.astype(np.uint8))
    image.putpalette([channel for color in colormap() for channel in color])
    image.save(path)


def _code(color: Sequence[int]) -> int:
    return (color[0] << 16 | color[1] << 8 | color[2]) + NUM_INDICES


NUM_INDICES = 256  # of a palette
CODES = [_code(color) for color in colormap()]
