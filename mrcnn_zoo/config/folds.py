"""Rules of the keys that divide the training images: DATASETS.FOLDS, FOLD, GROUP and TEST."""

import re

from mrcnn_zoo.config.node import CfgNode

FOLDS, FOLD, GROUP = "DATASETS.FOLDS", "DATASETS.FOLD", "DATASETS.GROUP"
TEST = "DATASETS.TEST"


def problem_of_fold(config: CfgNode) -> str:
    """The mistake in DATASETS.FOLD; empty for none.

    Args:
        config: the root.
    """
    fold, folds = config.DATASETS.FOLD, config.DATASETS.FOLDS
    if not folds or fold < folds:
        return ""
    return f"{FOLD} = {fold} must be below {FOLDS} = {folds}: folds are counted from 0."


def problem_of_group(config: CfgNode) -> str:
    """The mistake in DATASETS.GROUP; empty for none.

    Args:
        config: the root.
    """
    group = config.DATASETS.GROUP
    try:
        has_name = not group or re.compile(group).groups > 0
    except re.error as error:
        return f"{GROUP} = {group!r} is no regular expression: {error}."
    if has_name:
        return ""
    return f"{GROUP} = {group!r} has no group in parentheses, which is the name, e.g. '^([^_/]+)'."


def problem_of_test_set(config: CfgNode) -> str:
    """The mistake in DATASETS.TEST with folds; empty for none. One set closer to the command line is allowed.

    Args:
        config: the root.
    """
    train, test = list(config.DATASETS.TRAIN), list(config.DATASETS.TEST)
    is_fold = not test or set(test) == set(train)
    if not config.DATASETS.FOLDS or is_fold or config.closeness_of(TEST) > config.closeness_of(FOLDS):
        return ""
    return (
        f"{TEST} = {test} with {FOLDS} = {config.DATASETS.FOLDS}: the held-out images of the training datasets are the"
        f" test set. Remove {TEST}, set it to {train}, or set {FOLDS} to 0."
    )


def fill_test_set(config: CfgNode) -> None:
    """Set an empty DATASETS.TEST to the training datasets, of which the fold is the test set.

    Args:
        config: mutable.
    """
    if config.DATASETS.FOLDS and not config.DATASETS.TEST:
        config.DATASETS.TEST = list(config.DATASETS.TRAIN)
