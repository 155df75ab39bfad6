"""Values as they are typed: `KEY VALUE` and `KEY=VALUE` items, literals, and their conversion to the type of a key."""

import json
import re
import shlex
from ast import literal_eval
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mrcnn_zoo.config.defaults import KEYS_BY_NAME
from mrcnn_zoo.config.keys import COMMAND_LINE, Assignment, Key, Origin
from mrcnn_zoo.config.safe_yaml import read_yaml_value
from mrcnn_zoo.errors import UserError

TYPED = Origin(COMMAND_LINE)
KEY_AND_VALUE = re.compile(r"([A-Za-z_][\w.:-]*)=(.*)", re.DOTALL)
KEY = re.compile(r"[A-Za-z_][\w.:-]*")
WORDS = {"true": True, "false": False, "none": None, "null": None}  # as in YAML and shells
MAX_LITERAL = 10_000  # characters
BETWEEN_ELEMENTS = re.compile(r"(?<=[\w.\])])\s+(?=[\[(\w.+-])")  # "64 80", "[[32] [64 128]]"
TYPE_NAMES = {  # one, several
    str: ("string", "strings"),
    int: ("integer", "integers"),
    float: ("number", "numbers"),
    bool: ("true or false", "true or false"),
    type(None): ("None", "None"),
    list: ("list", "lists"),
    dict: ("mapping", "mappings"),
}

_INVALID = object()


def read_overrides(items: Sequence[Any], origin: Origin = TYPED) -> list[Assignment]:
    """The assignments of a list such as `["SOLVER.BASE_LR", "0.01", "MODEL.MASK_ON=True", "SOLVER.STEPS", (10, 20)]`.

    Args:
        items: the list.
        origin: of the values; the command line by default.

    Raises:
        UserError: a key without a value, or something else in the place of a key.
    """
    if isinstance(items, str):
        raise TypeError(f"overrides are a list like ['KEY', 'VALUE', 'KEY=VALUE'], not the string {items!r}")
    assignments: list[Assignment] = []
    rest = iter(items)
    for item in rest:
        key, value = _key_and_value(item, rest)
        assignments += flattened(tuple(key.split(".")), value, origin)
    return assignments


def typed_list(names: Sequence[str]) -> str:
    """A list of names or paths in the form to type in a shell, e.g. "a,b" or "'my data'".

    Args:
        names: possibly with spaces or commas.
    """
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
        f"{COMMAND_LINE}: {item!r} is given where a KEY or KEY=VALUE is expected. Quote values that contain spaces."
    )


def _refuse_key_as_value(key: str, value: Any) -> None:
    """Refuse a key in the place of a value, which means that the value is missing."""
    if isinstance(value, str) and value.partition("=")[0] in KEYS_BY_NAME and "." in value.partition("=")[0]:
        raise UserError(f"{COMMAND_LINE}: the key {key} is given without a value before {value}; write {key}=VALUE.")


def _whole_list(value: Any, rest: Iterator[Any]) -> Any:
    """Join a list that the shell split at its spaces: "[64," and "80]"."""
    while isinstance(value, str) and value[:1] in ("[", "(") and _open_brackets(value) > 0:
        more = next(rest, None)
        if not isinstance(more, str):
            break
        value = f"{value} {more}"
    return value


def _open_brackets(text: str) -> int:
    return sum((character in "[(") - (character in "])") for character in text)


def flattened(path: tuple[str, ...], value: Any, origin: Origin) -> Iterator[Assignment]:
    """The assignments of a value that may be a mapping of keys to values, also as text.

    Args:
        path: the names from the root to the value.
        value: of any plain type.
        origin: of the value.
    """
    mapping = literal(value) if isinstance(value, str) and value.startswith("{") else value
    if isinstance(mapping, Mapping) and mapping:
        for name, below in mapping.items():
            yield from flattened((*path, str(name)), below, origin)
    else:
        yield Assignment(path, value, origin)


