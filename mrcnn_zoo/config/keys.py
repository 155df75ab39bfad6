"""How a config key is declared: its dotted name, its default, what it means, and which numbers it takes."""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """The numbers that a key takes; NaN never is one of them.

    Args:
        low: least number.
        high: largest number.
        low_open: `low` itself is not allowed.
        high_open: `high` itself is not allowed.
        also: further numbers with a meaning of their own, e.g. (-1,) for "all".
        allows_infinity: whether infinity is a value.
    """

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    also: tuple[float, ...] = ()
    allows_infinity: bool = False

    def holds(self, number: float) -> bool:
        """Whether the number lies in the range."""
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
    """How many elements the list of a key has; of a list of lists, each of these.

    Args:
        least: fewest.
        most: most; None for no limit.
    """

    least: int
    most: int | None = None

    def holds(self, count: int) -> bool:
        """Whether a list may have so many elements."""
        return self.least <= count and (self.most is None or count <= self.most)

    def __str__(self) -> str:
        """The length as it follows "must hold", e.g. "2 values" or "at least 1 value"."""
        amount = str(self.least) if self.least == self.most else f"at least {self.least}"
        if self.most is not None and self.least != self.most:
            amount = f"{self.least} to {self.most}"
        return f"{amount} {'value' if amount.endswith(' 1') else 'values'}"


PAIR = Length(2, 2)
NOT_EMPTY = Length(1)


@dataclass(frozen=True)
class Key:
    """One line of the defaults.

    Args:
        name: dotted, e.g. "MODEL.FPN.OUT_CHANNELS".
        default: also fixes the type that a value must have. `{}` declares an open section with names of the user's own.
        meaning: one or two sentences with unit and allowed values, as `mrcnn-zoo config explain` prints them.
        is_built: False for a Detectron2 key whose part does not exist here yet; changing it is refused.
        other_types: further types a value may have, e.g. (str,) for a number that may also be "auto".
        element_types: of the numbers or strings in a list; () takes those of the default's elements.
        choices: the only allowed values, when they are few and no registry knows them; () allows all.
        range: the allowed numbers, of a list those of each element; every key of numbers without `choices` has one.
        length: how many elements a list has, of a list of lists each of these; None allows any number.
        ascends: whether the numbers of a list must not fall.
    """

    name: str
    default: Any
    meaning: str
    is_built: bool = True
    other_types: tuple[type, ...] = ()
    element_types: tuple[type, ...] = ()
    choices: tuple[Any, ...] = ()
    range: Range | None = None
    length: Length | None = None
    ascends: bool = False

    @property
    def is_open(self) -> bool:
        """Whether this is a section in which the user invents the names."""
        return self.default == {}

    @property
    def types(self) -> tuple[type, ...]:
        """Every type that a value may have, the default's first."""
        return (type(self.default), *self.other_types)
