"""What the result of a run depends on, as one hash: its config, its data, and the runs that its weights come from.

A run whose hash is that of its finished training is not trained again. Keys that cannot change a result are left out,
and so are keys at their default: a new version of this package that adds keys does not change any hash.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.defaults import KEYS_BY_NAME
from mrcnn_zoo.data.catalog import definition_of
from mrcnn_zoo.data.images.reading import IMAGE_SUFFIXES
from mrcnn_zoo.data.paths import candidate_paths
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.experiments.runs import RunKey, RunSpec

# Keys and sections that change no result.
IGNORED = (
    "VERSION",
    "OUTPUT_DIR",
    "MODEL.DEVICE",
    "DATALOADER.NUM_WORKERS",
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.EXPECTED_RESULTS",
    "LOG_PERIOD",
    "WRITERS",
    "WANDB",
    "VIS",
)
WEIGHTS = "MODEL.WEIGHTS"
HASH_LENGTH = 16  # hexadecimal digits
CHUNK = 1 << 20  # bytes
MAX_BYTES = 1 << 28  # in a folder, the content of files up to this size is hashed; of larger ones the size
NOT_PATHS = ("FORMAT", "DATASET", "SPLIT", "SIDE", "GROUP", "CLASS")  # fields of definitions
MAX_DEFINITIONS = 8  # of datasets that are made of each other
VALUES_SHOWN = 8  # in a message

Leaves = dict[str, Any]  # values by dotted key


@dataclass(frozen=True)
class Identity:
    """What the result of a run depends on.

    Args:
        config: values by dotted key, of all keys that are not ignored.
        data: hash of the files of each dataset, by name; empty for generated ones, whose settings are in the config.
        sources: hash of the run that each part of the weights comes from, by part.
    """

    config: Leaves
    data: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """The hash, with today's defaults."""
        content = [changed_leaves(self.config), self.data, self.sources]
        text = json.dumps(content, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]

    def record(self) -> dict[str, Any]:
        """The content for run.json."""
        return {"hash": self.hash, "config": self.config, "data": self.data, "sources": self.sources}

    def changes_from(self, record: Mapping[str, Any]) -> list[str]:
        """What differs from the recorded training, e.g. "SOLVER.BASE_LR = 0.02 (it was 0.01)"; empty for equal ones.

        Args:
            record: content of run.json.
        """
        now, before = changed_leaves(self.config), changed_leaves(plain(record.get("config", {})))
        changes = [
            f"{name} = {_value(name, now)} (it was {_value(name, before)})"
            for name in sorted(now.keys() | before.keys())
            if now.get(name, _default(name)) != before.get(name, _default(name))
        ]
        data, sources = record.get("data", {}), record.get("sources", {})
        changes += [
            f"the files of dataset {name}" for name in sorted(self.data) if self.data[name] != data.get(name, "")
        ]
        changes += [
            f"the run that FROM {part} names"
            for part in sorted(self.sources.keys() | sources.keys())
            if self.sources.get(part) != sources.get(part)
        ]
        if len(changes) > VALUES_SHOWN:
            changes = [*changes[:VALUES_SHOWN], f"and {len(changes) - VALUES_SHOWN} more"]
        return changes


def identities(specs: Sequence[RunSpec]) -> dict[RunKey, Identity]:
    """The identity of each run; files of a dataset are read once.

    Args:
        specs: all runs of a sweep, sources first.

    Raises:
        UserError: an unknown dataset, or a file that cannot be read.
    """
    found: dict[RunKey, Identity] = {}
    hashes: dict[str, str] = {}
    for spec in specs:
        config = plain(dict(leaves_of(spec.cfg)))
        if spec.sources:
            config[WEIGHTS] = spec.base_weights  # not a path below the folder of the sweep
        sources = {"all": found[spec.starts_from].hash} if spec.starts_from else {}
        sources |= {f"{part.part}:{part.source}": found[key].hash for part, key in spec.inherited}
        data = {}
        for name in dict.fromkeys((*spec.cfg.DATASETS.TRAIN, *spec.cfg.DATASETS.TEST)):
            try:
                definitions = dataset_definitions(spec.cfg, name)
            except UserError as error:
                raise UserError(f"variant {spec.key.variant!r}: {error}") from error
            text = json.dumps(definitions, sort_keys=True, default=str)
            if text not in hashes:
                hashes[text] = hash_of_files(name, definitions)
            if hashes[text]:
                data[name] = hashes[text]
        found[spec.key] = Identity(config, data, sources)
    return found


