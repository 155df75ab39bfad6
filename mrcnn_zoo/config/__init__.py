"""Configuration: keys with defaults and meanings, YAML files, overrides."""

from mrcnn_zoo.config.node import CfgNode, default_config, load_config

__all__ = ["CfgNode", "default_config", "load_config"]
