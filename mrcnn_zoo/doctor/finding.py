"""Findings of the checks before a training."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from mrcnn_zoo.data.records import ImageRecord, InstanceRecord

EXAMPLES_KEPT = 6  # per finding

Box = tuple[float, float, float, float]  # x1 y1 x2 y2, pixels of the image file


class Severity(IntEnum):
    """The kinds of findings, in the order in which they are printed."""

    ERROR = 0  # the training would fail, or its results would be wrong
    WARNING = 1  # it would be worse than necessary
    NOTE = 2  # worth knowing
    FINE = 3  # checked, nothing found
    SKIPPED = 4  # could not be checked


@dataclass(frozen=True)
class Example:
    """One case of a finding.

    Args:
        text: the case itself, e.g. "annotation 12, 0.4 x 30 pixels"; may be empty.
        record: of the image; None if there is none, e.g. for a class.
        boxes: of the objects concerned.
        other: a second image that the first is compared with.
    """

    text: str
    record: ImageRecord | None = None
    boxes: tuple[Box, ...] = ()
    other: ImageRecord | None = None
    annotation_ids: tuple[int, ...] = ()

    @property
    def file(self) -> str:
        """The image file with its folder; empty without an image."""
        return shown_file(self.record) if self.record is not None else ""

    def __str__(self) -> str:
        pair = f" and {shown_file(self.other)}" if self.other is not None else ""
        return ": ".join(part for part in (f"{self.file}{pair}", self.text) if part)


@dataclass(frozen=True)
class Finding:
    """The result of a check, or of a part of it.

    Args:
        severity: its kind.
        title: what was found, with the dataset and the number; one line.
        advice: what to do.
        count: number of elements concerned; 0 for a finding about the whole.
        total: number of elements examined.
        examples: a few of the elements.
        paste: YAML of config keys.
        check: name of the check, filled in by `run_checks`.
    """

    severity: Severity
    title: str
    advice: str = ""
    count: int = 0
    total: int = 0
    examples: tuple[Example, ...] = ()
    paste: str = ""
    check: str = ""


def shown_file(record: ImageRecord) -> str:
    """The last two parts of the name of an image.

    Args:
        record: of the image.
    """
    return "/".join(Path(record.source.name).parts[-2:])


def object_example(record: ImageRecord, items: Sequence[InstanceRecord], text: str = "") -> Example:
    """An example about objects of an image, named by their annotation ids.

    Args:
        record: of the image.
        items: the objects.
        text: what about them.
    """
    ids = tuple(item.annotation_id for item in items)
    named = f"annotation{'s' if len(ids) > 1 else ''} {' and '.join(map(str, ids))}"
    return Example(
        f"{named}, {text}" if text else named,
        record,
        boxes=tuple(item.box for item in items),
        annotation_ids=ids,
    )


def percent(part: float, whole: float) -> str:
    """A share for texts, e.g. "12 %", "0.4 %".

    Args:
        part: of the whole.
        whole: 0 gives "0 %".
    """
    share = 100 * part / whole if whole else 0.0
    if 0 < share < 1 or 99 < share < 100:
        return f"{share:.2g} %" if share < 1 else f"{share:.1f} %"
    return f"{share:.0f} %"
