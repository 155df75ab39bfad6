"""Recordings of small models with random weights, for X-ray pages."""

from typing import Any

import numpy as np
import torch
from torch import nn

from mrcnn_zoo.config import load_config
from mrcnn_zoo.data.records import ImageRecord, InstanceRecord
from mrcnn_zoo.inference.image_detector import ImageDetector
from mrcnn_zoo.inference.image_inputs import LoadedImage
from mrcnn_zoo.inference.tta import build_augmented_detector, build_prediction_mapper
from mrcnn_zoo.inspection.xray.data import XrayImage
from mrcnn_zoo.inspection.xray.page import xray_image
from mrcnn_zoo.structures import Batch, Proposals
from support.small_models import BASE_FPN, TINY_RESNET_18, varied_model

SMALL = (
    *TINY_RESNET_18,
    *("MODEL.MASK_ON", True, "MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.ROI_MASK_HEAD.NUM_CONV", 1),
    *("MODEL.RPN.PRE_NMS_TOPK_TEST", 200, "MODEL.RPN.POST_NMS_TOPK_TEST", 40, "MODEL.ROI_HEADS.NUM_CLASSES", 5),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.1, "TEST.DETECTIONS_PER_IMAGE", 20, "INPUT.MIN_SIZE_TEST", 120),
)
NAMES = ("a", "b", "c", "d", "e")
SIZE = (60, 70)  # (height, width) of the image file; the network gets 120 x 140, padded to 128 x 160
OUTLINE = [20.0, 20.0, 40.0, 20.0, 40.0, 50.0, 20.0, 50.0]
OBJECTS = (InstanceRecord((20.0, 20.0, 40.0, 50.0), 1, [OUTLINE]), InstanceRecord((1.0, 1.0, 3.0, 3.0), 0))
KINDS: dict[str, tuple[Any, ...]] = {
    "StandardROIHeads": (),
    "CascadeROIHeads": ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
    "Res5ROIHeads": (
        *("MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "MODEL.ROI_HEADS.IN_FEATURES", ["p4"]),
        *("MODEL.RESNETS.RES2_OUT_CHANNELS", 2, "MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPool"),
    ),
    "RetinaNet": (
        *("MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.MASK_ON", False, "MODEL.RETINANET.NUM_CLASSES", 5),
        *("MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone"),
        *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"], "MODEL.RETINANET.TOPK_CANDIDATES_TEST", 30),
        *("MODEL.ANCHOR_GENERATOR.SIZES", [[16, 20], [32, 40], [64, 80], [128, 160], [256, 320]]),
    ),
    "ProposalNetwork": ("MODEL.META_ARCHITECTURE", "ProposalNetwork", "MODEL.MASK_ON", False),
    "given proposals": ("MODEL.PROPOSAL_GENERATOR.NAME", f"{__name__}:build_fixed_proposals"),
    "no stages": (
        *("MODEL.META_ARCHITECTURE", "ProposalNetwork", "MODEL.MASK_ON", False),
        *("MODEL.PROPOSAL_GENERATOR.NAME", "SlidingWindow"),
    ),
    "no regions": ("MODEL.PROPOSAL_GENERATOR.MIN_SIZE", 1000.0),
    "augmented": ("TEST.AUG.ENABLED", True),
}


class FixedProposals(nn.Module):
    """The same proposals for each image; it has no recorder."""

    needs_targets = False

    def losses(self, features: Any, batch: Batch) -> Any:
        raise NotImplementedError

    def predict(self, features: Any, batch: Batch) -> list[Proposals]:  # noqa: ARG002
        corners = torch.cartesian_prod(torch.arange(0, 90, 15), torch.arange(0, 90, 15)).float()
        boxes = torch.cat((corners, corners + 30), dim=1)
        return [Proposals(size, boxes, torch.zeros(len(boxes))) for size in batch.image_sizes]


def build_fixed_proposals(cfg: Any, specs: Any) -> FixedProposals:  # noqa: ARG001
    return FixedProposals()


def xray_of(kind: str) -> XrayImage:
    """One image of noise with two objects, predicted by a model of `KINDS`."""
    cfg = load_config(BASE_FPN, [*SMALL, *KINDS[kind]])
    model = build_augmented_detector(cfg, varied_model(cfg))
    names = ("object",) if "ProposalNetwork" in KINDS[kind] else NAMES
    detector = ImageDetector(model, build_prediction_mapper(cfg, model), names, tuple(range(1, len(names) + 1)))
    source = LoadedImage("noise", np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8))
    return xray_image(detector, source, record=ImageRecord(1, source, SIZE, OBJECTS), names=NAMES)
