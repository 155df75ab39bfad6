"""Types and ranges of the numbers in data files and dataset definitions, in one table, and the reader of a column.

Converters write 0, -1, "" or null for unknown values, and numbers as text. Unambiguous values are repaired and counted
in the notes of the dataset; any other value that breaks its rule is an error with the file, element, field and value.
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
MAX_PIXELS = 2**32 - 1  # per image; COCO's run lengths have 32 bits
BOOLEANS = {"true": True, "false": False}
NOT_GIVEN = (None, "")


@dataclass(frozen=True, kw_only=True)
class NumberRule:
    """Type and range of the numbers of one field.

    Args:
        words: the rule for messages, as in "must be <words>".
        least: the smallest allowed value.
        most: the largest allowed value.
        above: an exclusive lower bound.
        is_whole: whether fractions are refused.
        allows_bool: whether true and false are 1 and 0.
        absent: values that mean "not given".
    """

    words: str
    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    is_whole: bool = False
    allows_bool: bool = False
    absent: tuple[Any, ...] = NOT_GIVEN

    def accepts(self, value: Any) -> bool:
        """Whether a value is a finite number of the right type within the range; text is not."""
        if isinstance(value, bool) and not self.allows_bool:
            return False
        if not isinstance(value, int | float) or not (self.least <= value <= self.most and value > self.above):
            return False
        return isinstance(value, int) or (math.isfinite(value) and (not self.is_whole or value.is_integer()))

    def accepts_all(self, values: Sequence[Any]) -> bool:
        """Whether a column consists of accepted int and float values; False if that needs a check of each value."""
        types = set(map(type, values))
        if types <= {int}:
            return not values or (self.least <= min(values) and max(values) <= self.most and min(values) > self.above)
        if not types <= {int, float} or self.is_whole:
            return False
        try:
            table = np.array(values, dtype=np.float64)
        except OverflowError:
            return False
        return bool(((table >= self.least) & (table <= self.most) & (table > self.above) & np.isfinite(table)).all())

    def is_absent(self, value: Any) -> bool:
        """Whether a value is a placeholder for "not given"."""
        return not isinstance(value, list | dict | bool) and value in self.absent


SIDE = NumberRule(
    words="a whole number of pixels above 0", least=1, most=MAX_SIDE, is_whole=True, absent=(*NOT_GIVEN, 0, -1)
)
IDENTIFIER = NumberRule(words="a whole number of at most 64 bits", least=-MAX_ID, most=MAX_ID, is_whole=True)
COORDINATE = NumberRule(words="a finite number of pixels")

# By section and field: of COCO files, proposal files and dataset definitions.
FIELD_RULES: dict[str, NumberRule] = {
    "images.id": IDENTIFIER,
    "images.height": SIDE,
    "images.width": SIDE,
    "categories.id": IDENTIFIER,
    "annotations.id": IDENTIFIER,
    "annotations.image_id": IDENTIFIER,
    "annotations.category_id": IDENTIFIER,
    "annotations.iscrowd": NumberRule(
        words="0 or 1", least=0, most=1, is_whole=True, allows_bool=True, absent=(*NOT_GIVEN, -1)
    ),
    "annotations.area": NumberRule(words="a number of square pixels above 0", above=0, most=MAX_PIXELS),
    "annotations.bbox": COORDINATE,
    "annotations.keypoints": COORDINATE,
    "annotations.keypoints.visibility": NumberRule(
        words="0 (not labelled), 1 (hidden) or 2 (visible)",
        least=0,
        most=2,
        is_whole=True,
        allows_bool=True,
        absent=(*NOT_GIVEN, -1),
    ),
    "proposals.counts": NumberRule(words="a whole number >= 0", least=0, is_whole=True),
    "SEED": NumberRule(words="a whole number >= 0", least=0, most=MAX_ID, is_whole=True),
    "VAL_FRACTION": NumberRule(words="a number of at least 0 and below 1", least=0, most=math.nextafter(1, 0)),
    "NUM_IMAGES": NumberRule(words="a whole number >= 0", least=0, most=MAX_SIDE, is_whole=True),
    "SIZE": NumberRule(words="a whole number of pixels from 8 to 4096", least=8, most=4096, is_whole=True),
    "CONTEXT": NumberRule(words="a number between 0 and 10", least=0, most=10),
    "MIN_SIZE": NumberRule(words="a whole number of pixels >= 0", least=0, most=MAX_SIDE, is_whole=True),
    "MAX_PER_CLASS": NumberRule(words="a whole number >= 0", least=0, most=MAX_SIDE, is_whole=True),
    "NUM_BACKGROUND": NumberRule(words="a whole number >= -1", least=-1, most=MAX_SIDE, is_whole=True),
    "MAX_OVERLAP": NumberRule(words="a number between 0 and 1", least=0, most=1),
}


class ColumnReader:
    """Reads one field of all elements of a section by its rule.

    Args:
        source: the file, for messages.
        section: of the elements, e.g. "annotations".
        labels: the id of each element, or another name for messages.
        repairs: counts repairs.
    """

    def __init__(self, source: str, section: str, labels: Sequence[Any], *, repairs: RepairLog) -> None:
        self.source = source
        self.section = section
        self.labels = labels
        self.repairs = repairs

    @property
    def element(self) -> str:
        """The word for one element, e.g. "annotation"."""
        return {"categories": "category"}.get(self.section, self.section.removesuffix("s"))

    def read(self, field: str, raw: Sequence[Any], *, absent_note: str = "") -> list[Any]:
        """The numbers of a column; None for values that mean "not given".

        Args:
            field: selects the rule.
            raw: one value per element.
            absent_note: the repair of placeholders, e.g. "taken as 0"; "" does not count them.

        Raises:
            UserError: a value that breaks the rule.
        """
        rule = FIELD_RULES[f"{self.section}.{field}"]
        if rule.accepts_all(raw):
            return list(raw)
        numbers: list[Any] = []
        for label, value in zip(self.labels, raw, strict=True):
            number = parse_number(value)
            if rule.is_absent(number):
                number = None
                if absent_note:
                    self.note(f"{field} values that are placeholders {absent_note}", label, value)
            elif not rule.accepts(number):
                raise self.error(label, field, value, rule.words)
            else:
                number = int(number) if rule.is_whole else number
                if isinstance(value, str):
                    self.note(f"{field} values written as text taken as numbers", label, value)
            numbers.append(number)
        return numbers

    def note(self, kind: str, label: object, value: Any) -> None:
        """Count a repair; the first value of each kind is kept for the log.

        Args:
            kind: see `RepairLog.add`.
            label: of the element.
            value: as in the file.
        """
        self.repairs.add(kind, [f"{label}: {short_repr(value)}"], name=self.element)

    def error(self, label: object, field: str, value: Any, words: str) -> UserError:
        """The error for a value that breaks its rule.

        Args:
            label: of the element.
            field: its name for the message.
            value: as in the file.
            words: of the rule.
        """
        return UserError(
            f"{self.source}: {self.element} {label} has {field} {short_repr(value)}, which must be {words}. Correct "
            f"it, or remove the {self.element}."
        )


def parse_number(value: Any) -> Any:
    """The number or boolean in a text; other values unchanged.

    >>> parse_number("12.5"), parse_number(" 7 "), parse_number("7 px")
    (12.5, 7, '7 px')
    """
    if not isinstance(value, str) or "_" in value:
        return value
    text = value.strip()
    if text.lower() in BOOLEANS:
        return BOOLEANS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return value


def short_repr(value: Any) -> str:
    """The repr of a value for a message, shortened to one line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:70]}... ({len(text)} characters)"
