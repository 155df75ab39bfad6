"""From a YAML file and overrides to the frozen config that builders read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrcnn_zoo.config.node import CfgNode, default_config
from mrcnn_zoo.config.rules import check_numbers
from mrcnn_zoo.config.safe_yaml import read_yaml
from mrcnn_zoo.config.unbuilt import refuse_unbuilt, warn_of_inert


def load_config(path: str | Path | None = None, overrides: Sequence[Any] = ()) -> CfgNode:
    """The frozen config of a YAML file over the defaults, with `KEY VALUE` or `KEY=VALUE` overrides on top.

    Args:
        path: of the file, or the name of a config of the package; None for the defaults alone.
        overrides: e.g. `["SOLVER.BASE_LR", "0.01", "MODEL.MASK_ON=True"]`; values are texts or Python values.

    Raises:
        UserError: for whatever is wrong in the file or the overrides, saying where.
    """
    config = resolve_config(path, overrides)
    check_config(config)
    warn_of_inert(config)
    config.freeze()
    return config


def check_config(config: CfgNode) -> None:
    """Refuse keys of parts that are not built, and numbers that nothing can be computed with.

    Raises:
        UserError: with the keys, their values and where they were set.
    """
    refuse_unbuilt(config)
    check_numbers(config)


def resolve_config(path: str | Path | None = None, overrides: Sequence[Any] = ()) -> CfgNode:
    """As `load_config`, but mutable, and with keys of parts that are not built yet: to look at, not to build from."""
    config = default_config()
    if path is not None:
        config.merge_from_file(path)
    config.merge_from_list(overrides)
    return config


def config_from_text(text: str, *, source: str = "text") -> CfgNode:
    """The frozen config of a YAML text without `_BASE_`, such as `dump()` gives and checkpoints keep.

    Args:
        text: the YAML.
        source: what messages call it.
    """
    config = default_config()
    config.assign(read_yaml(text, source))
    check_config(config)
    config.freeze()
    return config
