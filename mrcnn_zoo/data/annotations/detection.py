"""Detection of the annotation format of a folder or file by content."""

from pathlib import Path

from mrcnn_zoo.data.annotations.contract import AnnotationFormat, Found
from mrcnn_zoo.data.annotations.listing import FileListing
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registries import ANNOTATION_FORMATS

FOLDERS_ABOVE = 2
ANNOTATION_FOLDERS = ("labels", "Annotations", "annotations", "gtFine", "masks")


def find_format(path: Path, *, dataset: str, format_name: str = "") -> tuple[AnnotationFormat, Found]:
    """The format of a folder or file, by content.

    Args:
        path: that exists.
        dataset: its name, for messages.
        format_name: the only format that is looked for; "" for all.

    Raises:
        UserError: no format or several, with what was looked for.
    """
    listing = FileListing(path)
    if format_name:
        kind = ANNOTATION_FORMATS.get(format_name)()
        return kind, kind.require(listing, dataset=dataset)
    matches = _matches(listing)
    if len(matches) == 1:
        return matches[0]
    if matches:
        lines = "".join(f"\n  {kind.name}: {kind.title} ({found.note})" for kind, found in matches)
        raise UserError(
            f"dataset {dataset!r}: {path} has annotations of {len(matches)} formats:{lines}\nChoose one with FORMAT in "
            f"its definition, or with DATASETS.DEFAULTS.FORMAT {matches[0][0].name}."
        )
    above = _found_above(path)
    if above:
        raise UserError(f"dataset {dataset!r}: {path} has no annotations, but {above}. Name that folder.")
    lines = "".join(f"\n  {kind.name}: {kind.looked_for}" for kind in _formats())
    raise UserError(
        f"dataset {dataset!r}: {path} has no annotations of a known format; it has {listing.content()}. Looked "
        f"for:{lines}"
    )


def has_annotations(folder: Path) -> bool:
    """Whether a folder has annotations of a known format.

    Args:
        folder: that exists.
    """
    return bool(_matches(FileListing(folder)))


def _formats() -> list[AnnotationFormat]:
    return [ANNOTATION_FORMATS.get(name)() for name in ANNOTATION_FORMATS.names()]


def _matches(listing: FileListing) -> list[tuple[AnnotationFormat, Found]]:
    return [(kind, found) for kind in _formats() if (found := kind.find(listing)) is not None]


def _found_above(path: Path) -> str:
    """The folder above a folder of images that has annotations, and their format; "" for none."""
    for folder in list(path.absolute().parents)[:FOLDERS_ABOVE] if path.is_dir() else []:
        if any((folder / name).is_dir() for name in ANNOTATION_FOLDERS):
            matches = _matches(FileListing(folder))
            if matches:
                return f"{folder} has {matches[0][0].title}"
    return ""
