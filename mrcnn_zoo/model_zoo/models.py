"""Configs and models of the zoo by name."""

import fnmatch
from typing import TYPE_CHECKING

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.model_zoo import index
from mrcnn_zoo.model_zoo.index import ZooEntry, find_entry

if TYPE_CHECKING:
    from torch import nn  # names and configs need no torch


def names(pattern: str = "") -> list[str]:
    """The names of the models, sorted.

    Args:
        pattern: a part of the name, or a whole name with `*` and `?`, in any case; empty for all.
    """
    wanted = pattern.lower() if any(sign in pattern for sign in "*?[") else f"*{pattern.lower()}*"
    return sorted(name for name in index.read_index() if fnmatch.fnmatchcase(name.lower(), wanted))


def info(name: str) -> ZooEntry:
    """The entry of a model: weights, checksum, licence, published results and speed, and how to reproduce it.

    Args:
        name: e.g. "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x", with or without ".yaml".

    Raises:
        UserError: a name that is not in the zoo; the message has the nearest one.
    """
    return find_entry(name)


def get_config(name: str, *, trained: bool = False) -> CfgNode:
    """The frozen config of a model.

    Args:
        name: as for `info`.
        trained: MODEL.WEIGHTS names its trained weights instead of those that its training starts from. The config of
            a model of torchvision is derived from its weights, which are downloaded if needed, and exists only so.

    Raises:
        UserError: a name that is not in the zoo; a model that no config of ours builds, or without published weights;
            a download that fails.
    """
    entry = find_entry(name)
    overrides = list(entry.overrides)
    if trained:
        index.weights_address(entry)
        overrides += ["MODEL.WEIGHTS", index.PREFIX + entry.name]
    if trained and entry.config_from_weights:
        from mrcnn_zoo.evaluation import config_of_weights

        return config_of_weights(index.PREFIX + entry.name, overrides)
    return load_config(index.config_name(entry), overrides)


def get_checkpoint_url(name: str) -> str:
    """The address of a model's trained weights: a URL, or the path of a file that ships with the package.

    Args:
        name: as for `info`.

    Raises:
        UserError: a name that is not in the zoo, or a model without published weights.
    """
    return index.weights_address(find_entry(name))


def get(name: str, *, trained: bool = False) -> "nn.Module":
    """A model on MODEL.DEVICE of its config.

    Args:
        name: as for `info`.
        trained: with its published weights, downloaded if needed, in evaluation mode; otherwise as initialised,
            without the MODEL.WEIGHTS that its training starts from.

    Raises:
        UserError: as for `get_config`; a download that fails or is another file than the one published.
    """
    if not trained:
        from mrcnn_zoo.modeling import build_model

        return build_model(get_config(name))
    from mrcnn_zoo.evaluation import load_trained

    entry = find_entry(name)
    index.weights_address(entry)
    config = None if entry.config_from_weights else index.config_name(entry)
    model, _, _ = load_trained(index.PREFIX + entry.name, config=config, overrides=entry.overrides)
    return model
