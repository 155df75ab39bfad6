"""Descriptions of config keys, and resolved configs with the origin of each value, as text."""

import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from mrcnn_zoo.config.defaults import (
    DETECTRON2_NAMES,
    KEYS_BY_NAME,
    KEYS_BY_OLD_NAME,
    PROJECT_OF_NAME,
    SECTION_NAMES,
    keys_below,
)
from mrcnn_zoo.config.keys import DEFAULT, Key, Origin, Unsupported
from mrcnn_zoo.config.node import CfgNode, no_such_key
from mrcnn_zoo.config.rules import unsupported_changes
from mrcnn_zoo.config.values import type_words
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registry import Registry

WIDTH = 100


def explain(name: str) -> str:
    """The description of a key, the keys of a section, or the keys found by a search.

    Args:
        name: a key, a section, an old name, or words to search for; empty for all keys.

    Raises:
        UserError: nothing is found; with the nearest names.
    """
    if name in KEYS_BY_NAME:
        return _explain_key(KEYS_BY_NAME[name])
    if not name or name in SECTION_NAMES:
        return _list_keys(keys_below(name))
    if name in KEYS_BY_OLD_NAME:
        return f"{name} is the old name of:\n\n{_explain_key(KEYS_BY_OLD_NAME[name])}"
    if name.upper() in KEYS_BY_NAME or name.upper() in SECTION_NAMES:
        return explain(name.upper())
    found = search(name)
    if not found:
        raise UserError(no_such_key(name))
    column = max(len(key.name) for key in found) + 2
    lines = [f"{key.name:{column}}{_shortened(key.meaning, WIDTH - column)}" for key in found]
    return "\n".join([*lines, "", f"`mrcnn-zoo config explain {found[0].name}` explains the first."])


def search(words: str) -> list[Key]:
    """The keys that match every word, those with all words in their name first.

    Args:
        words: separated by spaces, in any case; each is part of the name, or starts a word of the meaning.
    """
    wanted = words.lower().split()

    def has(key: Key, word: str) -> bool:
        return word in key.name.lower() or re.search(rf"\b{re.escape(word)}", key.meaning.lower()) is not None

    found = [key for key in KEYS_BY_NAME.values() if wanted and all(has(key, word) for word in wanted)]
    return sorted(found, key=lambda key: not all(word in key.name.lower() for word in wanted))


def _explain_key(key: Key) -> str:
    rows = {"default": repr(key.default), "type": type_words(key)}
    if range_words(key):
        rows["range"] = range_words(key)
    if key.choices:
        rows["values"] = ", ".join(repr(choice) for choice in key.choices)
    if key.registry is not None:
        rows["registered"] = ", ".join(key.registry.names()) or f"{key.registry.name} is empty"
    rows["Detectron2"] = _detectron2_words(key)
    if key.unsupported is not None:
        rows["unsupported"] = _unsupported_words(key.unsupported)
    rows["meaning"] = key.meaning
    column = max(map(len, rows)) + 2
    lines = [key.name, *(_wrapped(f"  {label:{column}}", text) for label, text in rows.items())]
    return "\n".join([*lines, *_component_lines(key.registry)])


def range_words(key: Key) -> str:
    """The numbers that a key allows, e.g. "2 values, each in [0, 1), ascending"; empty without a rule.

    Args:
        key: its range, length and order.
    """
    parts = [str(key.length)] if key.length else []
    if key.range:
        parts.append(f"each {key.range}" if isinstance(key.default, list) else str(key.range))
    if key.ascends:
        parts.append("ascending")
    return ", ".join(parts)


def _detectron2_words(key: Key) -> str:
    if key.name in PROJECT_OF_NAME:
        return f"its project {PROJECT_OF_NAME[key.name]} has it"
    return "has it" if key.name in DETECTRON2_NAMES else "does not have it"


def _component_lines(registry: Registry | None) -> list[str]:
    """One line per registered name with the first line of its builder's docstring."""
    if registry is None:
        return []
    summaries = {name: inspect.getdoc(registry.get(name)) for name in registry.names()}
    column = max(map(len, summaries), default=0) + 2
    return [
        _wrapped(f"    {name:{column}}", text.splitlines()[0].replace("`", ""))
        for name, text in summaries.items()
        if text
    ]


def _unsupported_words(part: Unsupported) -> str:
    words = "this version does not have the part; a value other than the default is refused"
    return f"{words} when {part}, and on the command line always" if part.selector else words


def _list_keys(keys: list[Key]) -> str:
    blocks = []
    for key in keys:
        note = "" if key.unsupported is None else "  (unsupported)"
        blocks.append(f"{key.name} = {key.default!r}{note}\n{_wrapped('    ', key.meaning)}")
    return "\n".join(blocks)


def _shortened(meaning: str, width: int) -> str:
    return textwrap.shorten(meaning, max(width, 20), placeholder=" ...")


def _wrapped(first_indent: str, text: str) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=first_indent, subsequent_indent=" " * len(first_indent), break_on_hyphens=False
    )


@dataclass(frozen=True)
class Change:
    """A value that a file, the command line or code has changed.

    Args:
        name: dotted.
        value: present one.
        former: of the default, or of the base file that set it before.
        origin: where the present value was set.
        closeness: rank of that place, see `CfgNode.closeness_of`.
    """

    name: str
    value: Any
    former: Any
    origin: Origin
    closeness: int


def changes(config: CfgNode) -> list[Change]:
    """The values that differ from those before the place that set them, in the order of the places.

    Args:
        config: the root.
    """
    found = []
    for name in config.set_names():
        try:
            value = config.value_of(name)
        except (KeyError, TypeError):  # below an open section that was set again
            continue
        value = yaml.safe_load(value.dump()) if isinstance(value, CfgNode) else value
        former = config.former_value_of(name)
        if value != former:
            found.append(Change(name, value, former, config.origin_of(name), config.closeness_of(name)))
    return found


INDENT = "  "
COMMENT_COLUMN = 44


def shown(config: CfgNode, *, only_changed: bool = False) -> str:
    """The config as YAML that can be loaded again, with the origin of each value that was set.

    Args:
        config: the root, frozen or not.
        only_changed: leave out the values that equal their default.
    """
    unsupported = {key.name for key in unsupported_changes(config)}
    return "".join(f"{line}\n" for line in _lines(config, config, "", unsupported, only_changed))


def _lines(root: CfgNode, node: CfgNode, section: str, unsupported: set[str], only_changed: bool) -> Iterator[str]:
    indent = INDENT * (section.count(".") + 1) if section else ""
    for part, value in sorted(node.items()):
        name = f"{section}.{part}" if section else part
        if isinstance(value, CfgNode) and value:
            below = list(_lines(root, value, name, unsupported, only_changed))
            yield from [f"{indent}{_yaml(part)}:", *below] if below else []
        elif not only_changed or not _is_default(name, value):
            note = _note(root, name, unsupported)
            line = f"{indent}{_yaml(part)}: {_yaml(value)}"
            yield f"{line:{COMMENT_COLUMN}}  # {note}" if note else line


def _note(root: CfgNode, name: str, unsupported: set[str]) -> str:
    origin = root.origin_of(name)
    notes = [] if origin == DEFAULT else [str(origin)]
    if name in unsupported:
        notes.append("this version does not have the part")
    return "; ".join(notes)


def _is_default(name: str, value: Any) -> bool:
    return name in KEYS_BY_NAME and KEYS_BY_NAME[name].default == value


def _yaml(value: Any) -> str:
    plain = {} if isinstance(value, CfgNode) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("...\n").strip()
