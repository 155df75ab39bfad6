"""The image files that annotations name: whether they exist, by listing folders, and their sizes."""

import os
from collections.abc import Sequence
from pathlib import Path

from mrcnn_zoo.data.images import EXIF_ORIENTATION, FileImage, open_image
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.structures import ImageSize

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


def size_of_file(path: Path) -> ImageSize:
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
