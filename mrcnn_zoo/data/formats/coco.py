"""COCO's format: one JSON file with boxes, masks and keypoints, and a folder of images."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mrcnn_zoo.data.annotations.contract import AnnotationFormat, Found, ReadOptions
from mrcnn_zoo.data.annotations.listing import FileListing
from mrcnn_zoo.data.annotations.loading import annotation_format
from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.classes import listed, unite_classes
from mrcnn_zoo.data.derived import renumbered
from mrcnn_zoo.data.formats.coco_finding import choose_file, find_coco_files, folder_with_images, image_folders
from mrcnn_zoo.data.formats.coco_instances import read_instances
from mrcnn_zoo.data.formats.coco_json import read_categories, read_coco_json, read_images
from mrcnn_zoo.data.formats.coco_lvis import read_federated, read_frequencies
from mrcnn_zoo.data.formats.coco_writing import write_coco
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.paths import check_files_exist, image_file_size
from mrcnn_zoo.data.records import Dataset, ImageRecord, RepairLog
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops.memory import garbage_collection_paused
from mrcnn_zoo.structures import ImageSize

PLAIN_NAME = re.compile(r"[\w-][\w.-]*" if os.sep != "/" else r"[\w-][\w.-]*(/[\w-][\w.-]*)*")


@annotation_format("coco")
class CocoFormat(AnnotationFormat):
    """COCO's format, also as Roboflow, LVIS and the crowdAI mapping challenge write it."""

    title = "COCO JSON"
    looked_for = "a .json file with 'images', 'annotations' and 'categories', in the folder or in annotations/"
    reads_one_side = True

    def find(self, listing: FileListing) -> Found | None:
        """See `find_coco_files`."""
        files = find_coco_files(listing)
        if not files:
            return None
        names = [
            str(path.relative_to(listing.root)) if path.is_relative_to(listing.root) else str(path)
            for paths in files.values()
            for path in paths
        ]
        return Found(listing, files, listed(names))

    def require(self, listing: FileListing, *, dataset: str) -> Found:
        """A file that was named is read whatever it contains: the reader's messages are more precise."""
        if listing.file:
            return Found(listing, {"": [listing.path]}, listing.file)
        return super().require(listing, dataset=dataset)

    def listings(self, found: Found, options: ReadOptions) -> list[FileListing]:  # noqa: ARG002
        """None: the JSON files name the images, and the folder of a file that was named may have any others."""
        return []

    def read_dataset(self, found: Found, options: ReadOptions) -> Dataset:
        """The sides that are needed, united by the names of their classes."""
        sides = [options.split] if options.split in found.splits else found.splits
        datasets = [self._read_side(found, side, options) for side in sides]
        # COCO's test images have no labels: read with others, they would be images without objects.
        datasets = [dataset for dataset in datasets if dataset.is_labelled] or datasets
        if len(datasets) == 1:
            return datasets[0]
        united = unite_classes(datasets)
        records = tuple(record for dataset in united for record in dataset.records)
        notes = tuple(note for dataset in datasets for note in dataset.notes)
        return renumbered(replace(united[0], name=options.name, records=records, annotation_file="", notes=notes))

    def _read_side(self, found: Found, side: str, options: ReadOptions) -> Dataset:
        path = choose_file(found.splits[side], dataset=options.name, needs_keypoints=options.needs_keypoints)
        document_folder = None if options.images is None else options.images.root
        dataset = load_coco(
            options.name,
            document_folder or image_folders(found.listing.root, path, side),
            path,
            needs_masks=options.needs_masks,
            needs_keypoints=options.needs_keypoints,
        )
        return replace(dataset, records=tuple(replace(record, split=side) for record in dataset.records))

    def write(self, parts: Mapping[str, Dataset], folder: Path, writer: DatasetWriter) -> None:
        """`images/` and `annotations.json`; with sides COCO's folders, see `write_coco`."""
        write_coco(parts, folder, writer)


def load_coco(
    name: str,
    image_folder: Path | Sequence[Path] | None,
    annotation_file: Path,
    *,
    needs_masks: bool = True,
    needs_keypoints: bool = True,
) -> Dataset:
    """The dataset of an annotation file, with its images in the order of their ids.

    Args:
        name: of the dataset.
        image_folder: that file names in the JSON are relative to, or several, of which the one with the first images
            is chosen; None if only the annotations are used, which then need the sizes of the images.
        annotation_file: the JSON.
        needs_masks: whether unreadable masks are errors; otherwise their objects keep the box alone.
        needs_keypoints: whether unreadable keypoints are errors; otherwise they are left out.

    Raises:
        UserError: annotations that cannot be repaired, or missing images.
    """
    with garbage_collection_paused():
        return _load(name, image_folder, annotation_file, needs_masks=needs_masks, needs_keypoints=needs_keypoints)


def _load(
    name: str,
    image_folder: Path | Sequence[Path] | None,
    annotation_file: Path,
    *,
    needs_masks: bool,
    needs_keypoints: bool,
) -> Dataset:
    document = read_coco_json(annotation_file)
    repairs = RepairLog()
    categories = read_categories(document, repairs=repairs, needs_keypoints=needs_keypoints)
    folder = folder_with_images(image_folder, document)
    images = read_images(
        document, repairs=repairs, measure=lambda file_name: _measured(folder, file_name, annotation_file)
    )
    if folder is not None:
        check_files_exist(folder, images.file_names, listed_in=str(annotation_file))
    instances = read_instances(
        document,
        images=images,
        categories=categories,
        repairs=repairs,
        needs_masks=needs_masks,
        needs_keypoints=needs_keypoints,
    )
    federated = read_federated(document, images.ids, categories, repairs=repairs)
    paths = _paths_of(folder or Path(), images.file_names)
    records = tuple(
        ImageRecord(number, FileImage(path), size, tuple(items), federated=labels)
        for number, path, size, items, labels in zip(images.ids, paths, images.sizes, instances, federated, strict=True)
    )
    return Dataset(
        name=name,
        records=records,
        class_names=categories.names,
        category_ids=categories.ids,
        keypoint_names=categories.keypoint_names,
        keypoint_flip_pairs=categories.keypoint_flip_pairs,
        keypoint_skeleton=categories.keypoint_skeleton,
        annotation_file=str(annotation_file),
        class_frequencies=read_frequencies(document, categories),
        is_labelled=document.is_labelled,
        notes=repairs.notes(),
    )


def _paths_of(folder: Path, file_names: Sequence[str]) -> list[str]:
    """The paths of images; by pathlib, which is slow for 100,000 names, only where a name needs its rules."""
    prefix = "" if folder == Path() else f"{folder}{os.sep}"
    return [prefix + name if PLAIN_NAME.fullmatch(name) else str(folder / name) for name in file_names]


def _measured(folder: Path | None, file_name: str, annotation_file: Path) -> ImageSize:
    if folder is None:
        raise UserError(f"{annotation_file}: the image {file_name!r} has no height and width. Add them, in pixels.")
    return image_file_size(folder / file_name)
