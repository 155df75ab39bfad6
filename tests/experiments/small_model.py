"""The smallest config that torchvision's Mask R-CNN can be built for."""

from typing import Any

import numpy as np
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


def small_config(*overrides: Any) -> CfgNode:
    return load_config(BASE, [*SMALL, *overrides])


def random_samples(count: int = 2, size: tuple[int, int] = (96, 128)) -> list[Sample]:
    rng = np.random.default_rng(0)
    coarse = [rng.integers(0, 255, (3, 8, 8), dtype=np.uint8).repeat(16, 1).repeat(16, 2) for _ in range(count)]
    return [
        Sample(torch.from_numpy(np.ascontiguousarray(image[:, : size[0], : size[1]])), number, size)
        for number, image in enumerate(coarse)
    ]
