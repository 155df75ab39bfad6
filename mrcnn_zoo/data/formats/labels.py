"""Label images: each object a whole number, 0 elsewhere, as cellpose, stardist and Fiji write them."""

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mrcnn_zoo.data.annotations.contract import AnnotationFormat, Found, ReadOptions
from mrcnn_zoo.data.annotations.listing import FileListing, ImageFinder
from mrcnn_zoo.data.annotations.loading import annotation_format
from mrcnn_zoo.data.annotations.mask_files import (
    MaskedImage,
    ObjectMask,
    masked_dataset,
    masked_record,
    paint_labels,
    read_masks,
)
from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.formats.label_classes import CLASS_NAME, CLASS_TABLE, COLUMNS, ClassTable, regions_of
from mrcnn_zoo.data.formats.label_files import (
    LabelFile,
    examine,
    num_regions,
    pair_label_files,
    read_label_stack,
    read_labels,
)
from mrcnn_zoo.data.images.stacks import pages_of
from mrcnn_zoo.data.paths import EXAMPLES_SHOWN, image_file_size
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord, RepairLog
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.ops import rle
from mrcnn_zoo.ops.label_images import encode_labels

IMAGES_WRITTEN, LABELS_WRITTEN = "images", "masks"  # folders, stardist's
MAX_16_BIT = 65535
IMAGES_EXAMINED = 100  # for masks of one class

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelSet:
    """The label images of one side.

    Args:
        files: with their images.
        problem: why they are no label images; "" if they may be.
    """

    files: tuple[LabelFile, ...]
    problem: str


@annotation_format("labels")
class LabelsFormat(AnnotationFormat):
    """Label images. Their classes are those of `classes.csv` where there is one."""

    finds_images_elsewhere = False
    title = "label images"
    looked_for = (
        "a whole number per object in masks/x.png or labels/x.png beside images/x.png, or in x_masks.png beside x.png"
    )

    def find(self, listing: FileListing) -> Found | None:
        """Pairs of images and label images, of which a few are read."""
        return _found(listing, is_named=False)

    def require(self, listing: FileListing, *, dataset: str) -> Found:
        """As `find`, without doubts about classes. Where no file has an image beside it, all are label images."""
        found = _found(listing, is_named=True)
        if found is None and listing.images:
            names = [file.path for file in pair_label_files(listing).files] or listing.images
            read_labels(listing.root / names[0])  # raises: none could be read
        return found or super().require(listing, dataset=dataset)

    def read_dataset(self, found: Found, options: ReadOptions) -> Dataset:
        """The dataset of all sides, in the order of the image files."""
        sets: list[LabelSet] = list(found.splits.values())
        root, repairs = found.listing.root, RepairLog("image")
        if sets[0].problem and not options.regions:
            raise UserError(f"dataset {options.name!r}: {sets[0].problem}")
        files = _with_images([file for labels in sets for file in labels.files], found.listing, options, repairs)
        image_root = options.images.root if options.images else root
        logger.info("%s: reading %s", root, counted(len(files), "label image"))
        read = partial(_read_pages, root=root, image_root=image_root, options=options)
        pages = read_masks(files, read)
        images = [(file, image) for file, found in zip(files, pages, strict=True) for image in found]
        by_file = {file.path: found for file, found in zip(files, pages, strict=True)}
        if options.regions:
            table = ClassTable.of_values(by_file)
        else:
            _check_several_labels(images, root)
            table = ClassTable.read(root / CLASS_TABLE, by_file)
            table.check(by_file, repairs)
        annotation_ids = count(1)
        records = [
            masked_record(
                image,
                image_root / file.image,
                image_id=number,
                annotation_ids=annotation_ids,
                classify=partial(table.class_and_score, file.path),
                split=file.side,
            )
            for number, (file, image) in enumerate(images, start=1)
        ]
        return masked_dataset(options.name, records, table.names, repairs=repairs)

    def write(self, parts: Mapping[str, Dataset], folder: Path, writer: DatasetWriter) -> None:
        """`images/`, `masks/` with a label image per image, and `classes.csv`; with sides in a folder for each."""
        rows: list[tuple[str, int, str, str]] = []
        for side, dataset in parts.items():
            labels_folder = folder / side / LABELS_WRITTEN
            labels_folder.mkdir(parents=True)
            for record in dataset.records:
                writer.place_image(record, folder / side / IMAGES_WRITTEN)
                labels, numbered = _painted(record, writer)
                path = _save(labels, labels_folder / writer.stem(record))
                file = path.relative_to(folder).as_posix()
                for number, instance in numbered.items():
                    score = "" if instance.score is None else f"{instance.score:.6g}"
                    rows.append((file, number, dataset.class_names[instance.class_index], score))
        if any(row[2] != CLASS_NAME or row[3] for row in rows):
            with (folder / CLASS_TABLE).open("w", newline="", encoding="utf-8") as file_object:
                csv.writer(file_object).writerows([COLUMNS, *rows])


def _found(listing: FileListing, *, is_named: bool) -> Found | None:
    files = pair_label_files(listing).files
    if listing.file:
        files = [file for file in files if file.path == listing.file]
    if not files and is_named:
        files = [LabelFile(name, "") for name in listing.images]
    problem = examine(listing.root, files) if files else None
    if problem is None:
        return None
    by_side: dict[str, list[LabelFile]] = {}
    for file in files:
        by_side.setdefault(file.side, []).append(file)
    sets = {side: LabelSet(tuple(found), "" if is_named else problem) for side, found in by_side.items()}
    return Found(listing, sets, f"{counted(len(files), 'file')}, e.g. {files[0].path}")


