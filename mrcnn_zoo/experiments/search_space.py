"""SPACE of a search: the config keys that are varied, with their ranges or choices, checked before anything runs."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mrcnn_zoo.config.defaults import KEYS_BY_NAME
from mrcnn_zoo.config.files import read_text_file
from mrcnn_zoo.config.keys import Assignment, Key, Origin, is_number, typed_path
from mrcnn_zoo.config.node import locate
from mrcnn_zoo.config.safe_yaml import read_yaml
from mrcnn_zoo.config.values import coerce
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.experiments.sweep_file import RUN_KEYS
from mrcnn_zoo.registry import did_you_mean

SPACE = "SPACE"
LOW, HIGH, STEP, LOG = "LOW", "HIGH", "STEP", "LOG"
RANGE_FIELDS = (LOW, HIGH, STEP, LOG)
EXAMPLE = "{LOW: 1e-4, HIGH: 1e-2, LOG: true} or a list of values"

Number = float | int


class DrawsValues(Protocol):
    """The part of an Optuna trial that draws values."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...


@dataclass(frozen=True)
class Choices:
    """A key with a list of values.

    Args:
        name: of the key.
        values: that are tried; by their text where they are lists.
    """

    name: str
    values: tuple[Any, ...]

    def suggest(self, trial: DrawsValues) -> Any:
        """Draw a value.

        Args:
            trial: of Optuna.
        """
        by_label = {_label(value): value for value in self.values}
        return by_label[trial.suggest_categorical(self.name, list(by_label))]

    def mapping(self) -> Any:
        """As in the file."""
        return list(self.values)


@dataclass(frozen=True)
class Interval:
    """A key with a range of numbers, both ends included.

    Args:
        name: of the key.
        low: least number.
        high: largest number.
        step: between numbers; 0 for all.
        log: whether factors are equally likely instead of differences.
        is_integer: whether the key takes whole numbers.
    """

    name: str
    low: Number
    high: Number
    step: Number = 0
    log: bool = False
    is_integer: bool = False

    def suggest(self, trial: DrawsValues) -> Number:
        """Draw a number.

        Args:
            trial: of Optuna.
        """
        if self.is_integer:
            return trial.suggest_int(self.name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, step=self.step or None, log=self.log)

    def mapping(self) -> Any:
        """As in the file."""
        fields = {LOW: self.low, HIGH: self.high, STEP: self.step, LOG: self.log}
        return {name: value for name, value in fields.items() if value or name in (LOW, HIGH)}


Dimension = Choices | Interval


def read_space(file: Path) -> tuple[Dimension, ...]:
    """The dimensions of a sweep's file, in its order; empty without SPACE.

    Args:
        file: of the sweep.

    Raises:
        UserError: naming the line: no such key, a value that does not fit it, a range or a list that is none.
    """
    given: dict[str, list[Assignment]] = {}
    for assignment in read_yaml(read_text_file(file), typed_path(file)):
        names = ".".join(assignment.path[1:]).split(".")
        if assignment.path[0] != SPACE or names == [""]:
            continue
        parent, field = ".".join(names[:-1]), names[-1]
        is_field = field in RANGE_FIELDS or (parent in KEYS_BY_NAME and not KEYS_BY_NAME[parent].is_open)
        name = parent if is_field else ".".join(names)
        own = Assignment((field,) if is_field else (), assignment.value, assignment.origin)
        given.setdefault(name, []).append(own)
    return tuple(_dimension(name, own) for name, own in given.items())


def _dimension(name: str, given: Sequence[Assignment]) -> Dimension:
    origin = given[0].origin
    key, below = locate(Assignment((name,), None, origin))
    if key.name in RUN_KEYS:
        raise UserError(f"{origin}: {SPACE} has {name}, but {RUN_KEYS[key.name]}.")

    def fitting(value: Any, where: str) -> Any:
        return _fitting(Assignment((name,), value, _place(where, origin)), key) if not below else value

    fields = {assignment.name: assignment for assignment in given}
    if "" in fields:
        return _choices(name, fields[""].value, origin, fitting)
    for field, assignment in fields.items():
        if field not in RANGE_FIELDS:
            near = did_you_mean(field, RANGE_FIELDS)
            raise UserError(f"{assignment.origin}: {SPACE}: {name} has no field {field!r}.{near} Write {EXAMPLE}.")
    return _interval(name, {field: item.value for field, item in fields.items()}, origin, fitting)


def _place(field: str, origin: Origin) -> Origin:
    return Origin(f"{origin}: {SPACE}{f', {field}' if field else ''}")


def _fitting(assignment: Assignment, key: Key) -> Any:
    value = coerce(assignment, key)
    problem = key.problem_of(value)
    if not problem and key.registry is not None and isinstance(value, str) and ":" not in value:
        names = key.registry.names()
        problem = "" if value in names else f"is no name of {key.registry.name}.{did_you_mean(value, names)}"
    if problem:
        raise UserError(f"{assignment.origin}: {key.name} = {value!r} {problem}")
    return value


def _choices(name: str, values: Any, origin: Origin, fitting: Callable[[Any, str], Any]) -> Choices:
    if not isinstance(values, list) or not values:
        raise UserError(f"{origin}: {SPACE}: {name} = {values!r} must be {EXAMPLE}.")
    found = [fitting(value, "") for value in values]
    labels = [_label(value) for value in found]
    if len(set(map(repr, labels))) < len(labels):
        raise UserError(f"{origin}: {SPACE}: {name} = {values} has a value twice.")
    return Choices(name, tuple(found))


def _interval(name: str, fields: Mapping[str, Any], origin: Origin, fitting: Callable[[Any, str], Any]) -> Interval:
    place = f"{origin}: {SPACE}: {name}"
    for field in (LOW, HIGH):
        if field not in fields:
            raise UserError(f"{place} has no {field}. Write {EXAMPLE}.")
    low, high = fitting(fields[LOW], LOW), fitting(fields[HIGH], HIGH)
    if not is_number(low) or not is_number(high):
        raise UserError(f"{place} takes no numbers, so it has no {LOW} and {HIGH}; list its values.")
    if low >= high:
        raise UserError(f"{place}: {LOW} = {low} must be below {HIGH} = {high}.")
    is_integer = isinstance(low, int) and isinstance(high, int)
    step, log = fields.get(STEP, 0), fields.get(LOG, False)
    if not isinstance(log, bool):
        raise UserError(f"{place}: {LOG} = {log!r} must be true or false.")
    if STEP in fields and (not is_number(step) or step <= 0 or (is_integer and not isinstance(step, int))):
        raise UserError(f"{place}: {STEP} = {step!r} must be a {'whole ' if is_integer else ''}number above 0.")
    if log and (step or low <= 0):
        raise UserError(f"{place}: with {LOG} there is no {STEP}, and {LOW} = {low} must be above 0.")
    if step:  # the last step at or below HIGH
        high = low + math.floor((high - low) / step + 1e-9) * step
    return Interval(name, low, high, step=step, log=log, is_integer=is_integer)


def _label(value: Any) -> Any:
    """A value as Optuna stores it: lists by their text."""
    return value if value is None or isinstance(value, str | bool | int | float) else json.dumps(value)
