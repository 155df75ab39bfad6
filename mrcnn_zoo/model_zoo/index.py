"""The index of published models, `model_zoo/index.json`, which ships with the package.

It is read in a low layer, because both checkpoints and the zoo find models in it.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrcnn_zoo.config import files
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registry import closest_name

INDEX_FILE = "index.json"
PREFIX = "zoo://"  # zoo://NAME names the weights of a model


@dataclass(frozen=True)
class ZooEntry:
    """One model of the zoo.

    Args:
        name: e.g. "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x".
        source: its publisher, "Detectron2", "torchvision" or "mrcnn_zoo".
        config: name of the config that builds it, without suffix; None where there is none.
        config_from_weights: the config is derived from the weights, which are another project's.
        overrides: KEY, VALUE, ... on top of either config.
        reason: why there is no config.
        weights: address, or path of a file that ships beside the index; None where there are none.
        md5: of the weights, or its first digits.
        sha256: the same.
        licence: of the weights.
        results: published, e.g. {"bbox/AP": 38.6}.
        seconds_per_iteration: of training on 8 GPUs.
        seconds_per_image: of inference on one GPU.
        memory_gb: of training, per GPU.
        reproduce: the command that trains it.
        notes: sentences about it.
    """

    name: str
    source: str
    config: str | None
    config_from_weights: bool = False
    overrides: tuple[Any, ...] = ()
    reason: str = ""
    weights: str | None = None
    md5: str = ""
    sha256: str = ""
    licence: str = ""
    results: dict[str, float] = field(default_factory=dict)
    seconds_per_iteration: float | None = None
    seconds_per_image: float | None = None
    memory_gb: float | None = None
    reproduce: str | None = None
    notes: str = ""

    @property
    def is_buildable(self) -> bool:
        """Whether there is a config for the published weights, in the package or derived from them."""
        return self.config is not None or self.config_from_weights

    @property
    def is_shipped(self) -> bool:
        """Whether the weights ship with the package."""
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
    """A model by its name.

    Args:
        name: also with `zoo://` before it or `.yaml` after it.

    Raises:
        UserError: a name that is not in the zoo; the message has the nearest one.
    """
    models, stem = read_index(), name.removeprefix(PREFIX).removesuffix(files.SUFFIX)
    if stem not in models:
        raise UserError(f"the model zoo has no {name!r}.{_nearest(stem, models)} `mrcnn-zoo zoo list` shows all names.")
    return models[stem]


def has_weights(name: str) -> bool:
    """Whether the zoo has weights of a model.

    Args:
        name: exact, without `zoo://`.
    """
    entry = read_index().get(name)
    return entry is not None and bool(entry.weights)


def weights_address(entry: ZooEntry) -> str:
    """The URL of a model's weights, or the path of the file that ships with the package.

    Args:
        entry: of the model.

    Raises:
        UserError: a model without published weights.
    """
    if not entry.weights:
        how = f"Train it: {entry.reproduce} - or get the model untrained." if entry.reproduce else entry.notes
        raise UserError(f"{entry.name} has no published weights yet. {how}".strip())
    return str(zoo_folder() / entry.weights) if entry.is_shipped else entry.weights


def config_name(entry: ZooEntry) -> str:
    """The name of the config that builds a model, below the entry's overrides.

    Args:
        entry: of the model.

    Raises:
        UserError: no config of ours builds the model, or its config is derived from its weights.
    """
    if entry.config_from_weights:
        raise UserError(
            f"the config of {entry.name} is derived from its weights, so the model needs them: call with trained=True, "
            f"or name {PREFIX}{entry.name} as weights and no config."
        )
    if entry.config is None:
        raise UserError(f"the zoo has weights of {entry.name}, but no config that builds it: {entry.reason}.")
    return entry.config


def zoo_folder() -> Path:
    """The folder of the index: the checkout's, or in an installed package its own copy."""
    is_checkout = (files.CHECKOUT / "pyproject.toml").is_file()
    return files.CHECKOUT / "model_zoo" if is_checkout else files.PACKAGE_FOLDER / "_model_zoo"


def _nearest(stem: str, models: Iterable[str]) -> str:
    """` Did you mean ...?`; a name without a folder is compared with the last parts of the names.

    Where no name is close, the first one that contains it is taken, as `quickstart` in `Quickstart/...`.
    """
    known: dict[str, str] = {}
    for name in models:  # of equal last parts the first, which is the best known
        known.setdefault(name if "/" in stem else name.rpartition("/")[2], name)
    containing = (name for name in known if stem and stem.lower() in known[name].lower())
    nearest = closest_name(stem, known) or next(containing, "")
    return f" Did you mean {known[nearest]!r}?" if nearest else ""
