"""What each number in data files and dataset definitions may be, in one table, and how a column of them is read.

Converters write 0, -1, "" or null where they know nothing, and numbers as text. Where such a value can only mean one
thing it is repaired and counted in the notes of the dataset; every other value that breaks its rule is refused with
the file, the element, the field and the value.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mrcnn_zoo.data.records import RepairLog
from mrcnn_zoo.errors import UserError

MAX_ID = 2**63 - 1
MAX_SIDE = 2**31 - 1  # pixels
MAX_PIXELS = 2**32 - 1  # of an image; COCO's run lengths have 32 bits
TRUTH_WORDS = {"true": 1, "false": 0}
NOT_GIVEN = (None, "")


@dataclass(frozen=True, kw_only=True)
class NumberRule:
    """Type and range of the numbers of one field.

    Args:
        least: the smallest value allowed.
        most: the largest one.
        above: values must be larger than this.
        is_whole: fractions are not allowed.
        is_truth: true and false stand for 1 and 0.
        absent: values that mean "not given".
        words: what a value must be, for messages.
    """

    words: str
    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    is_whole: bool = False
    is_truth: bool = False
    absent: tuple[Any, ...] = NOT_GIVEN

    def accepts(self, value: Any) -> bool:
        """Whether a value is a finite number of the right type within the range; text never is."""
        if isinstance(value, bool) and not self.is_truth:
            return False
        if not isinstance(value, int | float) or not (self.least <= value <= self.most and value > self.above):
            return False
        return isinstance(value, int) or (math.isfinite(value) and (not self.is_whole or value.is_integer()))

    def is_absent(self, value: Any) -> bool:
        """Whether a value is a placeholder."""
        return not isinstance(value, list | dict | bool) and value in self.absent


SIDE = NumberRule(
    words="a whole number of pixels above 0", least=1, most=MAX_SIDE, is_whole=True, absent=(*NOT_GIVEN, 0, -1)
)
IDENTIFIER = NumberRule(words="a whole number of at most 64 bits", least=-MAX_ID, most=MAX_ID, is_whole=True)
COORDINATE = NumberRule(words="a finite number of pixels")

# By section and field: of COCO files, files of proposals, and definitions of datasets.
FIELD_RULES: dict[str, NumberRule] = {
    "images.id": IDENTIFIER,
    "images.height": SIDE,
    "images.width": SIDE,
    "categories.id": IDENTIFIER,
    "annotations.id": IDENTIFIER,
    "annotations.image_id": IDENTIFIER,
    "annotations.category_id": IDENTIFIER,
    "annotations.iscrowd": NumberRule(
        words="0 or 1", least=0, most=1, is_whole=True, is_truth=True, absent=(*NOT_GIVEN, -1)
    ),
    "annotations.area": NumberRule(words="a number of square pixels above 0", above=0, most=MAX_PIXELS),
    "annotations.bbox": COORDINATE,
    "annotations.keypoints": COORDINATE,
    "annotations.keypoints.visibility": NumberRule(
        words="0 (not labelled), 1 (hidden) or 2 (visible)",
        least=0,
        most=2,
        is_whole=True,
        is_truth=True,
        absent=(*NOT_GIVEN, -1),
    ),
    "proposals.counts": NumberRule(words="a whole number >= 0", least=0, is_whole=True),
    "SEED": NumberRule(words="a whole number >= 0", least=0, most=MAX_ID, is_whole=True),
    "VAL_FRACTION": NumberRule(words="a number between 0 and 1", above=0, most=math.nextafter(1, 0)),
    "NUM_IMAGES": NumberRule(words="a whole number >= 0", least=0, most=MAX_SIDE, is_whole=True),
}


def number_in(value: Any) -> Any:
    """The number that a text holds, or else the value itself.

    >>> number_in("12.5"), number_in(" 7 "), number_in("7 px")
    (12.5, 7, '7 px')
    """
    if not isinstance(value, str) or "_" in value:
        return value
    text = value.strip()
    if text.lower() in TRUTH_WORDS:
        return bool(TRUTH_WORDS[text.lower()])
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return value


class ColumnReader:
    """Reads one field of all elements of a section by its rule.

    Args:
        source: the file, for messages.
        section: of the elements, e.g. "annotations".
        labels: the id, or what else names each element in messages.
        repairs: where what was repaired is counted.
    """

    def __init__(self, source: str, section: str, labels: Sequence[object], *, repairs: RepairLog) -> None:
        self.source = source
        self.section = section
        self.labels = labels
        self.repairs = repairs

    @property
    def element(self) -> str:
        """The word for one element."""
        return {"categories": "category"}.get(self.section, self.section.removesuffix("s"))

    def read(self, field: str, raw: Sequence[Any], *, absent_note: str = "") -> list[Any]:
        """The numbers of a column; None where the value means "not given".

        Args:
            field: whose rule holds.
            raw: one value per element.
            absent_note: what was done about placeholders, e.g. "taken as 0"; they are not counted without it.

        Raises:
            UserError: a value that breaks the rule.
        """
        rule = FIELD_RULES[f"{self.section}.{field}"]
        if _all_accepted(raw, rule):
            return list(raw)
        read: list[Any] = []
        for label, value in zip(self.labels, raw, strict=True):
            number = number_in(value)
            if rule.is_absent(number):
                number = None
                if absent_note:
                    self.note(f"{field} values that are placeholders {absent_note}", label, value)
            elif not rule.accepts(number):
                raise self.refusal(label, field, value, rule.words)
            else:
                number = int(number) if rule.is_whole else number
                if isinstance(value, str):
                    self.note(f"{field} values written as text taken as numbers", label, value)
            read.append(number)
        return read

    def note(self, kind: str, label: object, value: Any) -> None:
        """Count a repair, with the value of the first."""
        self.repairs.add(kind, [f"{label}: {shown(value)}"], name=self.element)

    def refusal(self, label: object, field: str, value: Any, words: str) -> UserError:
        """The error for a value that breaks its rule."""
        return UserError(
            f"{self.source}: {self.element} {label} has {field} {shown(value)}, which must be {words}. Correct it, or "
            f"remove the {self.element}."
        )


def shown(value: Any) -> str:
    """A value as messages show it: on one line, and not longer than one."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:70]}... ({len(text)} characters)"


def _all_accepted(raw: Sequence[Any], rule: NumberRule) -> bool:
    """The same as asking the rule for each, for columns of numbers of which all are in order."""
    types = set(map(type, raw))
    if types <= {int}:
        return not raw or (rule.least <= min(raw) and max(raw) <= rule.most and min(raw) > rule.above)
    if not types <= {int, float} or rule.is_whole:
        return False
    try:
        table = np.array(raw, dtype=np.float64)
    except OverflowError:
        return False
    return bool(((table >= rule.least) & (table <= rule.most) & (table > rule.above) & np.isfinite(table)).all())
