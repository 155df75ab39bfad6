"""The config of a run in its folder: values, where each was set, and what it was before."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.config.explain import changes
from mrcnn_zoo.config.node import default_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.output_files import write_json, write_text

CONFIG_FILE, CHANGES_FILE = "config.yaml", "config_changes.json"
EVALUATED_CONFIG = Path("inference") / CONFIG_FILE  # of an evaluation without training
CONFIG_SUFFIXES = (".yaml", ".yml")
IN_WEIGHTS = "the config in "  # source of a config that is stored in weights
CONFIG_OPTIONS = ("--config-file", "--config")


@dataclass(frozen=True)
class ConfigChange:
    """A value that differs from that of the base."""

    name: str
    value: Any
    former: Any
    origin: str  # "command line", "file:line", or "" where it is not known
    is_own: bool = True  # set on the command line, by code, or in the file that was given; False: in one of its bases


@dataclass(frozen=True)
class RunConfig:
    """The config of a run or an evaluation."""

    text: str = ""  # YAML
    settings: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""  # that was given
    base: str = ""  # that the changes are relative to, in words
    changes: tuple[ConfigChange, ...] = ()

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a dotted key.

        Args:
            name: e.g. "SOLVER.MAX_ITER".
            default: where there is none.
        """
        node: Any = self.settings
        for part in name.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        return default if node is None else node


def record_config(cfg: CfgNode, folder: Path, *, name: str | Path = CONFIG_FILE) -> None:
    """Write the config, and `config_changes.json` beside it: each changed value with its former one and its origin.

    Args:
        cfg: of a run or an evaluation.
        folder: of the run.
        name: of the file in it.
    """
    path = write_text(folder / name, cfg.dump())
    sources = cfg.sources()
    places = [place for place, source in enumerate(sources) if source.endswith(CONFIG_SUFFIXES)]
    places += [place for place, source in enumerate(sources) if source.startswith(IN_WEIGHTS) and not places]
    given = sources[places[-1]] if places else ""
    rows = [
        {
            "key": item.name,
            "value": item.value,
            "former": item.former,
            "origin": str(item.origin),
            "is_own": item.closeness > max(places, default=0),  # not in a base of the given file
        }
        for item in changes(cfg)
    ]
    write_json(path.with_name(CHANGES_FILE), {"file": given, "changes": rows}, indent=1)


def read_config(folder: Path, environment: Mapping[str, Any], *, name: str | Path = CONFIG_FILE) -> RunConfig:
    """The config of a run, and what was changed in it.

    Args:
        folder: of the run.
        environment: with the command, from which the config file is known where `config_changes.json` is missing.
        name: of the YAML file.
    """
    path = folder / name
    if not path.is_file():
        return RunConfig()
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError:
        settings = None
    settings = settings if isinstance(settings, dict) else {}
    recorded = read_json_file(path.with_name(CHANGES_FILE), [])
    if recorded:
        rows = tuple(
            ConfigChange(row["key"], row["value"], row["former"], row["origin"], row.get("is_own", True))
            for row in recorded.get("changes", ())
        )
        return RunConfig(text, settings, recorded.get("file", ""), "the file that set it before, or the default", rows)
    file = _given_config(environment.get("command", ()))
    base, words = _base_values(file)
    return RunConfig(text, settings, file, words, _differences(settings, base))


def _given_config(command: Sequence[str]) -> str:
    for option, value in zip(command, [*command[1:], ""], strict=False):
        name, _, joined = option.partition("=")
        if name in CONFIG_OPTIONS:
            return joined or value
    return ""


def _base_values(file: str) -> tuple[Mapping[str, Any], str]:
    """The values of a config file, or the defaults where it is missing; and which of them, in words."""
    try:
        if file:
            return yaml.safe_load(load_config(file).dump()), file
    except UserError:  # it was moved, or is of another version
        pass
    return yaml.safe_load(default_config().dump()), "the defaults of this version"


def _differences(settings: Mapping[str, Any], base: Mapping[str, Any]) -> tuple[ConfigChange, ...]:
    before = dict(_leaves(base))
    present = dict(_leaves(settings))
    return tuple(
        ConfigChange(name, value, before.get(name), "")
        for name, value in present.items()
        if value != before.get(name) and (name in before or value not in (None, {}))
    )


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def read_json_file(path: Path, notes: list[str]) -> dict[str, Any]:
    """A JSON object, or {} where the file is missing or damaged.

    Args:
        path: of the file.
        notes: gets a line about a damaged file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        notes.append(f"{path.name} cannot be read: {error}")
        return {}
    return content if isinstance(content, dict) else {}
