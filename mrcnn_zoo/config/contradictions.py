"""Keys that name one thing in two ways: where they contradict each other, the one set closer to the user counts."""

import logging
from typing import Any

from mrcnn_zoo.config.node import DEFAULT, CfgNode

BOX_HEAD = "MODEL.ROI_BOX_HEAD"
LOSS_TYPE, SIGMOID, FEDERATED = f"{BOX_HEAD}.CLS_LOSS_TYPE", f"{BOX_HEAD}.USE_SIGMOID_CE", f"{BOX_HEAD}.USE_FED_LOSS"
CLASSES, POINT_CLASSES = "MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.POINT_HEAD.NUM_CLASSES"
SWITCHED = ("sigmoid", "federated")  # the types that the switches mean

logger = logging.getLogger(__name__)


def settle_contradictions(config: CfgNode) -> None:
    """Give up, and name, what was set less close than a key that contradicts it; equally close keys stay as they are.

    Lengths of training are chosen by the run, as some of them are not contradictions there (`choose_length`).

    Args:
        config: mutable.
    """
    _settle_classification(config)
    _settle_point_classes(config)


def _settle_classification(config: CfgNode) -> None:
    switches = max(config.closeness_of(SIGMOID), config.closeness_of(FEDERATED))
    typed = config.closeness_of(LOSS_TYPE)
    head = config.MODEL.ROI_BOX_HEAD
    if config.closeness_of(SIGMOID) > config.closeness_of(FEDERATED) and head.USE_FED_LOSS and not head.USE_SIGMOID_CE:
        _give_up(config, FEDERATED, False, counts=SIGMOID)
    meant = "federated" if head.USE_FED_LOSS else "sigmoid"
    if typed > switches and head.USE_SIGMOID_CE and meant != head.CLS_LOSS_TYPE:
        for switch in (SIGMOID, FEDERATED):
            if config.value_of(switch):
                _give_up(config, switch, False, counts=LOSS_TYPE)
    elif switches > typed:
        closer = SIGMOID if config.closeness_of(SIGMOID) == switches else FEDERATED
        is_contradicted = (
            head.CLS_LOSS_TYPE not in ("softmax", meant)
            if head.USE_SIGMOID_CE
            else (config.closeness_of(SIGMOID) > typed and head.CLS_LOSS_TYPE in SWITCHED)
        )
        if is_contradicted:
            _give_up(config, LOSS_TYPE, "softmax", counts=closer)


def _settle_point_classes(config: CfgNode) -> None:
    """PointRend's point head has the classes of the region heads where these were set closer."""
    count = config.MODEL.ROI_HEADS.NUM_CLASSES
    is_contradicted = count != config.MODEL.POINT_HEAD.NUM_CLASSES and has_point_head(config)
    if is_contradicted and config.closeness_of(CLASSES) > config.closeness_of(POINT_CLASSES):
        if config.origin_of(POINT_CLASSES) == DEFAULT:
            config.MODEL.POINT_HEAD.NUM_CLASSES = count
        else:
            _give_up(config, POINT_CLASSES, count, counts=CLASSES)


def has_point_head(config: CfgNode) -> bool:
    """Whether the model has PointRend's point head."""
    mask_head = config.MODEL.ROI_MASK_HEAD
    return config.MODEL.MASK_ON and mask_head.NAME == "PointRendMaskHead" and mask_head.POINT_HEAD_ON


def _give_up(config: CfgNode, name: str, value: Any, *, counts: str) -> None:
    logger.warning(
        "%s = %s (%s) does not count: %s = %s (%s) contradicts it and was set closer",
        name,
        config.value_of(name),
        config.origin_of(name),
        counts,
        config.value_of(counts),
        config.origin_of(counts),
    )
    section, _, leaf = name.rpartition(".")
    config.value_of(section)[leaf] = value
