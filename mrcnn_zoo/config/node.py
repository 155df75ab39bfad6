"""CfgNode: a YACS node that is set from safe YAML and overrides and records the origin of each value."""

import copy
import logging
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yacs.config import CfgNode as YacsNode

from mrcnn_zoo.config.defaults import ALL_KEYS, KEYS_BY_NAME, KEYS_BY_OLD_NAME, SECTION_NAMES, keys_below
from mrcnn_zoo.config.files import read_config_file
from mrcnn_zoo.config.keys import COMMAND_LINE, DEFAULT, Assignment, Key, Origin
from mrcnn_zoo.config.values import coerce, literal, read_overrides
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registry import did_you_mean

logger = logging.getLogger(__name__)

ORIGINS = "__origins__"  # stored where YACS stores its own state, not among the keys
SOURCES = "__sources__"
FORMERS = "__formers__"
OLD_VERSIONS = (0, 1)
MAX_SUGGESTIONS = 5
_FASTEST_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # equal text; the first is libyaml's
SWEEP_FIELDS = ("BASE", "TITLE", "NOTE", "VARIANTS", "GRID", "SEEDS", "REFERENCE")  # of the file of a sweep


class CfgNode(YacsNode):
    """One level of the configuration; leaves are plain Python values."""

    def merge_from_file(self, cfg_filename: str | Path) -> None:
        """Set the values of a YAML file and of its base files; self must be the root.

        Args:
            cfg_filename: a path, or the name of a packaged config.
        """
        self.assign(read_config_file(cfg_filename))

    def merge_from_list(self, cfg_list: Sequence[Any]) -> None:
        """Set the values of `KEY VALUE` and `KEY=VALUE` items; self must be the root.

        Args:
            cfg_list: as for `read_overrides`.
        """
        self.assign(read_overrides(cfg_list))

    def dump(self) -> str:
        """The values as YAML, the text of YACS' own `dump`."""
        text: str = yaml.dump(_as_dict(self), Dumper=_FASTEST_DUMPER)
        return text

    def assign(self, assignments: Iterable[Assignment]) -> None:
        """Set keys in order and record the origin of each value; self must be the root.

        Args:
            assignments: unchecked.

        Raises:
            UserError: for an unknown key, a value that does not fit, or a key set twice in one file.
        """
        if self.is_frozen():
            raise AttributeError("the config is frozen; call defrost() on it, or on a clone(), before changing it")
        lines: dict[tuple[str, str], Origin] = {}
        for assignment in assignments:
            if assignment.origin != DEFAULT and assignment.origin.source not in self._sources():
                self._sources().append(assignment.origin.source)
            if assignment.name in SECTION_NAMES and assignment.value in (None, {}):
                continue  # a section with all keys commented out
            key, below = locate(assignment)
            name = ".".join((key.name, *below))
            place = (assignment.origin.source, name)
            if assignment.origin.line is not None and place in lines:
                raise UserError(f"{assignment.origin}: {name} is set a second time; {lines[place]} has set it already.")
            if assignment.name in KEYS_BY_OLD_NAME:
                logger.warning(
                    "%s: %s is the old name of %s and is read as it", assignment.origin, assignment.name, name
                )
            lines[place] = assignment.origin
            if self.origin_of(name).source != assignment.origin.source:
                self._formers()[name] = copy.deepcopy(self._present_value(key, below))
            if key.is_open:
                self._assign_open(key.name, below, assignment)
            else:
                self._assign_leaf(key.name, coerce(_of_this_version(assignment), key))
            self._origins()[name] = assignment.origin

    def value_of(self, name: str) -> Any:
        """The value or section of a dotted name; self must be the root.

        Args:
            name: e.g. "MODEL.FPN.NORM".
        """
        node = self
        for part in name.split("."):
            node = node[part]
        return node

    def origin_of(self, name: str) -> Origin:
        """Where the value of a dotted name was set; self must be the root.

        Args:
            name: e.g. "MODEL.FPN.NORM".
        """
        return self._origins().get(name, DEFAULT)

    def former_value_of(self, name: str) -> Any:
        """The value before the file or command line that set the present one; self must be the root.

        Args:
            name: of a key, or dotted below an open section; None where it had no value.
        """
        return self._formers()[name] if name in self._formers() else self.value_of(name)

    def set_names(self) -> list[str]:
        """The dotted names that were set, by sources in the order in which they were read."""
        return sorted(self._origins(), key=self.closeness_of)

    def sources(self) -> tuple[str, ...]:
        """Files, command line and code that have set values, in that order; a base before its derived file."""
        return tuple(self._sources())

    def closeness_of(self, name: str) -> int:
        """The priority of the place where a value was set, for keys that contradict each other.

        Args:
            name: e.g. "MODEL.FPN.NORM".

        Returns:
            0 for a default, more in a file than in its base, most on the command line.
        """
        source = self.origin_of(name).source
        if source == COMMAND_LINE:
            return 1 + len(self._sources())
        return 1 + self._sources().index(source) if source in self._sources() else 0

    def _assign_leaf(self, name: str, value: Any) -> None:
        section, _, leaf = name.rpartition(".")
        node = self.value_of(section) if section else self
        node[leaf] = value

    def _assign_open(self, section: str, below: tuple[str, ...], assignment: Assignment) -> None:
        value = assignment.value
        if assignment.origin.source == COMMAND_LINE and isinstance(value, str):
            value = literal(value)
        if not below:
            if value not in (None, {}):
                raise UserError(f"{assignment.origin}: {section} takes a mapping of custom names, not {value!r}.")
            return
        node = self.value_of(section)
        for part in below[:-1]:
            if not isinstance(node.get(part), CfgNode):
                node[part] = CfgNode(new_allowed=True)
            node = node[part]
        node[below[-1]] = CfgNode(new_allowed=True) if value == {} else value

    def _present_value(self, key: Key, below: tuple[str, ...]) -> Any:
        node: Any = self.value_of(key.name)
        for part in below:
            node = node.get(part) if isinstance(node, CfgNode) else None
        return _as_dict(node) if isinstance(node, CfgNode) else node

    def _formers(self) -> dict[str, Any]:
        return self.__dict__.setdefault(FORMERS, {})

    def _origins(self) -> dict[str, Origin]:
        return self.__dict__.setdefault(ORIGINS, {})

    def _sources(self) -> list[str]:
        """Files and command line in the order in which they were read: a base before its derived file."""
        return self.__dict__.setdefault(SOURCES, [])

    @classmethod
    def _load_cfg_py_source(cls, filename: str) -> NoReturn:
        raise UserError(f"{filename}: reading a config in Python would run it, so only YAML is accepted.")


