"""A Mask R-CNN of a few thousand weights, built as any other from a config."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mrcnn_zoo.config import CfgNode, load_config

BASE = Path(__file__).resolve().parents[2] / "configs" / "Base-RCNN-FPN.yaml"
SMALL = (
    *("MODEL.DEVICE", "cpu"),
    *("MODEL.MASK_ON", True),
    *("MODEL.RESNETS.DEPTH", 18),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
    *("MODEL.FPN.OUT_CHANNELS", 8),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 50),
    *("MODEL.RPN.POST_NMS_TOPK_TEST", 50),
    *("MODEL.ROI_HEADS.NUM_CLASSES", 5),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 32),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 16),
    *("MODEL.ROI_MASK_HEAD.NUM_CONV", 2),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 8),
    *("TEST.DETECTIONS_PER_IMAGE", 20),
)


@pytest.fixture(scope="session")
def small_cfg() -> Callable[..., CfgNode]:
    """(key, value, ...) overrides -> the config of a small Mask R-CNN with them."""

    def load(*overrides: Any) -> CfgNode:
        return load_config(BASE, [*SMALL, *overrides])

    return load
