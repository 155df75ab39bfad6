"""YOLO's format: a text file per image with a line per object, as Ultralytics, Roboflow, CVAT and darknet have it."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import yaml

from mrcnn_zoo.data.annotations.contract import AnnotationFormat, Annotations, Found, ReadOptions
from mrcnn_zoo.data.annotations.joining import joined_outline
from mrcnn_zoo.data.annotations.listing import FileListing, ImageFinder
from mrcnn_zoo.data.annotations.loading import annotation_format
from mrcnn_zoo.data.annotations.objects import AnnotatedImage
from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.formats.yolo_labels import LabelFile, read_label_files
from mrcnn_zoo.data.formats.yolo_layout import Side, find_layout, label_name
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.paths import image_file_sizes
from mrcnn_zoo.data.records import Dataset, ImageRecord, RepairLog
from mrcnn_zoo.errors import UserError

IMAGES, LABELS, DATA_FILE = "images", "labels", "data.yaml"
DECIMALS = 7  # of fractions: a thousandth of a pixel in an image of 10,000


@annotation_format("yolo")
class YoloFormat(AnnotationFormat):
    """Polygons or boxes as fractions of the image; classes are numbered, their names are in data.yaml."""

    title = "YOLO text, one file per image"
    looked_for = (
        "data.yaml, obj.data, or .txt files in labels/ or beside images with lines of a class number and fractions"
    )

    def find(self, listing: FileListing) -> Found | None:
        """See `find_layout`."""
        return find_layout(listing)

    def read_images(self, found: Found, options: ReadOptions) -> Annotations:
        """An image without a label file has no objects."""
        repairs = RepairLog("object")
        sides: Mapping[str, Side] = found.splits
        problems = [side.problem for side in sides.values() if side.problem]
        if problems:
            raise UserError(problems[0])
        first = next(iter(sides.values()))
        pairs = _pairs(found, options, repairs)
        sizes = image_file_sizes([image for image, _, _ in pairs])
        files = [LabelFile(label, size) for (_, label, _), size in zip(pairs, sizes, strict=True) if label]
        objects = read_label_files(files, first.names, names_file=first.names_file)
        images = [
            AnnotatedImage(FileImage(image), size, next(objects) if label else [], label, side)
            for (image, label, side), size in zip(pairs, sizes, strict=True)
        ]
        names = first.names
        if names is None:
            numbers = [int(item.class_name) for image in images for item in image.objects]
            names = tuple(map(str, range(max(numbers, default=-1) + 1)))
            repairs.add("classes without names, as there is no data.yaml or classes.txt, named by their numbers", names)
        return Annotations(images, names, repairs)

    def write(self, parts: Mapping[str, Dataset], folder: Path, writer: DatasetWriter) -> None:
        """`images/`, `labels/` and `data.yaml`; with sides a folder for each below the two."""
        datasets = list(parts.values())
        records = [record for dataset in datasets for record in dataset.records]
        has_masks = any(item.segmentation is not None for record in records for item in record.instances)
        content: dict[str, object] = {}
        for side, dataset in parts.items():
            labels = folder / LABELS / side
            labels.mkdir(parents=True, exist_ok=True)
            paths = [writer.place_image(record, folder / IMAGES / side) for record in dataset.records]
            for record in dataset.records:
                text = "".join(_lines(record, writer, has_masks=has_masks))
                (labels / f"{writer.stem(record)}.txt").write_text(text, encoding="utf-8")
            source = f"{IMAGES}/{side}".rstrip("/")
            if not writer.copies_images:
                source = f"{side or 'images'}.txt"
                lines = [str((folder / IMAGES / side / path).resolve()) for path in paths]
                (folder / source).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            # Ultralytics needs both keys; equal values mean that there are no sides.
            content |= {side: source} if side else {"train": source, "val": source}
        content |= {"names": dict(enumerate(datasets[0].class_names))}
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        (folder / DATA_FILE).write_text(text, encoding="utf-8")


def _pairs(found: Found, options: ReadOptions, repairs: RepairLog) -> list[tuple[str, str, str]]:
    """(image, label file or "", side) of every image."""
    labels = frozenset(name for name in found.listing.files if name.endswith((".txt", ".TXT")))
    listing = options.images or found.listing
    images = [(image, side) for side, value in found.splits.items() for image in _images_of(value, listing, options)]
    names = [(name if (name := label_name(image)) in labels else "") for image, _ in images]
    if not any(names):
        names = _labels_by_stem([image for image, _ in images], labels)
    missing = [image for (image, _), name in zip(images, names, strict=True) if not name]
    if images and len(missing) == len(images):
        raise UserError(
            f"dataset {options.name!r}: none of the {len(images)} images has a label file; that of {images[0][0]} "
            f"would be {found.listing.root / label_name(images[0][0])}."
        )
    if not images:
        raise UserError(
            f"dataset {options.name!r}: {found.listing.path} has label files but no images. Name their folder as "
            "IMAGES in the definition of the dataset, and the labels as ANNOTATIONS."
        )
    repairs.add("images without a label file taken as images without objects", missing, name="image")
    _count_unused(names, labels, repairs)
    return [
        (str(listing.root / image), str(found.listing.root / name) if name else "", side)
        for (image, side), name in zip(images, names, strict=True)
    ]


def _images_of(side: Side, listing: FileListing, options: ReadOptions) -> Iterator[str]:
    """The images of a side, relative to the root of the listing."""
    if options.images is not None and not side.lists:
        yield from listing.images
        return
    folders = frozenset(side.folders)
    yield from (name for name in listing.images if name.rpartition("/")[0] in folders)
    if side.lists:
        finder = ImageFinder(listing)
        for source in side.lists:
            yield from _listed_images(source, listing, finder)
        finder.check()


def _listed_images(source: str, listing: FileListing, finder: ImageFinder) -> Iterator[str]:
    """The images of a text file: relative to the root, whatever their first folders, or absolute paths elsewhere."""
    path = listing.root / source
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a list of images: {error}.") from error
    near = str(PurePosixPath(source).parent)
    for line in filter(None, map(str.strip, lines)):
        parts = [part for part in line.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        name = next((end for end in ends if end in finder.paths), "")
        name = name or (line if os.path.isabs(line) and os.path.isfile(line) else "")
        found = name or finder.require(line, near="" if near == "." else near, listed_in=str(path))
        if found:
            yield found


def _labels_by_stem(images: Sequence[str], labels: frozenset[str]) -> list[str]:
    """The only label file with the name of each image, for other folders than `images` and `labels`."""
    counts = Counter(PurePosixPath(label).stem for label in labels)
    by_stem = {stem: label for label in labels if counts[stem := PurePosixPath(label).stem] == 1}
    return [by_stem.get(PurePosixPath(image).stem, "") for image in images]


def _count_unused(names: Sequence[str], labels: frozenset[str], repairs: RepairLog) -> None:
    """Count the label files without an image in the folders of the others."""
    used = frozenset(names)
    folders = {name.rpartition("/")[0] for name in used if name}
    is_apart = all("labels" in folder.split("/") for folder in folders)  # else any text may be beside images
    unused = [name for name in labels - used if name.rpartition("/")[0] in folders and is_apart]
    unused = [name for name in unused if not name.endswith("classes.txt")]
    repairs.add("label files without an image left out", sorted(unused), name="file")


def _lines(record: ImageRecord, writer: DatasetWriter, *, has_masks: bool) -> Iterator[str]:
    height, width = record.image_size
    size = np.array([width, height], dtype=np.float64)
    for item in record.instances:
        place = [writer.place_of(record, item)]
        if item.is_crowd:
            writer.lost.add("crowds left out", place)
            continue
        if not has_masks:
            corners = np.array(item.box).reshape(2, 2) / size
            fractions = np.round([corners.mean(axis=0), corners[1] - corners[0]], DECIMALS)
        else:
            if item.segmentation is None:
                writer.lost.add("boxes written as polygons of four corners, since other objects have masks", place)
            # Rounded up, because pycocotools rounds corners at the centres of pixels down when they are a little less.
            scale = 10.0**DECIMALS
            fractions = np.clip(np.ceil(joined_outline(record, item, writer) / size * scale) / scale, 0.0, 1.0)
        writer.lost.add("scores left out", place if item.score is not None else [])
        writer.lost.add("keypoints left out", place if item.keypoints is not None else [])
        yield f"{item.class_index} {' '.join(f'{value:.{DECIMALS}g}' for value in fractions.ravel().tolist())}\n"
