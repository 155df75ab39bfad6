"""CfgNode: a YACS node with our defaults, safe YAML, `_BASE_` files and overrides."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode as YacsNode

from mrcnn_zoo.config.defaults import ALL_KEYS


class CfgNode(YacsNode):
    """One level of the configuration; leaves are plain Python values."""


def default_config() -> CfgNode:
    """A fresh, mutable config with every key at its default."""
    root = CfgNode()
    for key in ALL_KEYS:
        node = root
        *parents, leaf = key.name.split(".")
        for part in parents:
            node = node.setdefault(part, CfgNode())
        node[leaf] = CfgNode(new_allowed=True) if key.default == {} else copy.deepcopy(key.default)
    return root


def load_config(path: str | Path | None = None, overrides: Sequence[Any] = ()) -> CfgNode:
    """The frozen config of a YAML file over the defaults, with `KEY VALUE` or `KEY=VALUE` overrides on top."""
    config = default_config()
    if path is not None:
        config.merge_from_file(str(path))
    config.merge_from_list(list(overrides))
    config.freeze()
    return config
