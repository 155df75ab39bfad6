"""Config keys: name, default, meaning and allowed values; origins of values."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrcnn_zoo.registry import Registry, did_you_mean

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Range:
    """The numbers that a key allows; never NaN.

    Args:
        low: least number.
        high: largest number.
        low_open: `low` itself is not allowed.
        high_open: `high` itself is not allowed.
        also: further numbers with a special meaning, e.g. (-1,) for "all".
        allows_infinity: whether infinity is a value.
    """

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    also: tuple[float, ...] = ()
    allows_infinity: bool = False

    def contains(self, number: float) -> bool:
        """Whether the range contains a number.

        Args:
            number: finite or not.
        """
        if number in self.also:
            return True
        if math.isinf(number) and not self.allows_infinity:
            return False
        is_above = number > self.low if self.low_open else number >= self.low
        is_below = number < self.high if self.high_open else number <= self.high
        return is_above and is_below

    def __str__(self) -> str:
        """The range as it follows "must be", e.g. "at least 1", "above 0", "in [0, 1)" or "-1 or at least 1"."""
        if math.isfinite(self.low) and math.isfinite(self.high):
            words = f"in {'(' if self.low_open else '['}{self.low:g}, {self.high:g}{')' if self.high_open else ']'}"
        elif math.isfinite(self.low):
            words = f"{'above' if self.low_open else 'at least'} {self.low:g}"
        else:
            words = "infinite or any number" if self.allows_infinity else "any finite number"
        special = [f"{number:g}" for number in self.also]
        return " or ".join([*special, f"{words}, also infinity" if self.allows_infinity else words])


UNLIMITED = Range()
NOT_NEGATIVE = Range(low=0)
POSITIVE = Range(low=0, low_open=True)
AT_LEAST_ONE = Range(low=1)
MINUS_ONE_OR_MORE = Range(low=-1)
SHARE = Range(low=0, high=1)
SHARE_BELOW_ONE = Range(low=0, high=1, high_open=True)
SHARE_ABOVE_ZERO = Range(low=0, high=1, low_open=True)


@dataclass(frozen=True)
class Length:
    """Number of elements in the list of a key; of a list of lists, in each of these.

    Args:
        least: fewest.
        most: most; None for no limit.
    """

    least: int
    most: int | None = None

    def contains(self, count: int) -> bool:
        """Whether a list may have that many elements.

        Args:
            count: of elements.
        """
        return self.least <= count and (self.most is None or count <= self.most)

    def __str__(self) -> str:
        """The length as it follows "must hold", e.g. "2 values" or "at least 1 value"."""
        amount = str(self.least) if self.least == self.most else f"at least {self.least}"
        if self.most is not None and self.least != self.most:
            amount = f"{self.least} to {self.most}"
        return f"{amount} {'value' if amount.endswith(' 1') else 'values'}"


PAIR = Length(2, 2)
FOUR = Length(4, 4)
NOT_EMPTY = Length(1)


@dataclass(frozen=True)
class Unsupported:
    """Marks a Detectron2 key of an unsupported part: a value other than the default is refused.

    Detectron2's full config.yaml files set every key, also those of parts that are not in use. A file may set a key
    of a part that is not selected; the command line may not.

    Args:
        selector: the key that selects the part; empty for a key that always matters.
        values: of the selector that select the part.
    """

    selector: str = ""
    values: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.selector} is {' or '.join(self.values)}" if self.selector else ""


@dataclass(frozen=True)
class Key:
    """One config key, with every rule that concerns it alone.

    Args:
        name: dotted, e.g. "MODEL.FPN.OUT_CHANNELS".
        default: also fixes the type that a value must have. `{}` declares an open section of custom names.
        meaning: one or two sentences with unit and allowed values, as `mrcnn-zoo config explain` prints them.
        other_types: additional types of a value, e.g. (str,) for a number that may also be "auto".
        words: the only allowed strings of a number that may also be one.
        element_types: of the numbers or strings in a list; () takes those of the default's elements.
        choices: the only allowed values, where no registry has them; () allows all.
        range: the allowed numbers, of a list those of each element; every key of numbers without `choices` has one.
        length: number of elements of a list, of a list of lists of each of these; None allows any number.
        ascends: whether the numbers of a list must not fall.
        registry: its names, or `module:function`, are the values.
        counts_classes_of: values of MODEL.META_ARCHITECTURE that take their number of classes from this key.
        old_names: names of the key in version 1 of Detectron2's config (2019), read as this one.
        unsupported: set for a Detectron2 key of an unsupported part.
    """

    name: str
    default: Any
    meaning: str
    other_types: tuple[type, ...] = ()
    words: tuple[str, ...] = ()
    element_types: tuple[type, ...] = ()
    choices: tuple[Any, ...] = ()
    range: Range | None = None
    length: Length | None = None
    ascends: bool = False
    registry: Registry | None = None
    counts_classes_of: tuple[str, ...] = ()
    old_names: tuple[str, ...] = ()
    unsupported: Unsupported | None = None

    @property
    def is_open(self) -> bool:
        """Whether this is a section of custom names."""
        return self.default == {}

    @property
    def types(self) -> tuple[type, ...]:
        """Every type that a value may have, the default's first."""
        return (type(self.default), *self.other_types)

    def problem_of(self, value: Any) -> str:
        """Why a value is not allowed, as words after "KEY = VALUE"; empty for an allowed value.

        Args:
            value: of the key's type.
        """
        if self.choices and value not in self.choices:
            near = did_you_mean(value, map(str, self.choices)) if isinstance(value, str) else ""
            return f"is not one of {', '.join(map(repr, self.choices))}.{near}"
        if self.words and isinstance(value, str) and value not in self.words:
            return f"must be {self.range} or {', '.join(self.words)}."
        if isinstance(value, (list, tuple)):
            return self._problem_of_list(list(value))
        if self.range is not None and is_number(value) and not self.range.contains(value):
            return f"must be {self._finite([value])}{self.range}."
        return ""

    def _problem_of_list(self, values: list[Any]) -> str:
        rows = [row for row in values if isinstance(row, (list, tuple))] or [values]
        if len(rows) != len(values) and rows[0] is not values:
            return "must contain either numbers or lists of numbers."
        numbers = [number for row in rows for number in row if is_number(number)]
        where = " in each of its lists" if isinstance(self.default, list) and rows[0] is not values else ""
        if self.length is not None and not all(self.length.contains(len(row)) for row in rows):
            return f"must hold {self.length}{where}{f', each {self.range}' if self.range is not None else ''}."
        if self.range is not None and not all(map(self.range.contains, numbers)):
            count = f" {self.length}," if self.length is not None and self.length.most is not None else " numbers,"
            return f"must hold{count} each {self._finite(numbers)}{self.range}{where}."
        return "must ascend." if self.ascends and any(list(row) != sorted(row) for row in rows) else ""

    def _finite(self, numbers: list[float]) -> str:
        """Prefix of the range for NaN and infinity, which may lie within its bounds."""
        is_stated = self.range is None or self.range.allows_infinity or self.range == UNLIMITED
        return "" if is_stated or all(map(math.isfinite, numbers)) else "finite, and "


def is_number(value: Any) -> bool:
    """Whether a value is an integer or a float, not a boolean.

    Args:
        value: of any type.
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True)
class Origin:
    """Where a value was set.

    Args:
        source: a file as the user would type it, or "command line".
        line: counted from 1; None where there are no lines.
        is_foreign: whether the source is a checkpoint or another downloaded file, not one that the user wrote or named.
    """

    source: str
    line: int | None = None
    is_foreign: bool = False

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


DEFAULT = Origin("default")


@dataclass(frozen=True)
class Assignment:
    """A value assigned to a key, both unchecked.

    Args:
        path: the names from the root to the key; a name may itself be dotted.
        value: as read, of any plain type.
        origin: where it was read.
    """

    path: tuple[str, ...]
    value: Any
    origin: Origin

    @property
    def name(self) -> str:
        """The dotted name."""
        return ".".join(self.path)


def typed_path(path: Path) -> str:
    """A path as a user in the current folder would type it: relative where that is shorter."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError, RuntimeError):  # outside the current folder, or not resolvable
        return str(path)
