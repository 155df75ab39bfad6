"""Whether the image files that annotations name exist, found out by listing folders instead of asking for each."""

import os
from collections.abc import Sequence
from pathlib import Path

from mrcnn_zoo.errors import UserError

EXAMPLES_SHOWN = 3


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
