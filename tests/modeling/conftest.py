"""A Mask R-CNN of a few thousand weights, built as any other from a config, and a scene to try its heads on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.structures import BoxedBitmaps, FeatureSpec, Proposals, Targets

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


class RegionScene:
    """Two objects of classes 3 and 4 that fill their boxes, proposals, and maps of a pyramid."""

    size = (64, 96)
    specs = {  # noqa: RUF012
        name: FeatureSpec(channels=8, stride=stride) for name, stride in (("p2", 4), ("p3", 8), ("p4", 16), ("p5", 32))
    }
    boxes = torch.tensor([[10.0, 10, 40, 50], [50, 5, 90, 60]])
    keypoint_settings = (
        *("MODEL.KEYPOINT_ON", True),
        *("MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 3),
        *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [8, 8]),
    )

    def features(self, images: int) -> dict[str, Tensor]:
        """Random maps that take gradients."""
        generator = torch.Generator().manual_seed(0)
        height, width = self.size
        return {
            name: torch.randn(
                (images, spec.channels, height // spec.stride, width // spec.stride), generator=generator
            ).requires_grad_()
            for name, spec in self.specs.items()
        }

    def targets(self, count: int = 2) -> Targets:
        """The first objects, with keypoints in two corners and the middle."""
        boxes = self.boxes[:count]
        bitmaps = torch.zeros(count, *self.size, dtype=torch.bool)
        for bitmap, (x0, y0, x1, y1) in zip(bitmaps, boxes.int().tolist(), strict=True):
            bitmap[y0:y1, x0:x1] = True
        start, end = boxes[:, :2], boxes[:, 2:]
        points = torch.stack((start, end, (start + end) / 2), dim=1)
        return Targets(
            self.size,
            boxes,
            torch.arange(count) + 3,
            masks=BoxedBitmaps.from_full(bitmaps),
            keypoints=torch.cat((points, torch.full((count, 3, 1), 2.0)), dim=2),
        )

    def proposals(self, count: int, *, seed: int = 0) -> Proposals:
        """Random boxes inside the image."""
        generator = torch.Generator().manual_seed(seed)
        corners = torch.rand((count, 2), generator=generator) * torch.tensor([60.0, 30.0])
        sides = 5 + torch.rand((count, 2), generator=generator) * 29
        return Proposals(self.size, torch.cat((corners, corners + sides), dim=1), torch.zeros(count))


@pytest.fixture(scope="session")
def scene() -> RegionScene:
    """What region heads are trained on."""
    return RegionScene()
