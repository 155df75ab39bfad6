"""Where datasets lie: the root folder and how a path in a config is found."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from mrcnn_zoo.errors import UserError

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