def leaves_of(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a config by dotted key, without the ignored ones.

    Args:
        node: the root, or a section.
        prefix: of the section, with a dot at its end.
    """
    for name, value in node.items():
        key = f"{prefix}{name}"
        if key in IGNORED:
            continue
        if isinstance(value, Mapping) and value:
            yield from leaves_of(value, f"{key}.")
        elif not isinstance(value, Mapping):
            yield key, value


def changed_leaves(leaves: Mapping[str, Any]) -> Leaves:
    """The values that differ from today's defaults, without ignored keys and those that no longer exist.

    Args:
        leaves: by dotted key.
    """
    return {
        name: value
        for name, value in leaves.items()
        if _is_key(name) and not _is_ignored(name) and value != _default(name)
    }


def plain(value: Any) -> Any:
    """A value as JSON returns it: lists for tuples, texts for keys.

    Args:
        value: of a config.
    """
    return json.loads(json.dumps(value, default=str))


def _is_ignored(name: str) -> bool:
    return any(name == ignored or name.startswith(f"{ignored}.") for ignored in IGNORED)


def _is_key(name: str) -> bool:
    parts = name.split(".")
    names = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return name in KEYS_BY_NAME or any(key in KEYS_BY_NAME and KEYS_BY_NAME[key].is_open for key in names)


def _default(name: str) -> Any:
    return plain(KEYS_BY_NAME[name].default) if name in KEYS_BY_NAME else None


def _value(name: str, leaves: Mapping[str, Any]) -> str:
    return repr(leaves.get(name, _default(name)))


# --- data -------------------------------------------------------------------------------------------------------------


def dataset_definitions(cfg: CfgNode, name: str) -> list[dict[str, Any]]:
    """The definition of a dataset, and those of the datasets that it is made of.

    Args:
        cfg: DATASETS.DEFINITIONS.
        name: of the dataset.

    Raises:
        UserError: an unknown dataset.
    """
    names = [name]
    found: list[dict[str, Any]] = []
    while names and len(found) < MAX_DEFINITIONS:
        found.append(dict(definition_of(cfg, names.pop())))
        below = found[-1].get("DATASET")
        names += [below] if isinstance(below, str) else []
    return found


def hash_of_files(name: str, definitions: Sequence[Mapping[str, Any]]) -> str:
    """A hash of the annotation bytes and of the names and sizes of the images; empty for a generated dataset.

    Args:
        name: of the dataset, for messages.
        definitions: see `dataset_definitions`; every field that is an existing path counts.

    Raises:
        UserError: a file that cannot be read.
    """
    digest = hashlib.sha256()
    is_empty = True
    for field_name, path in (item for definition in definitions for item in _paths_of(definition)):
        is_empty = False
        digest.update(field_name.encode())
        try:
            if path.is_dir():
                _add_folder(digest, path)
            else:
                _add_file(digest, path)
        except OSError as error:
            raise UserError(f"dataset {name!r}: {path} cannot be read ({error.strerror}).") from error
    return "" if is_empty else digest.hexdigest()[:HASH_LENGTH]


def _paths_of(definition: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    for field_name, value in sorted(definition.items()):
        if isinstance(value, str) and value and field_name not in NOT_PATHS:
            existing = [path for path in candidate_paths(value) if path.exists()]
            yield from ((field_name, path) for path in existing[:1])


def _add_folder(digest: Any, folder: Path) -> None:
    for place, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            path = Path(place, file)
            size = path.stat().st_size
            digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode("utf-8", "surrogateescape"))
            if path.suffix.lower() not in IMAGE_SUFFIXES and size <= MAX_BYTES:
                _add_file(digest, path)


def _add_file(digest: Any, path: Path) -> None:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
