"""A small model that can be compared with torchvision's Mask R-CNN."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.structures import Sample

BASE = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
SMALL: list[Any] = [
    *("MODEL.DEVICE", "cpu", "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
    *("MODEL.RESNETS.STRIDE_IN_1X1", False, "MODEL.FPN.OUT_CHANNELS", 32, "MODEL.ROI_HEADS.NUM_CLASSES", 7),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 32, "MODEL.ROI_MASK_HEAD.CONV_DIM", 16),
    *("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlign", "MODEL.ROI_MASK_HEAD.POOLER_TYPE", "ROIAlign"),
    # torchvision rounds the corners of its anchors to whole pixels; squares of these sizes have such corners.
    *("MODEL.ANCHOR_GENERATOR.SIZES", [[16], [32], [64], [128], [256]]),
    *("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[1.0]]),
]


@pytest.fixture(scope="session")
def small_config() -> Callable[..., CfgNode]:
    """Function of overrides that returns the config of the small model."""
    return lambda *overrides: load_config(BASE, [*SMALL, *overrides])


@pytest.fixture(scope="session")
def blocky_samples() -> list[Sample]:
    """Two images of coloured squares, without targets."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (3, 6, 8), dtype=np.uint8).repeat(16, 1).repeat(16, 2) for _ in range(2)]
    return [Sample(torch.from_numpy(image), number, (96, 128)) for number, image in enumerate(images)]
