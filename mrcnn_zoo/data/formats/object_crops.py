"""One-object crops of a detection dataset, and crops of its background, to pretrain a backbone as a classifier."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.catalog import load_dataset, read_fields
from mrcnn_zoo.data.loading.mapper import check_size
from mrcnn_zoo.data.records import Dataset, ImageRecord, ImageSource, InstanceRecord, RepairLog, filling_object
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.registries import DATASET_FORMATS
from mrcnn_zoo.structures import ImageSize

CACHED_IMAGES = 8  # per process; crops of one image follow each other in an evaluation
ROUNDS, TRIES = 8, 16  # over all images, and windows per image and round, in search of background
OPTIONAL_FIELDS = {
    "SIZE": 64,
    "CONTEXT": 0.1,
    "MIN_SIZE": 4,
    "MAX_PER_CLASS": 0,
    "NUM_BACKGROUND": -1,
    "MAX_OVERLAP": 0.1,
    "SEED": 0,
}

Window = tuple[int, int, int, int]  # x1 y1 x2 y2, whole pixels of the image


@dataclass(frozen=True)
class CropImage:
    """A square window of an image, resized to `side` pixels; the image is read when the crop is."""

    source: ImageSource
    image_size: ImageSize  # (height, width) in the annotations
    window: Window  # inside the image
    side: int

    @property
    def name(self) -> str:
        """The image and the window."""
        return f"{self.source.name} [{', '.join(map(str, self.window))}]"

    def read(self) -> NDArray[np.generic]:
        """(side, side, C) of the dtype of the image.

        Raises:
            UserError: an image that cannot be read, or has another size than in its annotations.
        """
        pixels = _pixels_of(self.source)
        check_size(ImageRecord(0, self.source, self.image_size), pixels)
        x1, y1, x2, y2 = self.window
        return resized(pixels[y1:y2, x1:x2], self.side)


def _pixels_of(source: ImageSource) -> NDArray[np.generic]:
    try:
        hash(source)
    except TypeError:  # of pixels in memory
        return source.read()
    return _cached_pixels(source)  # type: ignore[arg-type]


@lru_cache(maxsize=CACHED_IMAGES)
def _cached_pixels(source: ImageSource) -> NDArray[np.generic]:
    return source.read()


def resized(pixels: NDArray[np.generic], side: int) -> NDArray[np.generic]:
    """(H, W, C) -> (side, side, C) of the same dtype; bilinear with antialiasing.

    Args:
        pixels: uint8, uint16 or float32.
        side: in pixels.
    """
    if pixels.shape[:2] == (side, side):
        return pixels.copy()
    image = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]
    image = torch.nn.functional.interpolate(image, (side, side), mode="bilinear", antialias=True)
    result = image[0].permute(1, 2, 0).numpy()
    return (np.rint(result) if pixels.dtype.kind in "ui" else result).astype(pixels.dtype)


def window_of_box(box: Sequence[float], image_size: ImageSize, *, context: float) -> Window:
    """The square window around a box, moved into the image; it holds a part of an object that is longer than the image.

    Args:
        box: x1 y1 x2 y2 in pixels.
        image_size: (height, width).
        context: share of the longer side of the box that is added on each side.
    """
    x1, y1, x2, y2 = box
    height, width = image_size
    side = min(max(1, math.ceil(max(x2 - x1, y2 - y1) * (1 + 2 * context))), height, width)
    left = min(max(round((x1 + x2 - side) / 2), 0), width - side)
    top = min(max(round((y1 + y2 - side) / 2), 0), height - side)
    return left, top, left + side, top + side


@DATASET_FORMATS.register("object_crops")
def build_object_crops(
    cfg: CfgNode, name: str, definition: Mapping[str, Any], *, source: Dataset | None = None
) -> Dataset:
    """Crops of the objects of another dataset; its classes stay.

    Fields: DATASET, its name; SIZE, side of the crops in pixels; CONTEXT, share of an object's longer side that is
    added on each side; MIN_SIZE, of an object's longer side in pixels; MAX_PER_CLASS crops, 0 for all; NUM_BACKGROUND,
    crops without object, -1 for the mean number per class; MAX_OVERLAP of these with an object; SEED.
    `source`: the part of DATASET to crop, see `data/run_datasets.py`.
    """
    fields = read_fields(name, definition, required=("DATASET",), optional=OPTIONAL_FIELDS)
    where = f"DATASETS.DEFINITIONS.{name}.DATASET = {fields['DATASET']!r}"
    other = cfg.DATASETS.DEFINITIONS.get(fields["DATASET"])
    if fields["DATASET"] == name or (isinstance(other, Mapping) and other.get("FORMAT") == "object_crops"):
        raise UserError(f"{where} holds crops; name a detection dataset, e.g. digits_train.")
    dataset = load_dataset(cfg, fields["DATASET"]) if source is None else source
    if not any(not item.is_crowd for record in dataset.records for item in record.instances):
        raise UserError(f"{where} has no objects to crop. Name a dataset with annotations.")
    return crop_objects(
        dataset,
        name,
        size=fields["SIZE"],
        context=float(fields["CONTEXT"]),
        min_size=float(fields["MIN_SIZE"]),
        max_per_class=fields["MAX_PER_CLASS"],
        num_background=fields["NUM_BACKGROUND"],
        max_overlap=float(fields["MAX_OVERLAP"]),
        seed=fields["SEED"],
    )


def crop_objects(
    dataset: Dataset,
    name: str,
    *,
    size: int = 64,
    context: float = 0.1,
    min_size: float = 0,
    max_per_class: int = 0,
    num_background: int = -1,
    max_overlap: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """One image per object of a dataset, and images without object; the crops of one image follow each other.

    Args:
        dataset: with annotations; crowds are not cropped.
        name: of the result.
        size: side of the crops in pixels.
        context: see `window_of_box`.
        min_size: of the longer side of an object, in pixels; smaller ones are left out.
        max_per_class: largest number of crops per class, chosen at random; 0 for all.
        num_background: number of crops without object; -1 for the mean number of crops per class.
        max_overlap: see `find_background`.
        seed: of all choices.

    Raises:
        UserError: all objects are smaller than `min_size`.
    """
    rng, notes = np.random.default_rng(seed), RepairLog()
    chosen = _limited(_large_objects(dataset, name, min_size, notes), max_per_class, rng)
    crops: list[tuple[int, Window, InstanceRecord | None]] = [
        (row, window_of_box(item.box, dataset.records[row].image_size, context=context), item) for row, item in chosen
    ]
    if num_background < 0:
        num_background = round(len(crops) / len({item.class_index for _, item in chosen}))
    sides = np.array([window[2] - window[0] for _, window, _ in crops])
    background = find_background(dataset.records, sides, num_background, max_overlap=max_overlap, rng=rng)
    crops += [(row, window, None) for row, window in background]
    crops.sort(key=lambda crop: crop[0])
    missing = num_background - len(background)
    return Dataset(
        name,
        tuple(
            _crop_record(number, dataset.records[row], window, item, side=size)
            for number, (row, window, item) in enumerate(crops, start=1)
        ),
        dataset.class_names,
        dataset.category_ids,
        notes=(*notes.notes(), *([_missing_note(missing, num_background)] if missing else [])),
    )


def _large_objects(dataset: Dataset, name: str, min_size: float, notes: RepairLog) -> list[tuple[int, InstanceRecord]]:
    """Row of the image and object, of all objects but crowds and those that are too small."""
    objects = [
        (row, item) for row, record in enumerate(dataset.records) for item in record.instances if not item.is_crowd
    ]
    large = [pair for pair in objects if _longer_side(pair[1]) >= min_size]
    if not large:
        raise UserError(
            f"DATASETS.DEFINITIONS.{name}: none of the {len(objects)} objects of {dataset.name!r} has a side of "
            f"MIN_SIZE = {min_size:g} pixels. Set MIN_SIZE lower."
        )
    small = [item.annotation_id for _, item in objects if _longer_side(item) < min_size]
    notes.add(f"objects smaller than MIN_SIZE = {min_size:g} pixels left out", small)
    return large


def _missing_note(missing: int, requested: int) -> str:
    return (
        f"{counted(missing, 'crop')} of {requested} without object not found, as objects fill the images; raise "
        "MAX_OVERLAP or set NUM_BACKGROUND lower"
    )


def _crop_record(
    image_id: int, record: ImageRecord, window: Window, item: InstanceRecord | None, *, side: int
) -> ImageRecord:
    size, source = (side, side), CropImage(record.source, record.image_size, window, side)
    instances = () if item is None else (filling_object(size, item.class_index, annotation_id=item.annotation_id),)
    return ImageRecord(image_id, source, size, instances)


def _longer_side(item: InstanceRecord) -> float:
    x1, y1, x2, y2 = item.box
    return max(x2 - x1, y2 - y1)


def _limited(
    objects: list[tuple[int, InstanceRecord]], most: int, rng: np.random.Generator
) -> list[tuple[int, InstanceRecord]]:
    """At most that many objects of each class, chosen at random, in the same order."""
    if most <= 0:
        return objects
    by_class: dict[int, list[int]] = {}
    for number, (_, item) in enumerate(objects):
        by_class.setdefault(item.class_index, []).append(number)
    kept = [number for numbers in by_class.values() for number in rng.permutation(numbers)[:most].tolist()]
    return [objects[number] for number in sorted(kept)]


def find_background(
    records: Sequence[ImageRecord],
    sides: NDArray[np.int64],
    count: int,
    *,
    max_overlap: float,
    rng: np.random.Generator,
) -> list[tuple[int, Window]]:
    """Square windows without object, of the sizes of object crops, spread over the images.

    Args:
        records: with annotations; crowds are avoided, too.
        sides: of the windows of objects, from which those of background are drawn.
        count: number of windows, as far as there are so many.
        max_overlap: largest overlap with an object, as share of the smaller area of the two: the IoU of a small object
            with a large window around it is small.
        rng: the only source of randomness.

    Returns:
        At most `count` pairs of row of the image and window.
    """
    found: list[tuple[int, Window]] = []
    for _ in range(ROUNDS):
        missing = count - len(found)
        if missing <= 0:
            break
        per_image = -(-missing // len(records))
        for row in rng.permutation(len(records)).tolist():
            if len(found) >= count:
                break
            windows = _random_windows(records[row], rng.choice(sides, TRIES + per_image), rng)
            is_free = _largest_overlap(windows, records[row]) <= max_overlap
            free = windows[is_free][: min(per_image, count - len(found))].tolist()
            found += [(row, (x1, y1, x2, y2)) for x1, y1, x2, y2 in free]
    return found


def _random_windows(record: ImageRecord, sides: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """(n, 4) windows inside an image, of the given sides at most."""
    height, width = record.image_size
    sides = np.minimum(sides, min(height, width))
    left, top = rng.integers(0, width - sides + 1), rng.integers(0, height - sides + 1)
    return np.stack([left, top, left + sides, top + sides], axis=1)


def _largest_overlap(windows: NDArray[np.int64], record: ImageRecord) -> NDArray[np.float64]:
    """(n,) largest intersection of each window with an object, as share of the smaller area of the two."""
    boxes = np.array([item.box for item in record.instances], dtype=np.float64).reshape(-1, 4)
    if not len(boxes):
        return np.zeros(len(windows))
    low = np.maximum(windows[:, None, :2], boxes[:, :2])
    high = np.minimum(windows[:, None, 2:], boxes[:, 2:])
    shared = (high - low).clip(min=0).prod(axis=2)
    areas = (windows[:, 2:] - windows[:, :2]).prod(axis=1)[:, None], (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return (shared / np.maximum(np.minimum(*areas), 1e-9)).max(axis=1)
