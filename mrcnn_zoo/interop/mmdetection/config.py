"""Reads MMDetection's configs, Python files of assignments, as data; no code in them is run.

A checkpoint holds its config as the text of such a file, with all inheritance resolved. Values that are no plain data
are left out and listed.
"""

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrcnn_zoo.config.files import read_text_file
from mrcnn_zoo.errors import UserError

SETTINGS_KEY = "settings"  # in the meta data of a file, for a config that the user gives


@dataclass(frozen=True)
class ForeignConfig:
    """The values of a config.

    Args:
        values: nested, as in the config.
        unreadable: the statements and values that are no plain data.
        is_present: False where the checkpoint holds no config.
    """

    values: dict[str, Any] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()
    is_present: bool = True


def read_config_file(path: Path) -> str | dict[str, Any]:
    """A config of MMDetection for `config_of`: the text of a .py file, or the values of a .json file.

    Raises:
        UserError: it is no text, or no JSON.
    """
    text = read_text_file(path)
    try:
        values = json.loads(text) if path.suffix == ".json" else text
    except (ValueError, RecursionError) as error:
        raise UserError(f"the config {path} is not valid JSON: {error}.") from error
    if not isinstance(values, str | dict):
        raise UserError(f"the config {path} should hold a mapping of settings, not a {type(values).__name__}.")
    return values


def config_of(meta: Mapping[str, Any]) -> ForeignConfig:
    """The config beside the weights of a checkpoint: a text or a dict under `cfg`, or the model's part alone.

    Args:
        meta: the checkpoint without its weights. MMDetection's config is in `meta["meta"]["cfg"]`, one that the user
            gives instead in `meta[SETTINGS_KEY]`.
    """
    inner = meta.get("meta")
    own = inner.get("cfg") if isinstance(inner, Mapping) else None
    for candidate in (meta.get(SETTINGS_KEY), own, meta.get("cfg")):
        if isinstance(candidate, str):
            return parse_config(candidate)
        if isinstance(candidate, Mapping):
            values = dict(candidate)
            return ForeignConfig(values if "model" in values else {"model": values})
    return ForeignConfig(is_present=False)


def parse_config(text: str) -> ForeignConfig:
    """The assignments of a config in Python's syntax with plain data: literals, dict(...) and earlier names.

    Args:
        text: of the config.
    """
    try:
        statements = ast.parse(text).body
    except SyntaxError as error:
        return ForeignConfig(unreadable=(f"line {error.lineno}: {(error.text or '').strip()}",))
    except (ValueError, RecursionError, MemoryError) as error:  # zero bytes, or brackets without end
        return ForeignConfig(unreadable=(str(error) or type(error).__name__,))
    reader = _Reader()
    for statement in statements:
        reader.take(statement)
    return ForeignConfig(reader.values, tuple(reader.unreadable))


class _NotDataError(Exception):
    """An expression that is no plain data."""


class _Reader:
    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.unreadable: list[str] = []

    def take(self, statement: ast.stmt) -> None:
        is_assignment = isinstance(statement, ast.Assign) and all(isinstance(t, ast.Name) for t in statement.targets)
        if not is_assignment:
            self.unreadable.append(ast.unparse(statement))
            return
        assert isinstance(statement, ast.Assign)
        try:
            value = self._value(statement.value)
        except _NotDataError:
            self.unreadable.append(ast.unparse(statement))
            return
        for target in statement.targets:
            assert isinstance(target, ast.Name)
            self.values[target.id] = value

    def _value(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Dict):
            return self._entries([(self._key(key), value) for key, value in zip(node.keys, node.values, strict=True)])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
            return self._entries([(word.arg, word.value) for word in node.keywords])
        if isinstance(node, ast.List):
            return [self._value(element) for element in node.elts]
        if isinstance(node, ast.Tuple):
            return tuple(self._value(element) for element in node.elts)
        if isinstance(node, ast.Name) and node.id in self.values:
            return self.values[node.id]
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError) as error:
            raise _NotDataError from error

    def _key(self, node: ast.expr | None) -> str | None:
        return str(self._value(node)) if node is not None else None

    def _entries(self, entries: list[tuple[str | None, ast.expr]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, node in entries:
            try:
                value = self._value(node)
            except _NotDataError:
                self.unreadable.append(f"{key} = {ast.unparse(node)}")
                continue
            if key is not None:
                values[key] = value
            elif isinstance(value, Mapping):  # **name
                values.update(value)
        return values
