"""Configuration: keys with defaults and meanings, YAML files, overrides."""

from mrcnn_zoo.config.files import find_config, packaged_names
from mrcnn_zoo.config.loading import (
    changed_config,
    config_from_settings,
    config_from_text,
    load_config,
    resolve_config,
)
from mrcnn_zoo.config.node import CfgNode, default_config
from mrcnn_zoo.config.rules import choice_of

__all__ = [
    "CfgNode",
    "changed_config",
    "choice_of",
    "config_from_settings",
    "config_from_text",
    "default_config",
    "find_config",
    "load_config",
    "packaged_names",
    "resolve_config",
]
