"""Advice in messages: every override and every command that the package prints can be typed as it stands."""

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
HOLE = "<hole>"  # where a message has a value of its own
KEY = re.compile(r"(?<![\w.])([A-Z][A-Z0-9_]*(?:\.[A-Z0-9_]+)+|SEED|OUTPUT_DIR|HOOKS|WRITERS|LOG_PERIOD)(?![\w.]*\w)")
VALUE = re.compile(r"[= ](\"[^\"]*\"|'[^']*'|\[[^\]]*\]|[^\s,;:()`]+)")
COMMAND = re.compile(r"`(mrcnn-zoo [^`]+)`")
PROSE = re.compile(r"(?!(true|false|none|null)$)[a-z]+|[=|.]+")  # "SOLVER.STEPS decide", and no value


class Advice(NamedTuple):
    place: str
    text: str


@cache
def messages() -> tuple[tuple[str, str], ...]:
    """Every string of the package that is no docstring, with its file and line; joined parts are put together."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            place = f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else HOLE for part in node.values)
                found.append((place, "".join(map(str, parts))))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside | docstrings:
                found.append((place, node.value.replace("%s", HOLE)))
    return tuple(found)


def overrides() -> Iterator[Advice]:
    for place, text in messages():
        if place.startswith("config/defaults"):
            continue  # sentences about keys, printed by `config explain`
        for key in KEY.finditer(text):
            value = VALUE.match(text, key.end())
            if value is None or key[1] not in KEYS_BY_NAME or _is_prose(value[1].rstrip("."), KEYS_BY_NAME[key[1]]):
                continue
            yield Advice(place, f"{key[1]} {value[1].rstrip('.')}")


def _is_prose(word: str, key: Key) -> bool:
    takes_words = str in key.types and (not key.choices or word in key.choices)
    return PROSE.fullmatch(word) is not None and not takes_words


def sample_of(key: Key) -> str:
    """A value that stands for one that a message fills in."""
    if key.choices:
        return str(key.choices[0])
    if isinstance(key.default, list):
        return ",".join(map(str, key.default)) if key.default and not isinstance(key.default[0], list) else "some"
    return str(key.default) or "some"


@pytest.mark.parametrize("advice", sorted(set(overrides())), ids=lambda advice: f"{advice.place} {advice.text}")
def test_override_in_a_message_can_be_typed(advice: Advice) -> None:
    name, _, value = advice.text.partition(" ")
    items = [name, *shlex.split(value.replace(HOLE, sample_of(KEYS_BY_NAME[name])))]
    check_values(resolve_config(None, items))  # raises nothing


def commands() -> Iterator[Advice]:
    for place, text in messages():
        for command in COMMAND.finditer(text.replace(f"`{HOLE} zoo", "`mrcnn-zoo zoo")):
            if "COMMAND" not in command[1]:
                yield Advice(place, command[1])


@pytest.mark.parametrize("advice", sorted(set(commands())), ids=lambda advice: f"{advice.place} {advice.text}")
def test_command_in_a_message_can_be_typed(advice: Advice) -> None:
    _, command, *arguments = shlex.split(advice.text.replace(HOLE, "some"))
    assert command in COMMANDS
    parser = import_module(COMMANDS[command][0]).build_parser()
    if arguments:  # a command alone is named, not typed
        parser.parse_args(arguments)


def test_the_collection_finds_what_messages_advise() -> None:
    texts = {advice.text for advice in overrides()}
    assert "MODEL.MASK_ON False" in texts
    assert any(text.startswith("DATASETS.TRAIN ") for text in texts)
    assert len(texts) > 15
    assert any("zoo" in advice.text for advice in commands())
