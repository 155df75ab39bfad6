"""Small datasets with objects of every kind, what a format keeps of them, and the comparison after a round trip."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from scipy import ndimage

from mrcnn_zoo.data.annotations.contract import ReadOptions
from mrcnn_zoo.data.annotations.detection import find_format
from mrcnn_zoo.data.annotations.folders import write_dataset
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.registries import ANNOTATION_FORMATS

HEIGHT, WIDTH = 40, 56
CLASS_NAMES = ("Zelle", "große Zelle", "细胞, rund")
MIN_IOU, MAX_DISTANCE = 0.98, 0.5  # of polygons
IMAGE_FILES = (  # two of equal name, spaces, letters beyond ASCII, upper-case endings, 16 bits
    *("a/1.PNG", "b/1.PNG", "b/zwei Größen.png", "c/16 bit.png", "c/細胞.TIF", "d/leer (1).JPG", "d/crowd.png"),
)
SIDES = ("train", "train", "val", "train", "test", "val", "train")

Bitmap = NDArray[np.bool_]


@dataclass(frozen=True)
class Holds:
    """What a format keeps of a dataset.

    Args:
        exact: masks stay equal in every pixel; otherwise polygons within half a pixel or an IoU above 0.98.
        boxes: an object that has a box alone stays one.
        masks: objects have masks; otherwise boxes alone.
        overlaps: pixels may belong to several objects: "kept", "noted" where they are kept in a second form, or "cut":
            the smallest is in front.
        holes: regions of the background inside an object: "kept", "joined" to the outline, or "filled".
        parts: objects of several regions: "kept", "joined" to one outline, or "separated" into objects.
        crowds: "kept", "left out", "as objects", or "as boxes".
        scores: of predictions.
        crossings: polygons that cross or touch themselves; otherwise outlines of the same mask.
        sides: train, val and test.
        only_class: the name of the class where there is only one.
        order: of the objects of an image; otherwise that of drawing.
    """

    exact: bool = False
    boxes: bool = True
    masks: bool = True
    overlaps: str = "kept"
    holes: str = "kept"
    parts: str = "kept"
    crowds: str = "kept"
    scores: bool = True
    crossings: bool = True
    sides: bool = True
    only_class: bool = True
    order: bool = True


@dataclass(frozen=True)
class Item:
    """An object as it is compared."""

    class_name: str
    box: tuple[float, float, float, float]
    mask: Bitmap | None = None
    polygons: tuple[NDArray[np.float64], ...] = ()
    is_crowd: bool = False
    score: float | None = None


def pictures() -> list[list[Bitmap]]:
    """The masks of the objects of each image, the crowds in the last."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]

    def box(x: int, y: int, width: int, height: int) -> Bitmap:
        return (columns >= x) & (columns < x + width) & (rows >= y) & (rows < y + height)

    disc = (rows - 20) ** 2 + (columns - 28) ** 2 < 144
    hole = (rows - 20) ** 2 + (columns - 28) ** 2 < 36
    return [
        [box(0, 0, 1, 1), box(30, 20, 1, 1), box(3, 5, 50, 1), box(55, 0, 1, 40), box(10, 30, 7, 10)],
        [
            box(30, 2, 20, 20) & ~box(36, 2, 8, 14),
            rows + columns > 80,
            (abs(rows - columns // 2 - 9) < 2) & (columns < 40),
            rows + columns == 6,
        ],
        [box(0, 0, WIDTH, HEIGHT), box(8, 8, 10, 6), box(12, 10, 10, 6)],  # overlapping
        [disc & ~hole, box(26, 19, 4, 3), box(0, 0, 6, 6) | box(2, 20, 5, 9) | box(40, 38, 1, 1)],
        [box(4 * x, 4 * y, 4, 4) for x in range(4) for y in range(3)],  # touching
        [],
        [box(2, 2, 9, 9), box(20, 4, 30, 9) | box(22, 20, 9, 9)],
    ]


def polygon_pictures() -> list[list[list[float]]]:
    """Polygons with fractions of pixels, one object each; convex, concave, thin, at the border."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ellipse = np.stack([20.3 + 12.6 * np.cos(angles), 17.2 + 9.1 * np.sin(angles)], axis=1)
    return [
        [[5.25, 4.5, 30.75, 6.25, 12.5, 33.125]],
        [ellipse.ravel().tolist(), [40, 2.5, 54.5, 2.5, 54.5, 36, 50.25, 36, 50.25, 8.5, 40, 8.5]],
        [[0, 0, WIDTH, 0, WIDTH, HEIGHT, 0, HEIGHT], [2.5, 2.5, 12.5, 2.5, 50.5, 35.5, 39.5, 36.75]],
        [[3.125, 3, 9.875, 3, 9.875, 30.0625, 3.125, 30.0625], [12.5, 2.5, 50.5, 35.5, 49.5, 36.75]],
        [[20, 20, 30, 20, 30, 24, 25, 22, 20, 24]],
        [],
        [[44, 30, 56, 31.5, 56, 40, 41.5, 40]],
    ]


def write_images(folder: Path) -> list[ImageRecord]:
    """Image files of all kinds, without objects."""
    generator = np.random.default_rng(0)
    records = []
    for number, name in enumerate(IMAGE_FILES, start=1):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        is_deep = "16" in name
        size = (HEIGHT, WIDTH) if is_deep else (HEIGHT, WIDTH, 3)
        dtype = np.uint16 if is_deep else np.uint8
        Image.fromarray(generator.integers(0, np.iinfo(dtype).max, size, dtype=dtype)).save(path)
        records.append(ImageRecord(number, FileImage(str(path)), (HEIGHT, WIDTH)))
    return records


def mask_dataset(images: Sequence[ImageRecord]) -> Dataset:
    """Objects with run lengths, of three classes, with sides; the last object is a crowd."""
    content = [
        [
            InstanceRecord(_box(mask), place % 3, _encoded(mask), is_crowd=number == 6 and place == 1)
            for place, mask in enumerate(masks)
        ]
        for number, masks in enumerate(pictures())
    ]
    return _dataset(images, content, sides=SIDES)


def polygon_dataset(images: Sequence[ImageRecord]) -> Dataset:
    """Predicted polygons with scores, without sides."""
    content = []
    for polygons in polygon_pictures():
        points = [np.array(polygon).reshape(-1, 2) for polygon in polygons]
        boxes = [(*item.min(axis=0).tolist(), *item.max(axis=0).tolist()) for item in points]
        content.append(
            [
                InstanceRecord(box, place, [polygon], score=0.25 + 0.5 * place)
                for place, (box, polygon) in enumerate(zip(boxes, polygons, strict=True))
            ]
        )
    return _dataset(images, content)


def box_dataset(images: Sequence[ImageRecord]) -> Dataset:
    """Boxes alone, without sides."""
    boxes = [[(0.0, 0.0, 1.0, 1.0), (10.25, 3.5, 20.75, 39.0)], [(0.0, 0.0, 56.0, 40.0), (30.0, 7.0, 56.0, 8.0)]]
    content = [[InstanceRecord(box, place) for place, box in enumerate(found)] for found in boxes]
    return _dataset(images, [*content, *[[]] * (len(images) - 2)])


def _dataset(
    images: Sequence[ImageRecord], content: Sequence[Sequence[InstanceRecord]], *, sides: Sequence[str] = ()
) -> Dataset:
    numbers = iter(range(1, 1000))
    records = tuple(
        replace(
            image,
            instances=tuple(replace(item, annotation_id=next(numbers)) for item in items),
            split=sides[row] if sides else "",
        )
        for row, (image, items) in enumerate(zip(images, content, strict=True))
    )
    return Dataset("scene", records, CLASS_NAMES, tuple(range(1, len(CLASS_NAMES) + 1)))


def without_sides(dataset: Dataset) -> Dataset:
    """The dataset as one of a tool that has no sides."""
    return replace(dataset, records=tuple(replace(record, split="") for record in dataset.records))


def _encoded(mask: Bitmap) -> dict:
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def _box(mask: Bitmap) -> tuple[float, float, float, float]:
    rows, columns = np.nonzero(mask)
    return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)


def write_as(name: str, dataset: Dataset, folder: Path) -> tuple[str, ...]:
    """Write a dataset with its sides; what was lost."""
    sides = list(dict.fromkeys(record.split for record in dataset.records))
    parts = {
        side: replace(dataset, records=tuple(record for record in dataset.records if record.split == side))
        for side in sides
    }
    return write_dataset(parts, folder, ANNOTATION_FORMATS.get(name)())


def read_back(folder: Path) -> tuple[str, Dataset]:
    """The format that is detected in a folder, and the dataset."""
    kind, found = find_format(folder, dataset="again")
    return kind.name, kind.read(found, ReadOptions("again"))


def items_of(record: ImageRecord, class_names: Sequence[str]) -> list[Item]:
    """The objects of an image, with masks rasterised by pycocotools."""
    found = []
    for item in record.instances:
        polygons: tuple[NDArray[np.float64], ...] = ()
        mask = None
        if isinstance(item.segmentation, dict):
            mask = coco_mask.decode(item.segmentation) != 0
        elif item.segmentation is not None:
            polygons = tuple(np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in item.segmentation)
            encoded = coco_mask.frPyObjects([polygon.ravel().tolist() for polygon in polygons], *record.image_size)
            mask = coco_mask.decode(coco_mask.merge(encoded)) != 0
        found.append(Item(class_names[item.class_index], item.box, mask, polygons, item.is_crowd, item.score))
    return found


def kept(items: Sequence[Item], holds: Holds, lost: Counter[str]) -> list[Item]:
    """The objects of an image as a format keeps them, in order; adds what is lost to the counts."""
    result = []
    for item in items:
        if item.is_crowd and holds.crowds != "kept":
            lost["crowds"] += holds.crowds != "as boxes" or item.mask is not None
            if holds.crowds == "left out":
                continue
            if holds.crowds == "as boxes":
                result.append(replace(item, mask=None, polygons=(), score=None))
                continue
            item = replace(item, is_crowd=False)
        if item.score is not None and not holds.scores:
            lost["scores"] += 1
            item = replace(item, score=None)
        if item.mask is not None and not holds.masks:
            lost["masks"] += 1
            item = replace(item, mask=None, polygons=())
        if item.mask is None and holds.masks and not holds.boxes:
            lost["boxes"] += 1
            x1, y1, x2, y2 = item.box
            encoded = coco_mask.frPyObjects([[x1, y1, x2, y1, x2, y2, x1, y2]], HEIGHT, WIDTH)
            item = replace(item, mask=coco_mask.decode(encoded[0]) != 0)
        if not holds.crossings and not all(shapely.Polygon(polygon).is_valid for polygon in item.polygons):
            lost["crossings"] += 1
            item = replace(item, polygons=())
        result.append(item)
    if holds.overlaps != "kept":
        visible = list(_visible(result, lost))
        result = visible if holds.overlaps == "cut" else result
    if holds.masks and holds.holes != "kept":
        result = [_without_holes(item, lost, is_filled=holds.holes == "filled") for item in result]
    if holds.masks and holds.parts != "kept":
        result = [part for item in result for part in _in_parts(item, lost, holds)]
    return result


def _visible(items: Sequence[Item], lost: Counter[str]) -> Iterator[Item]:
    """The pixels of each object that no other covers: of no crowd, of a higher score, or else of a smaller area."""
    areas = [0 if item.mask is None else int(item.mask.sum()) for item in items]
    order = sorted(range(len(items)), key=lambda row: (not items[row].is_crowd, items[row].score or 0.0, -areas[row]))
    front = np.full(next((item.mask.shape for item in items if item.mask is not None), (1, 1)), -1)
    for row in order:
        if items[row].mask is not None:
            front[items[row].mask] = row
    for row, item in enumerate(items):
        if item.mask is None:
            yield item
            continue
        visible = front == row
        is_whole = bool((visible == item.mask).all())
        lost["overlaps"] += not is_whole
        if visible.any():
            yield replace(item, mask=visible, polygons=item.polygons if is_whole else ())


def _without_holes(item: Item, lost: Counter[str], *, is_filled: bool) -> Item:
    if item.mask is None or item.polygons:
        return item
    filled = ndimage.binary_fill_holes(item.mask)
    lost["holes"] += int(ndimage.label(filled & ~item.mask)[1])
    return replace(item, mask=filled) if is_filled else item


def _in_parts(item: Item, lost: Counter[str], holds: Holds) -> list[Item]:
    if item.mask is None:
        return [item]
    if item.polygons and not holds.exact:
        masks = [polygon.ravel().tolist() for polygon in item.polygons]
        parts = [coco_mask.decode(rle) != 0 for rle in coco_mask.frPyObjects(masks, *item.mask.shape)]
    else:
        labels, count = ndimage.label(item.mask, np.ones((3, 3)))
        parts = [labels == number for number in range(1, count + 1)]
    if holds.parts == "joined":
        lost["parts"] += len(parts) - 1
        return [item]
    if len(parts) == 1:
        return [item]
    lost["parts"] += 1
    return [replace(item, mask=part, box=_box(part), polygons=()) for part in parts]


KINDS = {  # words of the notes of writers
    "crossings": r"\bcross",
    "overlaps": r"behind|overlap|visible",
    "holes": r"\bholes?\b",
    "parts": r"\bparts?\b",
    "crowds": r"crowd|uncounted",
    "scores": r"\bscores?\b",
    "boxes": r"\bbox",
    "masks": r"\bmasks?\b",
    "names": r"\bnames?\b",
}


def counts_of(notes: Sequence[str]) -> Counter[str]:
    """The counts in the notes of a writer, by kind."""
    counts: Counter[str] = Counter()
    for note in notes:
        kind, _, rest = note.partition(": ")
        names = [name for name, words in KINDS.items() if re.search(words, kind)]
        counts[names[0] if names else kind] += int(rest.split()[0])
    return counts


def assert_equal_items(found: Sequence[Item], expected: Sequence[Item], *, holds: Holds, where: str) -> None:
    """Objects are equal in class, crowd, score and shape, in this order if the format keeps it."""
    if not holds.order:
        found, expected = (sorted(items, key=lambda item: (item.class_name, item.box)) for items in (found, expected))
    names = [[(item.class_name, item.is_crowd) for item in items] for items in (found, expected)]
    assert names[0] == names[1], where
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        place = f"{where}, object {number}"
        assert (ours.score is None) == (theirs.score is None), place
        assert ours.score is None or abs(ours.score - (theirs.score or 0)) < 1e-5, place
        assert (ours.mask is None) == (theirs.mask is None), place
        if ours.mask is None or theirs.mask is None:
            assert np.abs(np.subtract(ours.box, theirs.box)).max() <= MAX_DISTANCE, place
        elif holds.exact:
            assert np.array_equal(ours.mask, theirs.mask), place
        else:
            assert is_close(ours, theirs), place


def is_close(first: Item, second: Item) -> bool:
    """Polygons with corners within half a pixel, or masks with an IoU above 0.98."""
    if first.polygons and len(first.polygons) == len(second.polygons):
        pairs = list(zip(first.polygons, second.polygons, strict=True))
        distances = [np.abs(one[:, None] - other[None]).max(axis=2) for one, other in pairs]
        if all(max(item.min(axis=axis).max() for axis in (0, 1)) <= MAX_DISTANCE for item in distances):
            return True
    encoded = [_encoded(item.mask) for item in (first, second) if item.mask is not None]
    return bool(coco_mask.iou(encoded[:1], encoded[1:], [False])[0, 0] > MIN_IOU)


def by_pixels(dataset: Dataset) -> Mapping[bytes, ImageRecord]:
    """The records by the pixels of their images, which no writer changes; their names may change."""
    found = {record.source.read().tobytes(): record for record in dataset.records}
    assert len(found) == len(dataset.records)
    return found
