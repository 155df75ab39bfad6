"""A Mask R-CNN of a few thousand weights, built as any other from a config, and a scene to try its heads on."""

from collections.abc import Callable
from typing import Any

import pytest

from mrcnn_zoo.config import CfgNode, load_config
from support.scenes import RegionScene
from support.small_models import BASE_FPN, TINY_RESNET_18

SMALL = (
    *TINY_RESNET_18,
    *("MODEL.MASK_ON", True, "MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.ROI_MASK_HEAD.NUM_CONV", 2),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 50, "MODEL.RPN.POST_NMS_TOPK_TEST", 50),
    *("MODEL.ROI_HEADS.NUM_CLASSES", 5, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 32),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "TEST.DETECTIONS_PER_IMAGE", 20),
)


@pytest.fixture(scope="session")
def small_cfg() -> Callable[..., CfgNode]:
    """(key, value, ...) overrides -> the config of a small Mask R-CNN with them."""

    def load(*overrides: Any) -> CfgNode:
        return load_config(BASE_FPN, [*SMALL, *overrides])

    return load


@pytest.fixture(scope="session")
def scene() -> RegionScene:
    """What region heads are trained on."""
    return RegionScene()
