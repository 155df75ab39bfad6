"""Faults in the files of a dataset: each is one damage that a tool, a transfer or an editor may cause."""

import copy
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any

from mrcnn_zoo.data.annotations.folders import MARKER
from mrcnn_zoo.data.images.reading import IMAGE_SUFFIXES

JSON_VALUES = ("abc", float("nan"), None, 1e30, -7, {}, [], True)
TEXT_VALUES = ("abc", "nan", "", "1e30", "-7")
MISSING, RENAMED = "missing", "renamed"
NUMBER = re.compile(r"(?<![\w.])-?\d+(\.\d+)?(?![\w.])")
NUMBERS_CHANGED = 12  # per text file
ELEMENT = re.compile(r"<(\w+)[^<>/]*>[^<>]*</\1>")


@dataclass(frozen=True)
class Fault:
    """One damage.

    Args:
        file: relative to the folder of the dataset.
        what: for messages: "annotations[0].bbox = NaN".
        apply: changes the folder.
        is_plausible: the file may be meant so: an object less, another name of a class.
    """

    file: str
    what: str
    apply: Callable[[Path], None]
    is_plausible: bool = False

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


def faults_of(folder: Path) -> Iterator[Fault]:
    """All faults of the first file of each kind in each folder.

    Args:
        folder: of a dataset as our writers write it.
    """
    seen = set()
    for path in sorted(folder.rglob("*")):
        kind = (path.parent, path.suffix.lower())
        if not path.is_file() or path.name == MARKER or kind in seen:
            continue
        seen.add(kind)
        name = path.relative_to(folder).as_posix()
        yield from _file_faults(name, path)
        if path.suffix == ".json":
            yield from _json_faults(name, json.loads(path.read_text(encoding="utf-8")))
        elif path.suffix.lower() not in IMAGE_SUFFIXES:
            yield from _text_faults(name, path.read_text(encoding="utf-8"))


def _file_faults(name: str, path: Path) -> Iterator[Fault]:
    size = path.stat().st_size

    def cut(root: Path, keep: int) -> None:
        (root / name).write_bytes((root / name).read_bytes()[:keep])

    def fill(root: Path) -> None:
        (root / name).write_bytes(b"\xff\xfe\x00\x01" * 9)

    def rename(root: Path) -> None:
        (root / name).rename((root / name).with_name(f"other{path.suffix}"))

    is_lines = path.suffix == ".txt"  # a file of lines is complete after each of them
    yield Fault(name, "empty", lambda root: cut(root, 0), is_lines)
    yield Fault(name, "cut off in the middle", lambda root: cut(root, size // 2), is_lines)
    yield Fault(name, "neither text nor image", fill)
    yield Fault(name, MISSING, lambda root: (root / name).unlink(), is_plausible=True)
    yield Fault(name, RENAMED, rename, is_plausible=True)


def _json_faults(name: str, content: Any) -> Iterator[Fault]:
    seen = set()
    for keys in _paths(content):
        kind = tuple("*" if isinstance(key, int) or "." in key else key for key in keys)
        if kind in seen or not keys:
            continue
        seen.add(kind)
        place = ".".join(map(str, keys))
        before = reduce(lambda part, key: part[key], keys, content)
        for value in JSON_VALUES:
            change = _changed(name, content, keys, value)
            yield Fault(name, f"{place} = {value!r}", change, _is_plausible(before, value))
        yield Fault(name, f"{place} deleted", _changed(name, content, keys, ...), is_plausible=True)
    for value in (None, {}, [], 3, "abc", [3]):
        yield Fault(name, f"content {value!r}", lambda root, value=value: _dump(root / name, value))


def _is_plausible(before: Any, value: Any) -> bool:
    """Whether a value is of the kind that is expected: a text or whole number for a name, an empty list for a list.

    True is a number in Python.
    """
    if isinstance(before, int | float):
        return value is True
    if isinstance(before, str):
        return isinstance(value, str) or (type(value) is int)
    return isinstance(before, list | dict) and isinstance(value, list | dict) and type(before) is type(value)


def _paths(content: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield keys
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from _paths(value, (*keys, key))


def _changed(name: str, content: Any, keys: tuple[Any, ...], value: Any) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        changed = copy.deepcopy(content)
        target = changed
        for key in keys[:-1]:
            target = target[key]
        if value is ...:
            del target[keys[-1]]
        else:
            target[keys[-1]] = value
        _dump(root / name, changed)

    return apply


def _dump(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _text_faults(name: str, text: str) -> Iterator[Fault]:
    for match in list(NUMBER.finditer(text))[:NUMBERS_CHANGED]:
        for value in TEXT_VALUES:
            changed = text[: match.start()] + value + text[match.end() :]
            where = f"{match[0]} at {match.start()} = {value!r}"
            yield Fault(name, where, partial(_write_file, name=name, text=changed))
    seen = set()
    for match in ELEMENT.finditer(text):
        if match[1] not in seen:
            seen.add(match[1])
            for value in ("", f"<{match[1]}></{match[1]}>", f"<{match[1]}>abc</{match[1]}>"):
                changed = text[: match.start()] + value + text[match.end() :]
                is_name = "abc" in value and not NUMBER.search(match[0])
                change = partial(_write_file, name=name, text=changed)
                yield Fault(name, f"{match[0]} = {value!r}", change, is_name)
    lines = text.splitlines(keepends=True)
    for row in range(min(len(lines), 3)):
        changed = "".join([*lines[:row], "abc , def\n", *lines[row + 1 :]])
        yield Fault(name, f"line {row + 1} = 'abc , def'", partial(_write_file, name=name, text=changed))


def _write_file(root: Path, *, name: str, text: str) -> None:
    (root / name).write_text(text, encoding="utf-8")
