"""Detection of the annotation format of a folder or file by content."""

from pathlib import Path

from mrcnn_zoo.data.annotations.contract import AnnotationFormat, Found
from mrcnn_zoo.data.annotations.listing import FileListing
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registries import ANNOTATION_FORMATS

SUFFIXES_SHOWN = 6


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
    formats: list[AnnotationFormat] = [ANNOTATION_FORMATS.get(name)() for name in ANNOTATION_FORMATS.names()]
    matches = [(kind, found) for kind in formats if (found := kind.find(listing)) is not None]
    if len(matches) == 1:
        return matches[0]
    if matches:
        lines = "".join(f"\n  {kind.name}: {kind.title} ({found.note})" for kind, found in matches)
        raise UserError(
            f"dataset {dataset!r}: {path} has annotations of {len(matches)} formats:{lines}\nChoose one with FORMAT in "
            f"its definition, or with DATASETS.DEFAULTS.FORMAT {matches[0][0].name}."
        )
    lines = "".join(f"\n  {kind.name}: {kind.looked_for}" for kind in formats)
    raise UserError(
        f"dataset {dataset!r}: {path} has no annotations of a known format; it has {listing.content()}. Looked "
        f"for:{lines}"
    )
