"""The configs of the package with their trained weights, by name."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrcnn_zoo.config import CfgNode, load_config, locations
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registry import did_you_mean

if TYPE_CHECKING:
    from torch import nn  # names and configs are had without it

INDEX_FILE = "index.json"


def get_config(name: str) -> CfgNode:
    """The frozen config of a model.

    Args:
        name: e.g. "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x", with or without ".yaml".

    Raises:
        UserError: a name that is not in the zoo.
    """
    _entry(name)
    return load_config(_stem(name))


def get_checkpoint_url(name: str) -> str:
    """The address of a model's trained weights.

    Raises:
        UserError: a name that is not in the zoo, or a model without published weights.
    """
    entry = _entry(name)
    if not entry["weights"]:
        raise UserError(
            f"{_stem(name)} has no published weights yet. Train it: {entry['reproduce']} - or get the model untrained."
        )
    return entry["weights"]


def get(name: str, *, trained: bool = False) -> "nn.Module":
    """A model on MODEL.DEVICE of its config.

    Args:
        name: as for `get_config`.
        trained: with its published weights, downloaded when needed, in evaluation mode; else as initialised, without
            the MODEL.WEIGHTS that its training starts from.

    Raises:
        UserError: as for `get_checkpoint_url`; a download that fails or is another file than the one published.
    """
    if not trained:
        from mrcnn_zoo.modeling import build_model

        return build_model(get_config(name))
    from mrcnn_zoo.evaluation import load_trained

    weights = _checked_weights(get_checkpoint_url(name), _entry(name)["sha256"])
    model, _, _ = load_trained(weights, config=_stem(name))
    return model


def names() -> list[str]:
    """The names of all models, sorted."""
    return sorted(_index())


def _checked_weights(url: str, sha256: str | None) -> Path:
    from mrcnn_zoo.checkpoint.sources import local_path

    path = local_path(url)
    if not path.is_file():
        raise UserError(f"the weights {url} do not exist.")
    if sha256:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != sha256:
            raise UserError(
                f"{path} is not the file that was published as {url}: its SHA-256 is {found}, not {sha256}. "
                f"Delete it and try again."
            )
    return path


def _entry(name: str) -> dict[str, Any]:
    models = _index()
    if _stem(name) not in models:
        raise UserError(
            f"the model zoo has no {name!r}.{did_you_mean(_stem(name), models)} "
            f"mrcnn_zoo.model_zoo.list() gives all names."
        )
    return models[_stem(name)]


def _stem(name: str) -> str:
    return name.removesuffix(locations.SUFFIX)


def _index() -> dict[str, dict[str, Any]]:
    """Name of a config without suffix -> weights, sha256, results, reproduce and notes."""
    # As for configs: a checkout's own folder, and not some other `model_zoo` beside site-packages.
    is_checkout = (locations.CHECKOUT / "pyproject.toml").is_file()
    folder = locations.CHECKOUT / "model_zoo" if is_checkout else locations.PACKAGE_FOLDER / "_model_zoo"
    path = folder / INDEX_FILE
    if not path.is_file():
        raise UserError(f"{path} is missing: the package is not installed completely. Install it again.")
    return json.loads(path.read_text(encoding="utf-8"))["models"]
