"""The config with which our detectors compute what torchvision's do: told by the weights, the rest is its defaults."""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.interop.torchvision.classifiers import TRAINED_WITH

Weights = Mapping[str, Tensor]  # under our names

RES2 = "backbone.bottom_up.res2.0."
STAGES = ("res2", "res3", "res4", "res5")
ANCHORS_PER_CELL = {"rcnn": 3, "retinanet": 9}
INPUT = {**TRAINED_WITH, "INPUT.MIN_SIZE_TEST": 800, "INPUT.MAX_SIZE_TEST": 1333}
ANCHOR_GENERATOR = {
    "MODEL.ANCHOR_GENERATOR.NAME": "TorchvisionAnchorGenerator",
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.ANCHOR_GENERATOR.OFFSET": 0.0,
}
RCNN = {
    **INPUT,
    **ANCHOR_GENERATOR,
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.PROPOSAL_GENERATOR.NAME": "RPN",
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": 0.001,
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.RPN.IOU_THRESHOLDS": [0.3, 0.7],
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.RPN.POSITIVE_FRACTION": 0.5,
    "MODEL.RPN.SMOOTH_L1_BETA": 1 / 9,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.NMS_THRESH": 0.7,
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": [0.5],
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 512,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.25,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.05,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.5,
    "MODEL.ROI_HEADS.MIN_SIZE_TEST": 0.01,
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign",
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": [10.0, 10.0, 5.0, 5.0],
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 1 / 9,
    "TEST.DETECTIONS_PER_IMAGE": 100,
}
MASK = {
    "MODEL.MASK_ON": True,
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "ROIAlign",
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": 2,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
}
KEYPOINT = {
    "MODEL.KEYPOINT_ON": True,
    "MODEL.ROI_KEYPOINT_HEAD.NAME": "KRCNNConvDeconvUpsampleHead",
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE": "ROIAlign",
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_SAMPLING_RATIO": 2,
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION": 14,
}
RETINANET = {
    **INPUT,
    **ANCHOR_GENERATOR,
    "MODEL.META_ARCHITECTURE": "RetinaNet",
    "MODEL.BACKBONE.NAME": "build_retinanet_resnet_fpn_backbone",
    # 1, 2 ** (1 / 3) and 2 ** (2 / 3) of each octave, rounded down
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 40, 50], [64, 80, 101], [128, 161, 203], [256, 322, 406], [512, 645, 812]],
    "MODEL.FPN.TOP_BLOCK": "p6p7",
    "MODEL.RETINANET.IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
    "MODEL.RETINANET.IOU_THRESHOLDS": [0.4, 0.5],
    "MODEL.RETINANET.SCORE_THRESH_TEST": 0.05,
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": 1000,
    "MODEL.RETINANET.NMS_THRESH_TEST": 0.5,
    "MODEL.RETINANET.CLIP_BEFORE_NMS": True,
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": 0.0,
    "TEST.DETECTIONS_PER_IMAGE": 300,
}


def rcnn_settings(ours: Weights) -> dict[str, Any]:
    """The config of Faster, Mask and Keypoint R-CNN."""
    _require_anchors(len(ours["proposal_generator.rpn_head.objectness_logits.bias"]), ANCHORS_PER_CELL["rcnn"])
    num_rpn_convs = 2 if "proposal_generator.rpn_head.conv.conv1.weight" in ours else 1
    settings = RCNN | resnet_fpn_settings(ours, STAGES) | _box_settings(ours)
    settings["MODEL.RPN.CONV_DIMS"] = [-1] * num_rpn_convs
    settings["MODEL.ROI_HEADS.NUM_CLASSES"] = len(ours["roi_heads.box_predictor.cls_score.bias"]) - 1
    if "roi_heads.mask_head.predictor.bias" in ours:
        settings |= MASK | {
            "MODEL.ROI_MASK_HEAD.NUM_CONV": _count(ours, r"roi_heads\.mask_head\.mask_fcn\d+\.weight"),
            "MODEL.ROI_MASK_HEAD.CONV_DIM": len(ours["roi_heads.mask_head.mask_fcn1.weight"]),
            "MODEL.ROI_MASK_HEAD.NORM": _norm_name(ours, "roi_heads.mask_head.mask_fcn1.norm."),
        }
    if "roi_heads.keypoint_head.score_lowres.bias" in ours:
        number = _count(ours, r"roi_heads\.keypoint_head\.conv_fcn\d+\.weight")
        widths = [len(ours[f"roi_heads.keypoint_head.conv_fcn{index}.bias"]) for index in range(1, number + 1)]
        settings |= KEYPOINT | {
            "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": widths,
            "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": len(ours["roi_heads.keypoint_head.score_lowres.bias"]),
        }
    return settings