def _unquoted(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("'", '"'):  # quotes inside the shell's quotes
        inner = literal(value)
        return inner if isinstance(inner, str) else value
    return value


def coerce(assignment: Assignment, key: Key) -> Any:
    """Convert the value of an assignment to the type of the key: "1e-3" to a number, "(1, 2)" to a list, 1 to 1.0.

    Args:
        assignment: of any value.
        key: that it sets.

    Raises:
        UserError: a value of another type, or none of the key's choices; with key, value and origin.
    """
    for reading in _readings(assignment.value, key):
        value = _converted(reading, key.types, key)
        if value is _INVALID:
            continue
        if key.choices and key.problem_of(value):
            raise UserError(f"{assignment.origin}: {key.name} = {value!r} {key.problem_of(value)}")
        return value
    invalid = f"{key.name} takes {_with_article(type_words(key))}, not {assignment.value!r}"
    raise UserError(f"{assignment.origin}: {invalid}.{_hint(assignment.value, key)}")


def literal(text: str) -> Any:
    """Parse a text as a Python literal, true, false, null, a YAML list or mapping; other texts are returned as is.

    Args:
        text: as typed.
    """
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    if len(text) > MAX_LITERAL:
        return text
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return _flow_literal(text) if text[:1] in ("[", "{") else text


def _flow_literal(text: str) -> Any:
    # A shell removes the quotes: `DATASETS.TRAIN=["a", "b"]` arrives as `[a, b]`.
    try:
        return read_yaml_value(text)
    except UserError:
        return text


def type_words(key: Key) -> str:
    """The types of a key's values in words, e.g. "list of integers".

    Args:
        key: its types.
    """
    if key.is_open:
        return "section of custom names"
    words = [TYPE_NAMES[wanted][0] for wanted in key.types if wanted is not str or not key.words]
    words += [repr(word) for word in key.words]
    if isinstance(key.default, list) and element_types(key):
        is_nested = bool(key.default) and isinstance(key.default[0], list)
        elements = " or ".join(TYPE_NAMES[wanted][1] for wanted in element_types(key))
        words[0] = f"list of {'lists of ' if is_nested else ''}{elements}"
    return " or ".join(words)


def _readings(value: Any, key: Key) -> list[Any]:
    """Possible readings of a value, the most literal first; lists may be typed without brackets, quotes or commas."""
    readings = [value]
    if isinstance(value, str) and key.types != (str,):
        readings = [literal(value), value]
    if isinstance(key.default, list):
        readings += _list_readings(value, key)
    return readings


def _list_readings(value: Any, key: Key) -> list[Any]:
    types = element_types(key)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return [] if str in types else [[value]]
    if not isinstance(value, str) or value.strip().lower() in WORDS or len(value) > MAX_LITERAL:
        return []
    if str in types:
        is_bracketed = value.strip()[:1] in ("[", "(", "{")
        return [] if is_bracketed else [[part.strip() for part in value.split(",") if part.strip()]]
    if not value.strip() or not types:
        return []
    commas = BETWEEN_ELEMENTS.sub(", ", value.strip())
    return [literal(commas if commas[:1] in ("[", "(") and "," not in _after_list(commas) else f"[{commas}]")]


def _after_list(text: str) -> str:
    """What follows the first bracketed list of a text: ", [64]" of "[32], [64]"."""
    depth = 0
    for end, character in enumerate(text, start=1):
        depth += (character in "[(") - (character in "])")
        if depth == 0:
            return text[end:]
    return ""


def _converted(value: Any, types: tuple[type, ...], key: Key) -> Any:
    if isinstance(value, (list, tuple)) and list in types:
        return _converted_list(value, key)
    if type(value) in types:
        return value
    if float in types and type(value) is int:
        return float(value)
    if int in types and type(value) is float and value.is_integer():
        return int(value)
    return _INVALID


def _converted_list(values: Sequence[Any], key: Key) -> Any:
    types = element_types(key)
    if not types:
        return [_converted_list(item, key) if isinstance(item, (list, tuple)) else item for item in values]
    is_nested = bool(key.default) and isinstance(key.default[0], list)
    elements = [_converted(item, (*types, list) if is_nested else types, key) for item in values]
    return _INVALID if any(element is _INVALID for element in elements) else elements


def element_types(key: Key) -> tuple[type, ...]:
    """Types of the numbers or strings in the key's lists; () for any.

    Args:
        key: its default and declared types.
    """
    if key.element_types or not isinstance(key.default, list):
        return key.element_types
    leaves = list(key.default)
    while leaves and isinstance(leaves[0], list):
        leaves = [item for row in leaves for item in row]
    return tuple(dict.fromkeys(type(item) for item in leaves))


def _with_article(words: str) -> str:
    if words.startswith(("None", "true")):
        return words
    return f"an {words}" if words.startswith("i") else f"a {words}"


def _hint(value: Any, key: Key) -> str:
    if isinstance(key.default, list) and isinstance(value, str) and value.strip().lower() in ("none", "null"):
        return " Write an empty list as []."
    if isinstance(key.default, list) and key.default and isinstance(value, (int, float, str)):
        return f" Write it like {key.default}."
    if str in key.types and not key.words and isinstance(value, (int, float)):
        return ' Put it in quotes: "...".'
    return ""