def _with_images(
    files: Sequence[LabelFile], listing: FileListing, options: ReadOptions, repairs: RepairLog
) -> list[LabelFile]:
    """The files with their images, by the path of these; in the folder IMAGES if there is one.

    Raises:
        UserError: label images without an image.
    """
    if options.images is not None:
        finder = ImageFinder(options.images)
        pairs = [LabelFile(file.path, finder.require(file.stem, listed_in=file.path)) for file in files]
        finder.check()
        left_out = sorted(set(options.images.images) - {pair.image for pair in pairs})
        repairs.add("images without a label image left out", left_out)
        return sorted(pairs, key=lambda pair: pair.image)
    if not files[0].image:
        raise UserError(
            f"dataset {options.name!r}: {listing.root} has label images without images beside them. Name the folder of "
            "the images as IMAGES in its definition, and this one as ANNOTATIONS."
        )
    found = pair_label_files(listing)
    if found.missing:
        shown = ", ".join(found.missing[:EXAMPLES_SHOWN]) + (", ..." if len(found.missing) > EXAMPLES_SHOWN else "")
        raise UserError(
            f"{listing.root}: {counted(len(found.missing), 'label image')} without an image of the same name: {shown}. "
            "Copy the images there, or remove the label images."
        )
    repairs.add("images without a label image left out", found.unlabelled)
    repairs.add("further label images of the same image left out", found.superfluous, name="file")
    return sorted(files, key=lambda file: file.image)


def _read_pages(file: LabelFile, *, root: Path, image_root: Path, options: ReadOptions) -> list[MaskedImage]:
    """The objects of one label image, or of each of its pages, named by their numbers, or regions by their values."""
    path, image = root / file.path, image_root / file.image
    sources = pages_of(str(image)) if options.pages_are_images else ()
    if len(sources) < 2:
        return [_masked_image(read_labels(path), file, path, image_file_size(image), has_regions=options.regions)]
    stack = read_label_stack(path)
    if len(stack) != len(sources):
        raise UserError(
            f"{path} has {counted(len(stack), 'page')} where its image {file.image} has {len(sources)}. With "
            "INPUT.PAGES images each page of the image has one of the label image."
        )
    images = [_masked_image(page, file, path, page.shape, has_regions=options.regions) for page in stack]
    return [replace(image, page=page) for page, image in enumerate(images)]


def _masked_image(
    labels: NDArray[np.generic], file: LabelFile, path: Path, size: tuple[int, ...], *, has_regions: bool
) -> MaskedImage:
    if labels.shape != size:
        raise UserError(
            f"{path} is {labels.shape[1]} x {labels.shape[0]} pixels (width x height) where its image "
            f"{file.image} is {size[1]} x {size[0]}. A label image must have the size of its image."
        )
    labels, values = regions_of(labels) if has_regions else (labels, [])
    masks = encode_labels(labels)
    objects = tuple(
        ObjectMask(counts, (box[0], box[1], box[2], box[3]), area, name)
        for name, counts, box, area in zip(
            values or map(str, masks.labels), masks.counts, masks.boxes, masks.areas, strict=True
        )
    )
    return MaskedImage(file.image, (size[0], size[1]), objects)


def _check_several_labels(images: Sequence[tuple[LabelFile, MaskedImage]], root: Path) -> None:
    """Refuse masks of one class: no image has two labels, and one of the first has several regions of its label."""
    if max(len(image.objects) for _, image in images) > 1:
        return
    for file, image in [pair for pair in images if pair[1].objects][:IMAGES_EXAMINED]:
        item = image.objects[0]
        window = rle.decode_window({"size": list(image.size), "counts": item.counts})
        regions = 1 if window is None else num_regions(window.bitmap != 0)
        if regions > 1:
            raise UserError(
                f"{root / file.path} has the value {item.name} alone in {regions} connected regions, and no file has "
                "several values: these are masks of a class, not label images, which have a number per object. If the "
                "objects do not touch, set DATASETS.DEFAULTS.REGIONS True: each connected region is an object. "
                "Otherwise save a mask per object, or number the objects."
            )


def _painted(record: ImageRecord, writer: DatasetWriter) -> tuple[NDArray[np.int32], dict[int, InstanceRecord]]:
    """The label image of a record, and its objects by number."""
    crowds = [writer.place_of(record, item) for item in record.instances if item.is_crowd]
    writer.lost.add("regions of uncounted objects left out", crowds, name="")
    instances = dict(enumerate((item for item in record.instances if not item.is_crowd), start=1))
    labels, hidden, cut = paint_labels(record, instances, writer)
    for kind, numbers in (("objects without a visible pixel left out", hidden), ("objects in part behind others", cut)):
        writer.lost.add(kind, [writer.place_of(record, instances[number]) for number in sorted(numbers)])
    return labels, {number: item for number, item in instances.items() if number not in hidden}


def _save(labels: NDArray[np.int32], path: Path) -> Path:
    """A 16-bit PNG, or a 32-bit TIFF from 65,536 objects on."""
    if labels.max(initial=0) > MAX_16_BIT:
        path = path.with_name(f"{path.name}.tif")
        Image.fromarray(labels).save(path, compression="tiff_deflate")
    else:
        path = path.with_name(f"{path.name}.png")
        Image.fromarray(labels.astype(np.uint16)).save(path)
    return path
