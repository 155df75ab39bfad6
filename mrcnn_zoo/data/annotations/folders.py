"""Datasets written into folders: complete or not at all, and nothing of the user's is replaced."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Protocol

from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError

MARKER = ".mrcnn_zoo.json"  # in a written folder: its format, and the size of each file


class WritesDatasets(Protocol):
    """The writing part of an annotation format."""

    name: ClassVar[str]
    title: ClassVar[str]
    finds_images_elsewhere: ClassVar[bool]

    def write(self, parts: Mapping[str, Dataset], folder: Path, writer: DatasetWriter) -> None:
        """See `AnnotationFormat.write`."""
        ...


def write_dataset(
    parts: Mapping[str, Dataset],
    folder: Path,
    kind: WritesDatasets,
    *,
    tolerance: float = 0.0,
    copies_images: bool = True,
    may_overwrite: bool = False,
) -> tuple[str, ...]:
    """Write a dataset in a format; the folder is there with all files, or as it was before.

    Args:
        parts: by side; by "" where there are no sides. All have the same classes.
        folder: new or empty.
        kind: the format.
        tolerance: see `DatasetWriter`.
        copies_images: see `DatasetWriter`.
        may_overwrite: whether an earlier output of this function is replaced; see `check_dataset_folder`.

    Returns:
        What the format cannot hold, with counts.

    Raises:
        UserError: a folder in use, an image that cannot be read, or data that the format cannot hold at all.
    """
    folder = folder.resolve()
    check_dataset_folder(folder, may_overwrite=may_overwrite)
    if not copies_images:
        _check_references(parts, folder, kind)
    records = chain.from_iterable(part.records for part in parts.values())
    writer = DatasetWriter(records, tolerance=tolerance, copies_images=copies_images)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        kind.write(parts, partial, writer)
        content = {"format": kind.name, "files": _sizes(partial)}
        (partial / MARKER).write_text(json.dumps(content), encoding="utf-8")
        partial.chmod(0o755)  # mkdtemp permits only the owner
        _move_into_place(partial, folder)
    except BaseException:  # also Ctrl-C
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return writer.lost.notes()


def check_dataset_folder(folder: Path, *, may_overwrite: bool) -> None:
    """Refuse a folder that is not empty, but for an earlier output without files that were added or changed since.

    Args:
        folder: to write to.
        may_overwrite: whether an earlier output may be replaced.

    Raises:
        UserError: with a file that is in the way.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder to write the dataset to.")
    first = min((path.name for path in folder.iterdir()), default="")
    if not first:
        return
    written = _read_marker(folder)
    if written is None:
        raise UserError(f"{folder} is not empty: it holds {first}. Name another folder.")
    if not may_overwrite:
        raise UserError(
            f"{folder} already holds a written dataset. Name another folder, or replace it: --overwrite, in Python "
            "may_overwrite=True."
        )
    changed = sorted(name for name, size in _sizes(folder).items() if written.get(name) != size)
    if changed:
        raise UserError(
            f"{folder} holds files that were added or changed since it was written: {changed[0]}"
            f"{', ...' if len(changed) > 1 else ''}. Name another folder, or remove this one."
        )


def _read_marker(folder: Path) -> dict[str, Any] | None:
    """Sizes of the written files; None if the folder was not written by `write_dataset`."""
    try:
        content = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    files = content.get("files") if isinstance(content, dict) else None
    return files if isinstance(files, dict) else None


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of all files but the marker, by their paths in the folder."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            found[path.relative_to(folder).as_posix()] = path.lstat().st_size
    found.pop(MARKER, None)
    return found


def _check_references(parts: Mapping[str, Dataset], folder: Path, kind: WritesDatasets) -> None:
    """Refuse references where the format has none, and to images of the folder that is replaced."""
    if not kind.finds_images_elsewhere:
        raise UserError(
            f"format {kind.name!r} ({kind.title}) finds images by their place in its own folder, so they must be "
            "copied: leave --no-images out."
        )
    for record in chain.from_iterable(part.records for part in parts.values()):
        if isinstance(record.source, FileImage) and Path(record.source.path).resolve().is_relative_to(folder):
            raise UserError(
                f"{folder} would be replaced, and holds the image {record.source.path} that the new dataset refers to. "
                "Name another folder, or copy the images."
            )


def _move_into_place(partial: Path, folder: Path) -> None:
    if not folder.exists():
        os.replace(partial, folder)
        return
    # A folder cannot replace a non-empty one: the old one is moved first, and restored if the second move fails.
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    os.replace(folder, old / "dataset")
    try:
        os.replace(partial, folder)
    except BaseException:
        os.replace(old / "dataset", folder)
        old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)
