"""Where datasets are stored, and the image files that annotations name."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from mrcnn_zoo.data.images.reading import EXIF_ORIENTATION, FileImage, open_image
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.structures import ImageSize

ROOT_VARIABLES = ("MRCNN_ZOO_DATASETS", "DETECTRON2_DATASETS")
DEFAULT_ROOT = "datasets"


def datasets_root() -> Path:
    """The folder that holds `coco`, `dsb2018` and others: from the environment, else ./datasets."""
    for variable in ROOT_VARIABLES:
        if os.environ.get(variable):
            return Path(os.environ[variable]).expanduser()
    return Path(DEFAULT_ROOT)


def find_path(path: str | Path, *, dataset: str, what: str) -> Path:
    """The existing file or folder that a definition names, relative to the current folder or to the datasets' root.

    Args:
        path: as the definition gives it.
        dataset: name of the dataset, for the message.
        what: what is looked for, e.g. "image folder", for the message.

    Raises:
        UserError: with every place that was looked at and how to set the root.
    """
    places = candidate_places(path)
    for place in places:
        if place.exists():
            return place
    looked_at = " and ".join(str(place.absolute()) for place in places)
    advice = "" if Path(path).expanduser().is_absolute() else f" {how_to_set_root()}"
    raise UserError(f"dataset {dataset!r}: the {what} is missing, looked for {looked_at}.{advice}")


def find_folder(path: str | Path, *, dataset: str, what: str) -> Path:
    """As `find_path`, for a path that must be a folder.

    Raises:
        UserError: also when it is a file.
    """
    found = find_path(path, dataset=dataset, what=what)
    if not found.is_dir():
        raise UserError(f"dataset {dataset!r}: the {what} {found} is a file, and must be a folder.")
    return found


def candidate_places(path: str | Path) -> Sequence[Path]:
    """Where a path may lie, in the order of preference."""
    path = Path(path).expanduser()
    return [path] if path.is_absolute() else list(dict.fromkeys([path, datasets_root() / path]))


def how_to_set_root() -> str:
    """The sentence for messages."""
    return f"Set the environment variable {ROOT_VARIABLES[0]} to the folder that holds your datasets."


def folder_name(dataset: str) -> str:
    """The name of a dataset as that of one folder to write into.

    A dataset may be named by its own path, and joining that to an output folder would lead back to the dataset, where
    pictures named `<image id>.png` could replace the images.

    >>> folder_name("/data/cells/train")
    'data_cells_train'
    """
    return re.sub(r"[^\w.-]+", "_", dataset).strip("_.") or "dataset"


EXAMPLES_SHOWN = 3
SIDEWAYS = range(5, 9)  # EXIF orientations with width and height exchanged


def check_files_exist(folder: Path, names: Sequence[str], *, listed_in: str) -> None:
    """Check all images of a dataset at once.

    Args:
        folder: of the images.
        names: of the files, relative to the folder; may contain subfolders.
        listed_in: the file that names them, for the message.

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
    """(height, width) of an image as it is shown, without decoding it where its kind of file allows that.

    Raises:
        UserError: a file that is missing, cut off or no image.
    """
    source = FileImage(str(path))
    if source.is_array_or_tiff():
        height, width = source.read(max_pixels=0).shape[:2]
        return height, width
    with open_image(str(path), max_pixels=0) as image:
        width, height = image.size
        is_sideways = image.getexif().get(EXIF_ORIENTATION) in SIDEWAYS
    return (width, height) if is_sideways else (height, width)
