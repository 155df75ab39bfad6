"""Names of the user's own datasets in DATASETS.TRAIN and TEST: paths, entries of DEFINITIONS, and their sides.

`data/cells:val` is the validation side of the files in `data/cells`. A training set without a test set is divided.
"""

import os
from collections.abc import Mapping

from mrcnn_zoo.config.known_datasets import KNOWN_DATASETS
from mrcnn_zoo.config.node import CfgNode

TRAIN, TEST = "DATASETS.TRAIN", "DATASETS.TEST"
VAL_FRACTION = "DATASETS.DEFAULTS.VAL_FRACTION"
SIDES = ("train", "val", "test", "all")
AUTO = "auto"


def split_name(config: CfgNode, name: str) -> tuple[str, str]:
    """The dataset of a name, and the side after its colon; "" without one.

    Args:
        config: DATASETS.DEFINITIONS.
        name: in DATASETS.TRAIN or TEST.
    """
    base, colon, side = name.rpartition(":")
    if name in config.DATASETS.DEFINITIONS or not colon or side not in SIDES:
        return name, ""
    return base, side


def is_own(config: CfgNode, name: str) -> bool:
    """Whether a name is a path, or an entry of DEFINITIONS whose format is detected.

    Args:
        config: DATASETS.DEFINITIONS and DEFAULTS.
        name: in DATASETS.TRAIN or TEST.
    """
    base, _ = split_name(config, name)
    definition = config.DATASETS.DEFINITIONS.get(base)
    if definition is not None:
        return isinstance(definition, Mapping) and definition.get("FORMAT", AUTO) == AUTO
    return base not in KNOWN_DATASETS and ("/" in base or os.sep in base or os.path.exists(os.path.expanduser(base)))


def is_divided(config: CfgNode) -> bool:
    """Whether the training sets are the user's own, without a chosen side, so that their other side is the test set.

    Args:
        config: DATASETS.
    """
    section = config.DATASETS
    return (
        bool(section.TRAIN)
        and section.DEFAULTS.VAL_FRACTION > 0
        and all(
            is_own(config, name) and not split_name(config, name)[1] and not _chosen_side(config, name)
            for name in section.TRAIN
        )
    )


def _chosen_side(config: CfgNode, name: str) -> bool:
    definition = config.DATASETS.DEFINITIONS.get(name, {})
    return definition.get("SPLIT", config.DATASETS.DEFAULTS.SPLIT) != AUTO


def problem_of_foreign_test_set(config: CfgNode) -> str:
    """The mistake of a built-in test set below the user's own training set, e.g. of a base file; empty for none.

    Args:
        config: the root.
    """
    test = list(config.DATASETS.TEST)
    is_of_base = config.closeness_of(TEST) < config.closeness_of(TRAIN)
    if not (test and is_of_base and is_divided(config) and all(name in KNOWN_DATASETS for name in test)):
        return ""
    return f"{TEST} = {test} is not of {TRAIN} = {list(config.DATASETS.TRAIN)}."


def fill_val_side(config: CfgNode) -> None:
    """Set an empty DATASETS.TEST to the validation sides of the user's own training sets.

    Args:
        config: mutable.
    """
    if is_divided(config) and not config.DATASETS.TEST:
        config.DATASETS.TEST = [f"{name}:val" for name in config.DATASETS.TRAIN]
