"""Advice in messages: every override and command in a message of the package is valid as printed."""

import ast
import re
import shlex
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from typing import NamedTuple

import pytest

from mrcnn_zoo.cli.main import COMMANDS
from mrcnn_zoo.config.defaults import KEYS_BY_NAME
from mrcnn_zoo.config.keys import Key
from mrcnn_zoo.config.loading import resolve_config
from mrcnn_zoo.config.rules import check_values
from support.source_files import files_in

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
    for source in files_in("mrcnn_zoo"):
        inside = {id(part) for node in source.nodes if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
        docstrings = {id(node.value) for node in source.nodes if isinstance(node, ast.Expr)}
        elsewhere = inside | docstrings
        file = source.path.removeprefix("mrcnn_zoo/")
        for node in source.nodes:
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else PLACEHOLDER for part in node.values)
                found.append((f"{file}:{node.lineno}", "".join(map(str, parts))))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in elsewhere:
                found.append((f"{file}:{node.lineno}", node.value.replace("%s", PLACEHOLDER)))
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


def check_override(advice: Advice) -> None:
    name, _, value = advice.text.partition(" ")
    items = [name, *shlex.split(value.replace(PLACEHOLDER, sample_of(KEYS_BY_NAME[name])))]
    check_values(resolve_config(None, items))


def commands() -> Iterator[Advice]:
    for location, text in messages():
        for command in COMMAND.finditer(text.replace(f"`{PLACEHOLDER} zoo", "`mrcnn-zoo zoo")):
            if "COMMAND" not in command[1]:
                yield Advice(location, command[1])


def check_command(advice: Advice) -> None:
    _, command, *arguments = shlex.split(advice.text.replace(PLACEHOLDER, "some"))
    assert command in COMMANDS, f"no command {command}"
    parser = import_module(COMMANDS[command][0]).build_parser()
    if arguments:  # a bare command is a reference to it
        parser.parse_args(arguments)


# Collected inside the tests: every process of a parallel run imports this file.
@pytest.mark.parametrize(("advice_of_messages", "check"), [(overrides, check_override), (commands, check_command)])
def test_advice_in_messages_is_valid(
    advice_of_messages: Callable[[], Iterator[Advice]], check: Callable[[Advice], None]
) -> None:
    mistakes = []
    for advice in sorted(set(advice_of_messages())):
        try:
            check(advice)
        except (Exception, SystemExit) as error:
            mistakes.append(f"{advice.location} {advice.text}: {error}")
    assert not mistakes, "\n" + "\n".join(mistakes)


def test_advice_of_messages_is_collected() -> None:
    texts = {advice.text for advice in overrides()}
    assert "MODEL.MASK_ON False" in texts
    assert any(text.startswith("DATASETS.TRAIN ") for text in texts)
    assert len(texts) > 15
    assert any("zoo" in advice.text for advice in commands())
