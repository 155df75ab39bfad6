"""Advice in messages: every override and command in a message of the package is valid as printed."""

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

import mrcnn_zoo
from mrcnn_zoo.cli.main import COMMANDS
from mrcnn_zoo.config.defaults import KEYS_BY_NAME
from mrcnn_zoo.config.keys import Key
from mrcnn_zoo.config.loading import resolve_config
from mrcnn_zoo.config.rules import check_values

PACKAGE = Path(mrcnn_zoo.__file__).parent
PLACEHOLDER = "<value>"  # replaces a formatted value of a message
KEY = re.compile(r"(?<![\w.])([A-Z][A-Z0-9_]*(?:\.[A-Z0-9_]+)+|SEED|OUTPUT_DIR|HOOKS|WRITERS|LOG_PERIOD)(?![\w.]*\w)")
VALUE = re.compile(r"[= ](\"[^\"]*\"|'[^']*'|\[[^\]]*\]|[^\s,;:()`]+)")
COMMAND = re.compile(r"`(mrcnn-zoo [^`]+)`")
PROSE = re.compile(r"(?!(true|false|none|null)$)[a-z]+|[=|.]+")  # no value: "SOLVER.STEPS decide"


class Advice(NamedTuple):
    location: str
    text: str


@cache
def messages() -> tuple[tuple[str, str], ...]:
    """(location, text) of every string of the package except docstrings; parts of f-strings are joined."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            location = f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else PLACEHOLDER for part in node.values)
                found.append((location, "".join(map(str, parts))))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside | docstrings:
                found.append((location, node.value.replace("%s", PLACEHOLDER)))
    return tuple(found)


def overrides() -> Iterator[Advice]:
    for location, text in messages():
        if location.startswith("config/defaults"):
            continue  # descriptions of keys
        for key in KEY.finditer(text):
            value = VALUE.match(text, key.end())
            if value is None or key[1] not in KEYS_BY_NAME or _is_prose(value[1].rstrip("."), KEYS_BY_NAME[key[1]]):
                continue
            yield Advice(location, f"{key[1]} {_unquoted(value[1].rstrip('.'))}")


def _unquoted(word: str) -> str:
    """Without the quote that ends a quoted group of words."""
    return word[:-1] if word.endswith('"') and word.count('"') == 1 else word


def _is_prose(word: str, key: Key) -> bool:
    takes_words = str in key.types and (not (key.choices or key.words) or word in (*key.choices, *key.words))
    return PROSE.fullmatch(word) is not None and not takes_words


def sample_of(key: Key) -> str:
    """A valid value of a key, to replace a placeholder in a message."""
    if key.choices:
        return str(key.choices[0])
    if isinstance(key.default, list):
        return ",".join(map(str, key.default)) if key.default and not isinstance(key.default[0], list) else "some"
    return str(key.default) or "some"


@pytest.mark.parametrize("advice", sorted(set(overrides())), ids=lambda advice: f"{advice.location} {advice.text}")
def test_override_in_message_is_valid(advice: Advice) -> None:
    name, _, value = advice.text.partition(" ")
    items = [name, *shlex.split(value.replace(PLACEHOLDER, sample_of(KEYS_BY_NAME[name])))]
    check_values(resolve_config(None, items))  # raises nothing


def commands() -> Iterator[Advice]:
    for location, text in messages():
        for command in COMMAND.finditer(text.replace(f"`{PLACEHOLDER} zoo", "`mrcnn-zoo zoo")):
            if "COMMAND" not in command[1]:
                yield Advice(location, command[1])


@pytest.mark.parametrize("advice", sorted(set(commands())), ids=lambda advice: f"{advice.location} {advice.text}")
def test_command_in_message_parses(advice: Advice) -> None:
    _, command, *arguments = shlex.split(advice.text.replace(PLACEHOLDER, "some"))
    assert command in COMMANDS
    parser = import_module(COMMANDS[command][0]).build_parser()
    if arguments:  # a bare command is a reference to it
        parser.parse_args(arguments)


def test_advice_of_messages_is_collected() -> None:
    texts = {advice.text for advice in overrides()}
    assert "MODEL.MASK_ON False" in texts
    assert any(text.startswith("DATASETS.TRAIN ") for text in texts)
    assert len(texts) > 15
    assert any("zoo" in advice.text for advice in commands())
