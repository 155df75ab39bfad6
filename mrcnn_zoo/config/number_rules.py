"""Numbers of the config that nothing can be computed with, refused by their keys; here the rules for models."""

import math
from collections.abc import Callable
from typing import Any

from mrcnn_zoo.config.defaults import ALL_KEYS
from mrcnn_zoo.config.node import CfgNode
from mrcnn_zoo.errors import UserError

Rule = tuple[Callable[[Any], bool], str]  # what a value must satisfy, and that in words


def _is_scales(value: Any) -> bool:
    return len(value) == 4 and all(0 < scale < math.inf for scale in value)


SHARE: Rule = (lambda value: 0 <= value <= 1, "must lie in [0, 1]")
AT_LEAST_ONE: Rule = (lambda value: value >= 1, "must be at least 1")
NOT_NEGATIVE: Rule = (lambda value: value >= 0, "must not be negative")
SCALES: Rule = (_is_scales, "must be four numbers above 0, of dx, dy, dw and dh")
SCALES_OF_STAGES: Rule = (lambda value: all(map(_is_scales, value)), "must be four numbers above 0 for each stage")

CASCADE_SCALES = "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS"
# By the last part of the keys of MODEL, in whichever section they stand.
RULES: dict[str, Rule] = {
    "POSITIVE_FRACTION": SHARE,
    "NMS_THRESH": SHARE,
    "NMS_THRESH_TEST": SHARE,
    "BATCH_SIZE_PER_IMAGE": AT_LEAST_ONE,
    "PRE_NMS_TOPK_TRAIN": AT_LEAST_ONE,
    "PRE_NMS_TOPK_TEST": AT_LEAST_ONE,
    "POST_NMS_TOPK_TRAIN": AT_LEAST_ONE,
    "POST_NMS_TOPK_TEST": AT_LEAST_ONE,
    "POOLER_RESOLUTION": AT_LEAST_ONE,
    "POOLER_SAMPLING_RATIO": NOT_NEGATIVE,
    "NUM_CLASSES": AT_LEAST_ONE,
    "NUM_KEYPOINTS": AT_LEAST_ONE,
    "OUT_CHANNELS": AT_LEAST_ONE,
    "CONV_DIM": AT_LEAST_ONE,
    "FC_DIM": AT_LEAST_ONE,
    "NUM_CONV": NOT_NEGATIVE,
    "NUM_FC": NOT_NEGATIVE,
    "BBOX_REG_WEIGHTS": SCALES,
}


def check_numbers(cfg: CfgNode) -> None:
    """Hold the numbers of MODEL against the rules.

    Raises:
        UserError: with the key and its value.
    """
    for key in ALL_KEYS:
        if not key.name.startswith("MODEL.") or not key.is_built:
            continue
        rule = SCALES_OF_STAGES if key.name == CASCADE_SCALES else RULES.get(key.name.rsplit(".", 1)[-1])
        if rule is not None:
            check_number(cfg, key.name, rule)


def check_number(cfg: CfgNode, name: str, rule: Rule) -> None:
    """Hold the value of one key against a rule.

    Raises:
        UserError: with the key and its value.
    """
    is_allowed, words = rule
    value = cfg.value_of(name)
    if not is_allowed(value):
        raise UserError(f"{name} = {value} {words}.")
