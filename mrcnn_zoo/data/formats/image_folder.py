"""A folder of images per class, as of ImageNet: the classes are the sorted names of the folders."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.catalog import read_fields
from mrcnn_zoo.data.images.reading import IMAGE_SUFFIXES, FileImage
from mrcnn_zoo.data.paths import cache_key, find_folder, image_file_size, read_cache, write_cache
from mrcnn_zoo.data.records import Dataset, ImageRecord, filling_object
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registries import DATASET_FORMATS
from mrcnn_zoo.registry import did_you_mean
from mrcnn_zoo.structures import ImageSize

CACHE_NAME, CACHE_VERSION = "image_folder", "1"  # increase the version when the meaning of the cached values changes
READERS = 4  # threads, which wait for the disk
LAYOUT = "A dataset of format image_folder is a folder with one subfolder of images per class, e.g. train/dog/1.jpg."

File = tuple[str, int, int]  # path relative to the root, bytes, modification time


@DATASET_FORMATS.register("image_folder")
def build_image_folder(cfg: CfgNode, name: str, definition: Mapping[str, Any]) -> Dataset:  # noqa: ARG001
    """Fields: IMAGES, the root; CLASSES, the folders in their order, [] for all, sorted; NO_OBJECT, the folder of
    images without object, if there is one."""
    fields = read_fields(name, definition, required=("IMAGES",), optional={"CLASSES": [], "NO_OBJECT": ""})
    root = find_folder(fields["IMAGES"], dataset=name, what="folder of images (IMAGES)")
    return load_image_folder(name, root, class_names=fields["CLASSES"], no_object=fields["NO_OBJECT"])


def load_image_folder(name: str, root: Path, *, class_names: Sequence[str] = (), no_object: str = "") -> Dataset:
    """The images below the folders of a root, each with one object that fills it.

    Args:
        name: of the dataset.
        root: with a folder per class; files beside the folders and hidden files are not read.
        class_names: folders to read, in the order of the classes; all but `no_object`, sorted, by default.
        no_object: the folder of images without object; "" for none.

    Raises:
        UserError: no folders, a folder that is missing or has no images, or a file that is no image.
    """
    folders = _class_folders(root, name, class_names, no_object)
    files = [(index, file) for index, folder in enumerate(folders) for file in list_images(root, folder)]
    sizes = _sizes_of(root, [file for _, file in files])
    records = []
    for number, ((index, (path, _, _)), size) in enumerate(zip(files, sizes, strict=True), start=1):
        is_object = not no_object or index < len(folders) - 1
        instances = (filling_object(size, index, annotation_id=number),) if is_object else ()
        records.append(ImageRecord(number, FileImage(str(root / path)), size, instances))
    names = tuple(folders[:-1] if no_object else folders)
    return Dataset(name, tuple(records), names, tuple(range(1, len(names) + 1)))


def _class_folders(root: Path, name: str, class_names: Sequence[str], no_object: str) -> list[str]:
    """The folders of the classes in their order, that of images without object last."""
    present = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not present:
        raise UserError(f"dataset {name!r}: {root} holds no folders. {LAYOUT}")
    where = f"DATASETS.DEFINITIONS.{name}"
    for field, folders in (("CLASSES", list(class_names)), ("NO_OBJECT", [no_object] if no_object else [])):
        for folder in folders:
            if folder not in present:
                raise UserError(
                    f"{where}.{field} names {folder!r}, but {root} has no such folder.{did_you_mean(folder, present)}"
                )
    if len(set(class_names)) < len(class_names) or no_object in class_names:
        raise UserError(f"{where}.CLASSES = {list(class_names)} must name distinct folders, without NO_OBJECT.")
    chosen = list(class_names) or [folder for folder in present if folder != no_object]
    if not chosen:
        raise UserError(f"dataset {name!r}: {root} holds no folder besides NO_OBJECT {no_object!r}. {LAYOUT}")
    return [*chosen, *([no_object] if no_object else [])]


def list_images(root: Path, folder: str) -> list[File]:
    """The image files below a folder, sorted by path; other files are left out.

    Args:
        root: of the dataset.
        folder: of the class, relative to the root.

    Raises:
        UserError: there are none.
    """
    found = []
    for parent, folders, names in os.walk(root / folder, followlinks=True):
        folders[:] = sorted(item for item in folders if not item.startswith("."))
        for file in sorted(names):
            if not file.startswith(".") and Path(file).suffix.lower() in IMAGE_SUFFIXES:
                path = Path(parent, file)
                status = path.stat()
                found.append((path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns))
    if not found:
        raise UserError(
            f"{root / folder} is a class without images. Add its images ({', '.join(IMAGE_SUFFIXES[:4])}, ...), remove "
            "the folder, or leave it out of CLASSES."
        )
    return found


def _sizes_of(root: Path, files: Sequence[File]) -> list[ImageSize]:
    """(height, width) of each file, from the cache if no file has changed since it was written."""
    lines = [f"{path}:{size}:{time}" for path, size, time in files]
    key = cache_key([CACHE_VERSION, str(root.resolve()), *lines])
    cached = read_cache(CACHE_NAME, key)
    if cached is not None:
        return [(height, width) for height, width in cached]
    with ThreadPoolExecutor(READERS) as pool:
        sizes = list(pool.map(partial(_size_of, root), files))
    write_cache(CACHE_NAME, key, sizes)
    return sizes


def _size_of(root: Path, file: File) -> ImageSize:
    return image_file_size(root / file[0])
