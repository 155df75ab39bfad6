"""GRID of a sweep: the product of values of config keys, as variants with short names."""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mrcnn_zoo.config.defaults import SECTION_NAMES
from mrcnn_zoo.config.keys import Assignment, Origin
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.experiments.variants import Variant
from mrcnn_zoo.registry import did_you_mean

NOT_IN_NAMES = re.compile(r"[^\w.+]+")
MAX_POINTS = 1000

Word = Callable[[str], str]  # shortens the last part of a key


@dataclass(frozen=True)
class _Level:
    """One value of an axis."""

    value: Any  # of the key, or the name of the level
    overrides: tuple[Assignment, ...]


@dataclass(frozen=True)
class _Axis:
    name: str
    levels: tuple[_Level, ...]

    @property
    def leaf(self) -> str:
        return self.name.rpartition(".")[2]


def grid_variants(assignments: Sequence[Assignment], exclude: Sequence[Any], *, origin: Origin) -> list[Variant]:
    """The points of a grid, the last axis changing fastest.

    An axis is a config key with a list of values, or a name with named levels, each a mapping of overrides.

    Args:
        assignments: of GRID and below it.
        exclude: mappings of axes to values; a point that has all values of one is left out.
        origin: of `exclude`.

    Raises:
        UserError: an axis without values, or an exclusion that fits no point.
    """
    axes = _read_axes([assignment for assignment in assignments if len(assignment.path) > 1])
    if not axes:
        return []
    count = 1
    for axis in axes:
        count *= len(axis.levels)
    if count > MAX_POINTS:
        raise UserError(f"{assignments[0].origin}: GRID has {count} points, more than {MAX_POINTS}; leave out values.")
    rules = [_read_exclusion(rule, axes, origin) for rule in exclude]
    points = [
        point
        for point in itertools.product(*(axis.levels for axis in axes))
        if not any(_fits(rule, axes, point) for rule in rules)
    ]
    if not points:
        raise UserError(f"{origin}: EXCLUDE leaves out all points of GRID.")
    names = _names_of(axes, points)
    place = assignments[0].origin
    return [
        Variant(name, overrides=tuple(item for level in point for item in level.overrides), origin=place)
        for name, point in zip(names, points, strict=True)
    ]


def _read_axes(assignments: Sequence[Assignment]) -> list[_Axis]:
    named_axes = {
        item.path[1]
        for item in assignments
        if (len(item.path) > 3 or isinstance(item.value, dict)) and item.path[1] not in SECTION_NAMES
    }
    axes: dict[str, list[_Level]] = {}
    for item in assignments:
        name = item.path[1]
        if name in named_axes:
            _add_to_level(axes.setdefault(name, []), item)
            continue
        key = ".".join(item.path[1:])  # nested sections of a key
        if not isinstance(item.value, list) or not item.value:
            raise UserError(
                f"{item.origin}: GRID.{key} = {item.value!r} must be a list of values; a key whose values are lists "
                "takes a list of lists."
            )
        if any(item.value.count(value) > 1 for value in item.value):
            raise UserError(f"{item.origin}: GRID.{key} = {item.value} has a value twice.")
        axes[key] = [_Level(value, (Assignment((key,), value, item.origin),)) for value in item.value]
    return [_Axis(name, tuple(levels)) for name, levels in axes.items()]


def _add_to_level(levels: list[_Level], item: Assignment) -> None:
    name, level = item.path[1], item.path[2] if len(item.path) > 2 else ""
    if not level or (len(item.path) == 3 and item.value not in (None, {})):
        raise UserError(
            f"{item.origin}: GRID.{name} must be a list of values of a config key, or a mapping of named levels, each "
            "with its overrides."
        )
    own = (Assignment(item.path[3:], item.value, item.origin),) if len(item.path) > 3 else ()
    if levels and levels[-1].value == level:
        levels[-1] = _Level(level, (*levels[-1].overrides, *own))
    else:
        levels.append(_Level(level, own))


def _read_exclusion(rule: Any, axes: Sequence[_Axis], origin: Origin) -> Mapping[str, Any]:
    known = {axis.name: axis for axis in axes}
    if not isinstance(rule, Mapping) or not rule:
        raise UserError(f"{origin}: EXCLUDE takes mappings such as {{{axes[0].name}: value}}, not {rule!r}.")
    for name, value in rule.items():
        if name not in known:
            raise UserError(
                f"{origin}: EXCLUDE names {name!r}, which is not in GRID.{did_you_mean(str(name), known)} GRID has "
                f"{', '.join(known)}."
            )
        values = [level.value for level in known[name].levels]
        if value not in values:
            raise UserError(f"{origin}: EXCLUDE: {name} = {value!r} is not among its values in GRID: {values}.")
    return rule


def _fits(rule: Mapping[str, Any], axes: Sequence[_Axis], point: Sequence[_Level]) -> bool:
    values = {axis.name: level.value for axis, level in zip(axes, point, strict=True)}
    return all(values[name] == value for name, value in rule.items())


def _names_of(axes: Sequence[_Axis], points: Sequence[Sequence[_Level]]) -> list[str]:
    """Short names of points: "ROIAlign-P14"; with longer words where short ones are equal."""
    words = [[_initial, _initials, _whole][min(_needed_length(axis, axes), 2)] for axis in axes]
    names = [_joined(axes, point, words) for point in points]
    if len({name.lower() for name in names}) < len(names):
        names = [_joined(axes, point, [_whole] * len(axes)) for point in points]
    return names


def _needed_length(axis: _Axis, axes: Sequence[_Axis]) -> int:
    """0 where the initial of the key differs from those of all others, 1 where the initials do, else 2."""
    others = [other for other in axes if other is not axis and not _is_of_words(other)]
    for length, word in enumerate((_initial, _initials)):
        if all(word(other.leaf) != word(axis.leaf) for other in others):
            return length
    return 2


def _is_of_words(axis: _Axis) -> bool:
    return all(isinstance(level.value, str) for level in axis.levels)


def _initial(leaf: str) -> str:
    return leaf[:1]


def _initials(leaf: str) -> str:
    return "".join(part[:1] for part in leaf.split("_"))


def _whole(leaf: str) -> str:
    return f"{leaf}_"


def _joined(axes: Sequence[_Axis], point: Sequence[_Level], words: Sequence[Word]) -> str:
    return "-".join(_part(axis, level, word) for axis, level, word in zip(axes, point, words, strict=True))


def _part(axis: _Axis, level: _Level, word: Word) -> str:
    value = level.value
    if isinstance(value, str) and value:
        return _clean(value)
    if isinstance(value, bool) or value in (None, "", []):
        return _clean(f"{axis.leaf}_{value}")
    return _clean(f"{word(axis.leaf)}{_number_text(value)}")


def _number_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "x".join(map(_number_text, value)) if isinstance(value, list) else str(value)


def _clean(text: str) -> str:
    return NOT_IN_NAMES.sub("_", text.replace("-", "_")).strip("_")
