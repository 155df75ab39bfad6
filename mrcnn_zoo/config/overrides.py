"""Reads `KEY VALUE` and `KEY=VALUE` pairs, as typed after a command or given in Python."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mrcnn_zoo.config.defaults import KEYS_BY_NAME
from mrcnn_zoo.config.provenance import COMMAND_LINE, Assignment, Origin
from mrcnn_zoo.config.values import WORDS, literal
from mrcnn_zoo.errors import UserError

TYPED = Origin(COMMAND_LINE)
KEY_AND_VALUE = re.compile(r"([A-Za-z_][\w.:-]*)=(.*)", re.DOTALL)
KEY = re.compile(r"[A-Za-z_][\w.:-]*")


def read_overrides(items: Sequence[Any], origin: Origin = TYPED) -> list[Assignment]:
    """The assignments of a list such as `["SOLVER.BASE_LR", "0.01", "MODEL.MASK_ON=True", "SOLVER.STEPS", (10, 20)]`.

    Args:
        items: the list.
        origin: of the values; the command line by default.

    Raises:
        UserError: for a key without a value, or something that is no key where a key is due.
    """
    if isinstance(items, str):
        raise TypeError(f"overrides are a list like ['KEY', 'VALUE', 'KEY=VALUE'], not the string {items!r}")
    assignments: list[Assignment] = []
    rest = iter(items)
    for item in rest:
        key, value = _key_and_value(item, rest)
        assignments += _flattened(tuple(key.split(".")), value, origin)
    return assignments


def typed_list(names: Sequence[str]) -> str:
    """A list of names or paths as the value of a key is typed in a shell, e.g. "a,b" or "'my data'"."""
    needs_brackets = any(not name.strip() or "," in name or name != name.strip() or name[0] in "[({" for name in names)
    needs_brackets = needs_brackets or any(name.lower() in WORDS for name in names)
    return shlex.quote(json.dumps(list(names), ensure_ascii=False) if needs_brackets or not names else ",".join(names))


def _key_and_value(item: Any, rest: Iterator[Any]) -> tuple[str, Any]:
    if isinstance(item, str):
        joined = KEY_AND_VALUE.fullmatch(item)
        if joined:
            return joined[1], _unquoted(_whole_list(joined[2], rest))
        if KEY.fullmatch(item):
            for value in rest:
                _refuse_key_as_value(item, value)
                return item, _unquoted(_whole_list(value, rest))
            raise UserError(f"{COMMAND_LINE}: the key {item} is given without a value; write {item}=VALUE.")
    raise UserError(
        f"{COMMAND_LINE}: {item!r} stands where a KEY or KEY=VALUE is expected. "
        "A value with spaces is written in quotes."
    )


def _refuse_key_as_value(key: str, value: Any) -> None:
    """Where a value is missing, the next key stands in its place."""
    if isinstance(value, str) and value.partition("=")[0] in KEYS_BY_NAME and "." in value.partition("=")[0]:
        raise UserError(f"{COMMAND_LINE}: the key {key} is given without a value before {value}; write {key}=VALUE.")


def _whole_list(value: Any, rest: Iterator[Any]) -> Any:
    """A list that the shell has cut at its spaces, put together again: "[64," and "80]"."""
    while isinstance(value, str) and value[:1] in ("[", "(") and _open_brackets(value) > 0:
        more = next(rest, None)
        if not isinstance(more, str):
            break
        value = f"{value} {more}"
    return value


def _open_brackets(text: str) -> int:
    return sum((character in "[(") - (character in "])") for character in text)


def _flattened(path: tuple[str, ...], value: Any, origin: Origin) -> Iterator[Assignment]:
    mapping = literal(value) if isinstance(value, str) and value.startswith("{") else value
    if isinstance(mapping, Mapping) and mapping:
        for name, below in mapping.items():
            yield from _flattened((*path, str(name)), below, origin)
    else:
        yield Assignment(path, value, origin)


def _unquoted(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("'", '"'):  # quotes inside the shell's quotes
        inner = literal(value)
        return inner if isinstance(inner, str) else value
    return value
