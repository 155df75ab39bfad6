"""Whether a value fits a key, and its conversion to the key's type."""

import re
from ast import literal_eval
from collections.abc import Sequence
from typing import Any

from mrcnn_zoo.config.keys import Key
from mrcnn_zoo.config.provenance import Assignment
from mrcnn_zoo.config.safe_yaml import read_yaml_value
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registry import did_you_mean

WORDS = {"true": True, "false": False, "none": None, "null": None}  # as YAML and shells write them
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

_MISFIT = object()


def fitted(assignment: Assignment, key: Key) -> Any:
    """The assignment's value in the type that the key wants: "1e-3" as a number, "(1, 2)" as a list, 1 as 1.0.

    Raises:
        UserError: naming key, expected type, value and place.
    """
    for reading in _readings(assignment.value, key):
        value = _converted(reading, key.types, key)
        if value is _MISFIT:
            continue
        if key.choices and value not in key.choices:
            choices = ", ".join(repr(choice) for choice in key.choices)
            near = did_you_mean(value, key.choices) if isinstance(value, str) else ""
            raise UserError(f"{assignment.origin}: {key.name} = {value!r} is not one of {choices}.{near}")
        return value
    misfit = f"{key.name} takes {_with_article(type_words(key))}, not {assignment.value!r}"
    raise UserError(f"{assignment.origin}: {misfit}.{_hint(assignment.value, key)}")


def literal(text: str) -> Any:
    """What a text stands for: a Python literal, true, false, null, a YAML list or mapping, or else the text itself."""
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    if len(text) > MAX_LITERAL:
        return text
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return _flow_literal(text) if text[:1] in ("[", "{") else text


def _flow_literal(text: str) -> Any:
    # A shell takes the quotes away: `DATASETS.TRAIN=["a", "b"]` arrives as `[a, b]`.
    try:
        return read_yaml_value(text)
    except UserError:
        return text


def type_words(key: Key) -> str:
    """The types of a key's values in words, e.g. "list of integers"."""
    if key.is_open:
        return "section of your own names"
    words = [TYPE_NAMES[wanted][0] for wanted in key.types]
    if isinstance(key.default, list) and element_types(key):
        is_nested = bool(key.default) and isinstance(key.default[0], list)
        elements = " or ".join(TYPE_NAMES[wanted][1] for wanted in element_types(key))
        words[0] = f"list of {'lists of ' if is_nested else ''}{elements}"
    return " or ".join(words)


def _readings(value: Any, key: Key) -> list[Any]:
    """What a value may mean, the most literal first; lists may be typed without brackets, quotes or commas."""
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
    return _MISFIT


def _converted_list(values: Sequence[Any], key: Key) -> Any:
    types = element_types(key)
    if not types:
        return [_converted_list(item, key) if isinstance(item, (list, tuple)) else item for item in values]
    is_nested = bool(key.default) and isinstance(key.default[0], list)
    elements = [_converted(item, (*types, list) if is_nested else types, key) for item in values]
    return _MISFIT if any(element is _MISFIT for element in elements) else elements


def element_types(key: Key) -> tuple[type, ...]:
    """Types of the numbers or strings in the key's lists; () when any will do."""
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
        return " An empty list is written []."
    if isinstance(key.default, list) and key.default and isinstance(value, (int, float, str)):
        return f" Write it like {key.default}."
    if str in key.types and isinstance(value, (int, float)):
        return ' Put it in quotes: "...".'
    return ""
