"""The list of published models: `model_zoo/index.json`, which travels with the package.

It is read here, at the bottom of the layers, because checkpoints look names up in it as well as the zoo itself.
"""

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrcnn_zoo.config import files
from mrcnn_zoo.errors import UserError

INDEX_FILE = "index.json"
PREFIX = "zoo://"  # zoo://NAME stands for the weights of a model wherever weights are named


@dataclass(frozen=True)
class ZooEntry:
    """One model of the zoo."""

    name: str
    source: str  # who published it: "Detectron2", "torchvision", "mrcnn_zoo"
    config: str | None  # name of the config that builds it, without suffix
    is_told_by_weights: bool = False  # that have their config read off them, being another project's
    overrides: tuple[Any, ...] = ()  # KEY, VALUE, ... on top of either config
    reason: str = ""  # why there is no config at all
    weights: str | None = None  # address, or path of a file that ships beside the index
    md5: str = ""  # of the weights, or how it begins
    sha256: str = ""  # the same
    licence: str = ""  # of the weights
    results: dict[str, float] = field(default_factory=dict)  # published, e.g. {"bbox/AP": 38.6}
    seconds_per_iteration: float | None = None  # of training, 8 GPUs
    seconds_per_image: float | None = None  # of inference, 1 GPU
    memory_gb: float | None = None  # of training, on each GPU
    reproduce: str | None = None  # command
    notes: str = ""

    @property
    def is_buildable(self) -> bool:
        """Whether the published model can be had, with a config of the package or with that of its weights."""
        return self.config is not None or self.is_told_by_weights

    @property
    def is_shipped(self) -> bool:
        """Whether the weights are a file that came with the package."""
        return self.weights is not None and "://" not in self.weights


def read_index() -> dict[str, ZooEntry]:
    """All models by name, in the order of the file."""
    path = zoo_folder() / INDEX_FILE
    if not path.is_file():
        raise UserError(f"{path} is missing: the package is not installed completely. Install it again.")
    models = json.loads(path.read_text(encoding="utf-8"))["models"]
    return {
        name: ZooEntry(name=name, **{**fields, "overrides": tuple(fields.get("overrides", ()))})
        for name, fields in models.items()
    }


def find_entry(name: str) -> ZooEntry:
    """A model by its name, with or without `zoo://` in front and `.yaml` behind.

    Raises:
        UserError: a name that is not in the zoo, with the nearest one.
    """
    models, stem = read_index(), name.removeprefix(PREFIX).removesuffix(files.SUFFIX)
    if stem not in models:
        raise UserError(f"the model zoo has no {name!r}.{_nearest(stem, models)} `mrcnn-zoo zoo list` shows all names.")
    return models[stem]


def has_weights(name: str) -> bool:
    """Whether the zoo has weights under exactly this name."""
    entry = read_index().get(name)
    return entry is not None and bool(entry.weights)


def weights_address(entry: ZooEntry) -> str:
    """Where a model's weights are: a URL, or the path of the file that ships with the package.

    Raises:
        UserError: a model without published weights.
    """
    if not entry.weights:
        how = f"Train it: {entry.reproduce} - or get the model untrained." if entry.reproduce else entry.notes
        raise UserError(f"{entry.name} has no published weights yet. {how}".strip())
    return str(zoo_folder() / entry.weights) if entry.is_shipped else entry.weights


def config_name(entry: ZooEntry) -> str:
    """The name of the config that builds a model, with the entry's overrides on top.

    Raises:
        UserError: a model that no config of ours builds, or whose weights tell it.
    """
    if entry.is_told_by_weights:
        raise UserError(
            f"the config of {entry.name} is read off its weights, so the model cannot be had without them: ask for it "
            f"with trained=True, or name {PREFIX}{entry.name} as weights and no config."
        )
    if entry.config is None:
        raise UserError(f"the zoo has weights of {entry.name}, but no config that builds it: {entry.reason}.")
    return entry.config


def zoo_folder() -> Path:
    """The folder of the index: a checkout's own, and not some other `model_zoo` beside site-packages."""
    is_checkout = (files.CHECKOUT / "pyproject.toml").is_file()
    return files.CHECKOUT / "model_zoo" if is_checkout else files.PACKAGE_FOLDER / "_model_zoo"


def _nearest(stem: str, models: Iterable[str]) -> str:
    """` Did you mean ...?`; a name without a folder is compared with what stands behind the folders.

    Where no name is like it, the first that has it as a part is meant, as `quickstart` in `Quickstart/...`.
    """
    known: dict[str, str] = {}
    for name in models:  # of equal ones the first, which is the best known
        known.setdefault(name if "/" in stem else name.rpartition("/")[2], name)
    near = difflib.get_close_matches(stem, known, n=1)
    near = near or [name for name in known if stem and stem.lower() in known[name].lower()]
    return f" Did you mean {known[near[0]]!r}?" if near else ""
