"""Cityscapes' format: polygons in JSON files, images of instance ids, and the layout of its folders."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mrcnn_zoo.data.annotations.contract import AnnotationFormat, Found, ReadOptions
from mrcnn_zoo.data.annotations.listing import FileListing, ImageFinder, side_of_folders
from mrcnn_zoo.data.annotations.loading import annotation_format
from mrcnn_zoo.data.annotations.mask_files import MaskedImage, ObjectMask, masked_dataset, masked_record, read_masks
from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.formats.cityscapes_polygons import (
    UNLABELED,
    LabelledPolygon,
    draw,
    outlines_of_labels,
    read_polygons,
)
from mrcnn_zoo.data.formats.label_files import read_labels
from mrcnn_zoo.data.paths import image_file_size
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord, RepairLog
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.ops import rle
from mrcnn_zoo.ops.label_images import encode_labels
from mrcnn_zoo.structures import ImageSize

# The classes with instances that Cityscapes evaluates, by their ids.
CLASS_IDS = {
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
CLASS_OF_ID = {number: name for name, number in CLASS_IDS.items()}
INSTANCES_PER_CLASS = 1000  # instance id = class id * 1000 + number; regions of uncounted objects have the class id
GROUP = "group"  # ending of labels of uncounted objects
NOT_DRAWN = ("license plate",)  # its id is negative
VOID = (UNLABELED, "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", *NOT_DRAWN)
STUFF = (
    *("road", "sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel"),
    *("pole", "polegroup", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "caravan", "trailer"),
)
KEYS = (re.compile(r'"imgHeight"\s*:'), re.compile(r'"objects"\s*:\s*\['))
POLYGON = re.compile(r'"polygon"\s*:|"objects"\s*:\s*\[\s*\]')
BOXES = re.compile(r"_gtBbox\w*\.json$")  # of CityPersons and of Cityscapes 3D: no polygons
ENDING = re.compile(r"(_gt[A-Za-z]+)?_(polygons|instanceIds)$")
GROUND_TRUTH = re.compile(r"_gt[A-Za-z]+_\w+$")  # of stems of files that are no images
IDS_FILE = "_instanceIds.png"
FILES_EXAMINED = 16
LABELS_EXAMINED = 50
FOLDERS = ("gtFine", "gtCoarse")
IMAGE_FOLDER, IMAGE_ENDING = "leftImg8bit", "_leftImg8bit"
EXTRA = "train_extra"
ALL, CITY = "all", "images"  # folders of written files: the side of those without sides, and the city


class CityFiles(NamedTuple):
    """The files of one image, relative to the root."""

    polygons: str  # "" if there is none
    ids: str  # image of instance ids; "" if there is none
    image: str = ""

    @property
    def name(self) -> str:
        """The annotation file."""
        return self.polygons or self.ids

    @property
    def stem(self) -> str:
        """The name of the image, without leftImg8bit and ending."""
        return ENDING.sub("", PurePosixPath(self.name).stem)


@annotation_format("cityscapes")
class CityscapesFormat(AnnotationFormat):
    """Cityscapes' layout, or any folder with files of its kinds."""

    finds_images_elsewhere = False
    title = "Cityscapes polygons"
    looked_for = "*_polygons.json files with 'imgHeight', 'imgWidth' and 'objects', or *_instanceIds.png, as in gtFine/"

    def find(self, listing: FileListing) -> Found | None:
        """JSON files, of which some are examined, and images of instance ids; gtFine where there is gtCoarse, too."""
        names = [name for name in listing.with_suffix(".json") if not BOXES.search(name)]
        examined = names[:: max(1, len(names) // FILES_EXAMINED)][:FILES_EXAMINED]
        if not any(_is_polygons(listing, name) for name in examined):
            names = []
        ids = [] if listing.file else [name for name in listing.images if name.endswith(IDS_FILE)]
        by_stem: dict[str, CityFiles] = {}
        for name in names:
            by_stem[ENDING.sub("", name.rpartition(".")[0])] = CityFiles(name, "")
        for name in ids:
            stem = ENDING.sub("", name.rpartition(".")[0])
            by_stem[stem] = by_stem.get(stem, CityFiles("", ""))._replace(ids=name)
        fine, coarse = ([stem for stem in by_stem if folder in stem.split("/")] for folder in FOLDERS)
        left_out = set(coarse) if fine else set()
        sides: dict[str, list[CityFiles]] = {}
        for stem, files in by_stem.items():
            if stem not in left_out:
                sides.setdefault(_side_of(files.name), []).append(files)
        note = counted(len(by_stem) - len(left_out), "file") + ("; gtCoarse left out" if left_out else "")
        return Found(listing, sides, note) if sides else None

    def read_dataset(self, found: Found, options: ReadOptions) -> Dataset:
        """The dataset of all sides. Where no class of Cityscapes occurs, all labels that occur are classes."""
        repairs, listing = RepairLog("object"), found.listing
        finder = ImageFinder(options.images or listing)
        sides = [(side, files) for side, group in found.splits.items() for files in group]
        pairs = [(side, files._replace(image=_image_of(files, finder, listing.root))) for side, files in sides]
        finder.check()
        if not listing.file:
            others = finder.paths - {files.image for _, files in pairs}
            left_out = sorted(name for name in others if not GROUND_TRUTH.search(PurePosixPath(name).stem))
            repairs.add("images without an annotation file left out", left_out, name="image")
        uses_ids = _has_known_classes(listing.root, [files for _, files in pairs])
        read = partial(_read_image, root=listing.root, image_root=finder.root, uses_ids=uses_ids)
        images = read_masks([files for _, files in pairs], read)
        for image in images:
            repairs.add("objects that are hidden, or polygons of fewer than 3 points, left out", image.empty_masks)
            repairs.add("polygons that reach outside the image clipped", image.clipped)
        class_names = _class_names({item.name for image in images for item in image.objects})
        annotation_ids = count(1)
        records = [
            _record(image, finder.root / image.image, number, annotation_ids, class_names, side)
            for number, ((side, _), image) in enumerate(zip(pairs, images, strict=True), start=1)
        ]
        return masked_dataset(options.name, records, class_names, repairs=repairs)

    def write(self, parts: Mapping[str, Dataset], folder: Path, writer: DatasetWriter) -> None:
        """`leftImg8bit/` and `gtFine/`: polygons, and instance ids where all classes are Cityscapes'."""
        for side, dataset in parts.items():
            has_ids = set(dataset.class_names) <= CLASS_IDS.keys()
            images, target = (folder / part / (side or ALL) / CITY for part in (IMAGE_FOLDER, FOLDERS[0]))
            for path in (images, target):
                path.mkdir(parents=True)
            for record in dataset.records:
                stem = writer.stem(record).removesuffix(IMAGE_ENDING)
                placed = images / writer.place_image(record, images)
                move = shutil.move if placed.parent == images else shutil.copyfile
                move(placed, images / f"{stem}{IMAGE_ENDING}{placed.suffix}")
                _write_objects(record, target / f"{stem}_{FOLDERS[0]}", dataset.class_names, writer, has_ids=has_ids)


def _is_polygons(listing: FileListing, name: str) -> bool:
    start = listing.head(name)
    text = start if KEYS[0].search(start) else start + listing.tail(name)
    return all(key.search(text) for key in KEYS) and bool(POLYGON.search(start))


def _side_of(name: str) -> str:
    return "train" if EXTRA in name.split("/") else side_of_folders(name)


def _image_of(files: CityFiles, finder: ImageFinder, root: Path) -> str:
    """The path of the image: in the parallel folder, also outside the root, else by its name."""
    folder = PurePosixPath(files.name).parent
    name = f"{files.stem}{IMAGE_ENDING}.png"
    for parent in (folder, PurePosixPath((root / folder).absolute().as_posix())):
        parallel = PurePosixPath(*(IMAGE_FOLDER if part in FOLDERS else part for part in parent.parts), name)
        if parallel.parent != parent and (found := finder.find(parallel.as_posix())):
            return found
    near = "" if folder.name == "" else folder.as_posix()
    found = finder.find(f"{files.stem}.png", near=near)
    is_image = found and not GROUND_TRUTH.search(PurePosixPath(found).stem)
    return found if is_image else finder.require(name, near=near, listed_in=files.name)


def _has_known_classes(root: Path, files: Sequence[CityFiles]) -> bool:
    """Whether classes of Cityscapes occur, in the first files with objects; also where there are only instance ids."""
    with_polygons = [item for item in files if item.polygons]
    for item in with_polygons[:LABELS_EXAMINED]:
        labels = {polygon.label.removesuffix(GROUP) for polygon in read_polygons(root / item.polygons).objects}
        if labels & CLASS_IDS.keys():
            return True
    return not with_polygons


def _class_names(labels: set[str]) -> tuple[str, ...]:
    """Cityscapes' classes and the other labels; without the former where none of them occurs."""
    singles = {label for label in labels if not (label.endswith(GROUP) and label.removesuffix(GROUP) in labels)}
    is_known = any(label.removesuffix(GROUP) in CLASS_IDS for label in singles)
    known = tuple(CLASS_IDS) if is_known else ()
    return (
        *known,
        *sorted(label for label in singles if label not in known and label.removesuffix(GROUP) not in known),
    )


def _read_image(files: CityFiles, *, root: Path, image_root: Path, uses_ids: bool) -> MaskedImage:
    """The objects of one image, named by their labels."""
    path = root / (files.ids if uses_ids and files.ids else files.polygons)
    hidden: list[str] = []
    clipped: list[str] = []
    if uses_ids and files.ids:
        labels = read_labels(path)
        names = {number: _label_of_id(number) for number in np.unique(labels).tolist()}
    else:
        labels, names, hidden, clipped = _drawn(path, uses_ids=uses_ids)
    size = image_file_size(image_root / files.image)
    if labels.shape != size:
        raise UserError(
            f"{path} is of an image of {labels.shape[1]} x {labels.shape[0]} pixels (width x height) where "
            f"{files.image} has {size[1]} x {size[0]}. Export the annotations again, or remove them."
        )
    objects = tuple(
        ObjectMask(counts, (box[0], box[1], box[2], box[3]), area, names[number])
        for number, counts, box, area in zip(*encode_labels(labels), strict=True)
        if names.get(number)
    )
    return MaskedImage(files.image, size, objects, tuple(hidden), clipped=tuple(clipped))


def _label_of_id(number: int) -> str:
    """The label of an instance id; "" for other classes."""
    if number < INSTANCES_PER_CLASS:
        return f"{CLASS_OF_ID[number]}{GROUP}" if number in CLASS_OF_ID else ""
    return CLASS_OF_ID.get(number // INSTANCES_PER_CLASS, "")


def _drawn(path: Path, *, uses_ids: bool) -> tuple[NDArray[np.int32], dict[int, str], list[str], list[str]]:
    """The drawn polygons of a file, their labels by number, those hidden or degenerate, and those that are clipped."""
    content = read_polygons(path)
    drawn = [item for item in content.objects if item.label not in NOT_DRAWN]
    labels = draw([(number, item.points) for number, item in enumerate(drawn, start=1)], content.size)
    left_out = (*VOID, *STUFF) if uses_ids else VOID
    names = {number: item.label for number, item in enumerate(drawn, start=1) if item.label not in left_out}
    visible = set(np.unique(labels).tolist())
    hidden = [f"{path}: {drawn[number - 1].where}" for number in names if number not in visible]
    clipped = [f"{path}: {drawn[number - 1].where}" for number in names if _is_outside(drawn[number - 1], content.size)]
    return labels, names, [*hidden, *[str(path)] * content.num_degenerate], clipped


def _is_outside(polygon: LabelledPolygon, size: ImageSize) -> bool:
    points = np.asarray(polygon.points)
    return bool((points < 0).any() or (points > size[::-1]).any())


def _record(
    image: MaskedImage, path: Path, number: int, annotation_ids: "count[int]", class_names: Sequence[str], side: str
) -> ImageRecord:
    """The record of an image; objects with the label of a group are crowds."""
    indices = {name: index for index, name in enumerate(class_names)}

    def classify(item: ObjectMask) -> tuple[int, float | None]:
        return indices.get(item.name, indices.get(item.name.removesuffix(GROUP), 0)), None

    record = masked_record(image, path, image_id=number, annotation_ids=annotation_ids, classify=classify, split=side)
    instances = tuple(
        replace(instance, is_crowd=item.name not in indices)
        for instance, item in zip(record.instances, image.objects, strict=True)
    )
    return replace(record, instances=instances)


def _write_objects(
    record: ImageRecord, path: Path, class_names: Sequence[str], writer: DatasetWriter, *, has_ids: bool
) -> None:
    """The polygons of a record, and its instance ids."""
    labels, instances = _painted(record, writer)
    outlines = outlines_of_labels(labels)
    names = {
        number: class_names[item.class_index] + (GROUP if item.is_crowd else "") for number, item in instances.items()
    }
    height, width = record.image_size
    objects = [{"label": names.get(number, UNLABELED), "polygon": ring.tolist()} for number, ring in outlines]
    content: dict[str, Any] = {"imgHeight": height, "imgWidth": width, "objects": objects}
    path.with_name(f"{path.name}_polygons.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    if has_ids:
        ids = np.zeros(len(instances) + 1, dtype=np.uint16)
        numbers = {name: count(INSTANCES_PER_CLASS * number) for name, number in CLASS_IDS.items()}
        for number, item in instances.items():
            name = class_names[item.class_index]
            ids[number] = CLASS_IDS[name] if item.is_crowd else next(numbers[name])
        Image.fromarray(ids[labels]).save(path.with_name(f"{path.name}{IDS_FILE}"))
        return
    parts = [number for number, _ in outlines if number]
    several = [number for number in instances if parts.count(number) > 1]
    places = [writer.place_of(record, instances[number]) for number in several]
    writer.lost.add("objects of several parts written as an object per part", places)


def _painted(record: ImageRecord, writer: DatasetWriter) -> tuple[NDArray[np.int32], dict[int, InstanceRecord]]:
    """(H, W) numbers of the objects in front, and the objects; the highest score or the smallest area is in front."""
    instances = dict(enumerate(record.instances, start=1))
    masks = {number: writer.mask(record, item) for number, item in instances.items()}
    areas = {number: rle.area(mask) for number, mask in masks.items()}
    labels = np.zeros(record.image_size, dtype=np.int32)

    def rank(number: int) -> tuple[bool, float, int]:
        item = instances[number]
        return not item.is_crowd, item.score or 0.0, -areas[number]

    for number in sorted(masks, key=rank):
        window = rle.decode_window(masks[number])
        if window is not None:
            height, width = window.bitmap.shape
            labels[window.y : window.y + height, window.x : window.x + width][window.bitmap != 0] = number
    visible = np.bincount(labels.reshape(-1), minlength=len(instances) + 1)
    for kind, is_lost in (
        ("objects without a visible pixel left out", lambda number: visible[number] == 0),
        ("objects in part behind others", lambda number: 0 < visible[number] < areas[number]),
        ("scores left out", lambda number: instances[number].score is not None),
        ("keypoints left out", lambda number: instances[number].keypoints is not None),
    ):
        places = [writer.place_of(record, instances[number]) for number in instances if is_lost(number)]
        writer.lost.add(kind, places)
    return labels, instances