def retinanet_settings(ours: Weights) -> dict[str, Any]:
    """The config of RetinaNet."""
    num_anchors = len(ours["head.bbox_pred.bias"]) // 4
    _require_anchors(num_anchors, ANCHORS_PER_CELL["retinanet"])
    num_classes = len(ours["head.cls_score.bias"]) // num_anchors
    has_norms = "head.cls_subnet.10.weight" in ours
    p6_channels = ours["backbone.top_block.p6.weight"].shape[1]
    pyramid_channels = len(ours["backbone.fpn_output5.weight"])
    return {
        **RETINANET,
        **resnet_fpn_settings(ours, STAGES[1:]),
        # torchvision makes p6 of p5 where that has as many channels as p6, otherwise of res5.
        "MODEL.FPN.TOP_BLOCK_IN_FEATURE": "p5" if p6_channels == pyramid_channels else "res5",
        "MODEL.RETINANET.NUM_CLASSES": num_classes,
        "MODEL.RETINANET.NUM_CONVS": 4,
        "MODEL.RETINANET.NORM": "GN" if has_norms else "",
        "MODEL.RETINANET.BBOX_REG_LOSS_TYPE": "giou" if has_norms else "smooth_l1",
    }


def resnet_fpn_settings(ours: Weights, stages: tuple[str, ...]) -> dict[str, Any]:
    """Depth and widths of the ResNet and of the pyramid on some of its stages."""
    has_bottlenecks = RES2 + "conv3.weight" in ours
    blocks = [_count(ours, rf"backbone\.bottom_up\.{stage}\.\d+\.conv1\.weight") for stage in STAGES]
    grouped = ours[RES2 + "conv2.weight"]
    groups = len(grouped) // grouped.shape[1]
    settings = {
        "MODEL.RESNETS.DEPTH": (3 if has_bottlenecks else 2) * sum(blocks) + 2,
        "MODEL.RESNETS.OUT_FEATURES": list(stages),
        "MODEL.RESNETS.STEM_OUT_CHANNELS": len(ours["backbone.bottom_up.stem.conv1.weight"]),
        "MODEL.RESNETS.RES2_OUT_CHANNELS": len(ours[RES2 + ("conv3" if has_bottlenecks else "conv2") + ".weight"]),
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.RESNETS.NUM_GROUPS": groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": len(grouped) // groups,
        "MODEL.FPN.IN_FEATURES": list(stages),
        "MODEL.FPN.OUT_CHANNELS": len(ours["backbone.fpn_output5.weight"]),
        "MODEL.FPN.NORM": _norm_name(ours, "backbone.fpn_output5.norm."),
        "MODEL.FPN.FUSE_TYPE": "sum",
    }
    if not has_bottlenecks:
        settings |= {"MODEL.RESNETS.NUM_GROUPS": 1, "MODEL.RESNETS.WIDTH_PER_GROUP": 64}
    return settings


def _box_settings(ours: Weights) -> dict[str, Any]:
    num_convs = _count(ours, r"roi_heads\.box_head\.conv\d+\.weight")
    fc1 = ours["roi_heads.box_head.fc1.weight"]
    channels = len(ours["roi_heads.box_head.conv1.weight"]) if num_convs else len(ours["backbone.fpn_output5.weight"])
    settings = {
        "MODEL.ROI_BOX_HEAD.NUM_CONV": num_convs,
        "MODEL.ROI_BOX_HEAD.NUM_FC": _count(ours, r"roi_heads\.box_head\.fc\d+\.weight"),
        "MODEL.ROI_BOX_HEAD.FC_DIM": len(fc1),
        "MODEL.ROI_BOX_HEAD.NORM": _norm_name(ours, "roi_heads.box_head.conv1.norm."),
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": math.isqrt(fc1.shape[1] // channels),
    }
    return settings | ({"MODEL.ROI_BOX_HEAD.CONV_DIM": channels} if num_convs else {})


def _norm_name(ours: Weights, start: str) -> str:
    if start + "running_mean" in ours:
        return "BN"
    return "GN" if start + "weight" in ours else ""


def _count(ours: Weights, pattern: str) -> int:
    return sum(bool(re.fullmatch(pattern, name)) for name in ours)


def _require_anchors(found: int, known: int) -> None:
    if found != known:
        raise UserError(
            f"these weights have {found} anchors a cell, and torchvision's own detectors {known}. A state dict does "
            f"not tell the sizes of anchors, so only models as torchvision builds them are converted from and to it."
        )