def _as_dict(node: CfgNode) -> dict[str, Any]:
    return {name: _as_dict(value) if isinstance(value, CfgNode) else value for name, value in node.items()}


def default_config() -> CfgNode:
    """A fresh, mutable config with every key at its default."""
    root = CfgNode()
    for key in ALL_KEYS:
        node = root
        *parents, leaf = key.name.split(".")
        for part in parents:
            node = node.setdefault(part, CfgNode())
        node[leaf] = CfgNode(new_allowed=True) if key.is_open else copy.deepcopy(key.default)
    return root


def _of_this_version(assignment: Assignment) -> Assignment:
    if assignment.name == "VERSION" and assignment.value in OLD_VERSIONS:
        return Assignment(assignment.path, 2, assignment.origin)
    return assignment


def locate(assignment: Assignment) -> tuple[Key, tuple[str, ...]]:
    """The key of an assignment, and for an open section the names below it.

    Args:
        assignment: of any name.

    Raises:
        UserError: there is no such key; with the nearest ones and the origin of the assignment.
    """
    path: list[str] = []
    parts = list(assignment.path)
    while parts:
        path += parts.pop(0).split(".")
        # The shortest prefix, since custom names below an open section may contain dots.
        for end in range(1, len(path) + 1):
            key = KEYS_BY_NAME.get(".".join(path[:end]))
            if key is not None and key.is_open:
                return key, (*path[end:], *parts)
    name = ".".join(path)
    found = KEYS_BY_NAME.get(name) or KEYS_BY_OLD_NAME.get(name)
    if found is None:
        raise UserError(f"{assignment.origin}: {no_such_key(name)}")
    return found, ()


def no_such_key(name: str) -> str:
    """The message about a name that is not a key, with the nearest names.

    Args:
        name: dotted.
    """
    if name in SECTION_NAMES:
        leaves = ", ".join(key.name.removeprefix(f"{name}.") for key in keys_below(name)[:8])
        return f"{name} is a section without a value; set one of its keys ({leaves}, ...)."
    for parent in _parents(name):
        if parent in KEYS_BY_NAME:
            return f"{parent} is a value, not a section, so there is no key {name}."
    sweep = " A sweep is trained with `mrcnn-zoo sweep run`." if name.split(".")[0] in SWEEP_FIELDS else ""
    return f"there is no config key {name}.{suggestion(name)}{sweep}"


def suggestion(name: str) -> str:
    """` Did you mean ...?` with the keys that have the same last part, else with the nearest key; or an empty string.

    Args:
        name: dotted.
    """
    leaf = name.rsplit(".", 1)[-1].lower()
    same_leaf = [key for key in KEYS_BY_NAME.values() if key.name.rsplit(".", 1)[-1].lower() == leaf]
    if len(same_leaf) in range(1, MAX_SUGGESTIONS + 1):
        same_leaf.sort(key=lambda key: (key.unsupported is not None, -SequenceMatcher(None, name, key.name).ratio()))
        return f" Did you mean {' or '.join(repr(key.name) for key in same_leaf)}?"
    return did_you_mean(name, [*KEYS_BY_NAME, *SECTION_NAMES])


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]
