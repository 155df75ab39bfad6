"""Export of any dataset as a COCO folder: `images/` and `annotations.json`."""

import os
import shutil
import tempfile
from pathlib import Path

from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.formats.coco_writing import ANNOTATION_FILE, IMAGE_FOLDER, write_coco
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError


def export_coco(dataset: Dataset, folder: Path, *, may_overwrite: bool = False) -> None:
    """Write images and annotations; `folder` is created atomically.

    Format "coco" reads back equal records but for the image sources and the last digit of boxes. Image files are copied
    under their names; other images become PNGs, or TIFFs where a PNG cannot store them.

    Args:
        dataset: to export.
        folder: new or empty.
        may_overwrite: whether an earlier export is replaced; a folder with any other file is refused.

    Raises:
        UserError: a folder in use, or an image that cannot be read or written.
    """
    folder = folder.resolve()
    check_export_folder(folder, may_overwrite=may_overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write_coco({"": dataset}, partial, DatasetWriter(dataset.records))
        partial.chmod(0o755)  # mkdtemp permits only the owner
        _move_into_place(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def check_export_folder(folder: Path, *, may_overwrite: bool) -> None:
    """Refuse a folder that is not empty, but for an earlier export.

    Args:
        folder: of the export.
        may_overwrite: whether an earlier export may be replaced.

    Raises:
        UserError: with the content of the folder.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder to write the dataset to.")
    content = {path.name for path in folder.iterdir()}
    foreign = content - {IMAGE_FOLDER, ANNOTATION_FILE}
    if foreign:
        raise UserError(f"{folder} is not empty: it holds {min(foreign)}. Name another folder.")
    if content and not may_overwrite:
        raise UserError(f"{folder} already holds an exported dataset. Name another folder, or replace it: --overwrite.")


def _move_into_place(partial: Path, folder: Path) -> None:
    if not folder.exists():
        os.replace(partial, folder)
        return
    # A folder cannot replace a non-empty one: the old one is moved first, and restored if the second move fails.
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    os.replace(folder, old / "export")
    try:
        os.replace(partial, folder)
    except BaseException:
        os.replace(old / "export", folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
