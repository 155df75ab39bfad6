"""Folders of datasets and of the cache of parsed datasets, and checks of the image files that annotations name."""

import contextlib
import gzip
import hashlib
import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from mrcnn_zoo.data.images.arrays import tiff_size
from mrcnn_zoo.data.images.headers import size_from_header
from mrcnn_zoo.data.images.reading import EXIF_ORIENTATION, FileImage, open_image
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.output_files import write_atomically
from mrcnn_zoo.structures import ImageSize

ROOT_VARIABLES = ("MRCNN_ZOO_DATASETS", "DETECTRON2_DATASETS")
DEFAULT_ROOT = "datasets"
CACHE_VARIABLE = "MRCNN_ZOO_CACHE"
KEY_LENGTH = 16  # characters of the hash in the names of cache files
EXAMPLES_SHOWN = 3
TIFF_WIDTH, TIFF_HEIGHT = 256, 257  # tags
READERS, PART = 4, 256  # threads, and files that one reads at a time
SIDEWAYS = range(5, 9)  # EXIF orientations with width and height exchanged


def datasets_root() -> Path:
    """The folder with `coco`, `dsb2018` and others: from the environment, else ./datasets."""
    for variable in ROOT_VARIABLES:
        if os.environ.get(variable):
            return Path(os.environ[variable]).expanduser()
    return Path(DEFAULT_ROOT)


def find_path(path: str | Path, *, dataset: str, what: str) -> Path:
    """An existing file or folder, relative to the current folder or else to the root of the datasets.

    Args:
        path: as in the definition of the dataset.
        dataset: name of the dataset, for the message.
        what: the kind of file, e.g. "image folder", for the message.

    Raises:
        UserError: with every candidate and how to set the root.
    """
    candidates = candidate_paths(path)
    for candidate in candidates:
        if candidate.exists():
            return candidate
    searched = " and ".join(str(candidate.absolute()) for candidate in candidates)
    advice = "" if Path(path).expanduser().is_absolute() else f" {how_to_set_root()}"
    raise UserError(f"dataset {dataset!r}: the {what} is missing, searched {searched}.{advice}")


def find_folder(path: str | Path, *, dataset: str, what: str) -> Path:
    """An existing folder, see `find_path`.

    Args:
        path: as in the definition of the dataset.
        dataset: name of the dataset, for the message.
        what: the kind of folder, for the message.

    Raises:
        UserError: it is missing, or a file.
    """
    found = find_path(path, dataset=dataset, what=what)
    if not found.is_dir():
        raise UserError(f"dataset {dataset!r}: the {what} {found} is a file, and must be a folder.")
    return found


def candidate_paths(path: str | Path) -> Sequence[Path]:
    """The absolute path, or the relative one in the current folder and in the root, in this order."""
    path = Path(path).expanduser()
    return [path] if path.is_absolute() else list(dict.fromkeys([path, datasets_root() / path]))


def how_to_set_root() -> str:
    """A sentence for messages on how to set the root of the datasets."""
    return f"Set the environment variable {ROOT_VARIABLES[0]} to the folder that holds your datasets."


def folder_name(dataset: str) -> str:
    """The name of an output folder for a dataset.

    Datasets may be named by their paths; an absolute one, joined to an output folder, would be the dataset itself,
    where pictures named `<image id>.png` could replace the images.

    >>> folder_name("/data/cells/train")
    'data_cells_train'
    """
    return re.sub(r"[^\w.-]+", "_", dataset).strip("_.") or "dataset"


def check_files_exist(folder: Path, names: Sequence[str], *, listed_in: str) -> None:
    """Check that all image files of a dataset exist, with one listing per folder.

    Args:
        folder: of the images.
        names: of the files, relative to the folder, subfolders included.
        listed_in: the annotation file, for the message.

    Raises:
        UserError: with the number of missing files and the first three.
    """
    present: dict[str, set[str]] = {}
    missing = []
    for name in names:
        subfolder, file_name = os.path.split(name)
        if subfolder not in present:
            present[subfolder] = _list_folder(folder / subfolder)
        if file_name not in present[subfolder]:
            missing.append(name)
    if missing:
        examples = ", ".join(missing[:EXAMPLES_SHOWN]) + (", ..." if len(missing) > EXAMPLES_SHOWN else "")
        raise UserError(
            f"{folder}: {len(missing)} of the {len(names)} images that {listed_in} lists are missing: {examples}. "
            "Copy them there, or remove them from the annotations."
        )


def _list_folder(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries}


def image_file_size(path: Path) -> ImageSize:
    """(height, width) of an upright image, from the header if the file format has one.

    Raises:
        UserError: a file that is missing, truncated or not an image.
    """
    if size := size_from_header(str(path)):
        return size
    source = FileImage(str(path))
    is_array_or_tiff = source.is_array_or_tiff()
    try:
        with open_image(str(path), max_pixels=0) as image:
            if not is_array_or_tiff or getattr(image, "n_frames", 1) == 1:
                tags = getattr(image, "tag_v2", {})  # of a TIFF, whose `size` is upright in recent versions of Pillow
                width, height = tags.get(TIFF_WIDTH, image.width), tags.get(TIFF_HEIGHT, image.height)
                is_sideways = image.getexif().get(EXIF_ORIENTATION) in SIDEWAYS
                return (width, height) if is_sideways else (height, width)
    except UserError:
        if not is_array_or_tiff:
            raise
    if size := tiff_size(str(path)):  # of a TIFF with pages, their axes decide
        return size
    height, width = source.read(max_pixels=0).shape[:2]
    return height, width


def image_file_sizes(paths: Sequence[str]) -> list[ImageSize]:
    """`image_file_size` of many files, in threads, which wait for the disk.

    Args:
        paths: of the files.
    """
    with ThreadPoolExecutor(READERS) as pool:
        parts = pool.map(_sizes_of, [paths[start : start + PART] for start in range(0, len(paths), PART)])
        return [size for part in parts for size in part]


def _sizes_of(paths: Sequence[str]) -> list[ImageSize]:
    return [size_from_header(path) or image_file_size(Path(path)) for path in paths]


def dataset_cache_folder() -> Path:
    """The folder of parsed datasets: MRCNN_ZOO_CACHE, else $XDG_CACHE_HOME/mrcnn_zoo, else ~/.cache/mrcnn_zoo.

    Its compressed JSON files may be deleted at any time.
    """
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "mrcnn_zoo"


def cache_key(lines: Sequence[str]) -> str:
    """A hash of everything that a cached result depends on.

    Args:
        lines: paths, sizes, modification times, versions.
    """
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:KEY_LENGTH]


def read_cache(name: str, key: str) -> Any | None:
    """The content written by `write_cache`; None if there is none or the file is damaged.

    Args:
        name: of the format.
        key: see `cache_key`.
    """
    try:
        with gzip.open(_file_of(name, key), "rt", encoding="utf-8") as file:
            return json.load(file)
    except (OSError, EOFError, ValueError):
        return None


def write_cache(name: str, key: str, content: Any) -> None:
    """Write a result to the cache atomically; does nothing if the folder is not writable.

    Args:
        name: of the format.
        key: see `cache_key`.
        content: lists, dicts, numbers and strings.
    """

    def write(file: BinaryIO) -> None:
        with gzip.open(file, "wt", encoding="utf-8", compresslevel=1) as text:
            json.dump(content, text, separators=(",", ":"))

    with contextlib.suppress(UserError):
        write_atomically(_file_of(name, key), write)


def _file_of(name: str, key: str) -> Path:
    return dataset_cache_folder() / f"{name}-{key}.json.gz"
