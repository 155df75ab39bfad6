"""Config keys that the names and shapes of a detector's weights decide."""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mrcnn_zoo.errors import UserError

Weights = Mapping[str, Tensor]  # under our absolute names
Settings = dict[str, Any]  # value by config key

STAGES = ("res2", "res3", "res4", "res5")
# Blocks per stage -> depth.
BASIC_DEPTHS = {(2, 2, 2, 2): 18, (3, 4, 6, 3): 34}
BOTTLENECK_DEPTHS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}


def two_stage_settings(weights: Weights) -> Settings:
    """The settings of a Faster, Mask or Keypoint R-CNN with a ResNet, on an FPN or on C4.

    Args:
        weights: of the whole detector, under our names.

    Raises:
        UserError: a ResNet of no depth that we have.
    """
    has_pyramid = any(name.startswith("backbone.fpn_lateral") for name in weights)
    settings = _pyramid_detector_settings(weights) if has_pyramid else _c4_detector_settings()
    settings |= resnet_settings(weights, prefix="backbone.bottom_up." if has_pyramid else "backbone.")
    settings |= _rpn_settings(weights) | _box_settings(weights)
    return settings | _mask_settings(weights) | _mask_iou_settings(weights) | _keypoint_settings(weights)


def pyramid_settings(weights: Weights) -> Settings:
    """The settings of an FPN: the stages that it takes, its channels and its norm.

    Args:
        weights: under our names, with an FPN.
    """
    stages = [f"res{level}" for level in _pyramid_levels(weights)]
    return {
        "MODEL.RESNETS.OUT_FEATURES": stages,
        "MODEL.FPN.IN_FEATURES": stages,
        "MODEL.FPN.OUT_CHANNELS": len(weights["backbone.fpn_output5.weight"]),
        "MODEL.FPN.NORM": _norm_name(weights, "backbone.fpn_output5"),
    }


def resnet_settings(weights: Weights, *, prefix: str) -> Settings:
    """The settings of a ResNet: its depth, widths and groups.

    Args:
        weights: under our names.
        prefix: of the names of the ResNet: "backbone.bottom_up." below an FPN, "backbone." on C4.

    Raises:
        UserError: a number of blocks that no ResNet has.
    """
    counts = [_count(weights, rf"{re.escape(prefix)}{stage}\.(\d+)\.conv1\.weight$") for stage in STAGES[:3]]
    # The last stage of a C4 network is its box head.
    blocks = counts[0], counts[1], counts[2], _count(weights, r"\bres5\.(\d+)\.conv1\.weight$")
    has_bottlenecks = f"{prefix}res2.0.conv3.weight" in weights
    depth = (BOTTLENECK_DEPTHS if has_bottlenecks else BASIC_DEPTHS).get(blocks)
    if depth is None:
        raise UserError(
            f"the backbone has {', '.join(map(str, blocks))} blocks in its stages, which no ResNet from 18 to 152 has."
        )
    last = "conv3" if has_bottlenecks else "conv2"
    width, width_per_group = weights[f"{prefix}res2.0.conv2.weight"].shape[:2]
    groups = width // width_per_group if has_bottlenecks else 1
    return {
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": len(weights[f"{prefix}stem.conv1.weight"]),
        "MODEL.RESNETS.RES2_OUT_CHANNELS": len(weights[f"{prefix}res2.0.{last}.weight"]),
        "MODEL.RESNETS.NUM_GROUPS": groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": width // groups if has_bottlenecks else 64,  # basic blocks do not use it
    }


def _pyramid_detector_settings(weights: Weights) -> Settings:
    levels = _pyramid_levels(weights)
    maps = [f"p{level}" for level in levels]
    return {
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
        "MODEL.RPN.IN_FEATURES": [*maps, f"p{levels[-1] + 1}"],
        "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
        "MODEL.ROI_HEADS.IN_FEATURES": maps,
        **pyramid_settings(weights),
    }


def _pyramid_levels(weights: Weights) -> list[int]:
    return sorted(int(level) for level in _numbers(weights, r"^backbone\.fpn_lateral(\d)\.weight$"))


def _c4_detector_settings() -> Settings:
    return {
        "MODEL.BACKBONE.NAME": "build_resnet_backbone",
        "MODEL.RESNETS.OUT_FEATURES": ["res4"],
        "MODEL.RPN.IN_FEATURES": ["res4"],
        "MODEL.ROI_HEADS.NAME": "Res5ROIHeads",
        "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
        "MODEL.ROI_BOX_HEAD.NAME": "",
    }


def _rpn_settings(weights: Weights) -> Settings:
    convs = [tensor for name, tensor in weights.items() if re.search(r"\.rpn_head\.conv\.(conv\d\.)?weight$", name)]
    return {"MODEL.RPN.CONV_DIMS": [-1 if len(conv) == conv.shape[1] else len(conv) for conv in convs]}


def _box_settings(weights: Weights) -> Settings:
    num_classes = len(weights["roi_heads.box_predictor.cls_score.weight"]) - 1
    settings: Settings = {
        "MODEL.ROI_HEADS.NUM_CLASSES": num_classes,
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": len(weights["roi_heads.box_predictor.bbox_pred.weight"])
        < 4 * num_classes,
    }
    convs = _count(weights, r"^roi_heads\.box_head\.conv(\d+)\.weight$")
    fcs = _count(weights, r"^roi_heads\.box_head\.fc(\d+)\.weight$")
    if convs + fcs == 0:
        return settings
    settings |= {
        "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
        "MODEL.ROI_BOX_HEAD.NUM_CONV": convs,
        "MODEL.ROI_BOX_HEAD.NUM_FC": fcs,
        "MODEL.ROI_BOX_HEAD.NORM": _norm_name(weights, "roi_heads.box_head.conv1"),
    }
    if convs:
        settings["MODEL.ROI_BOX_HEAD.CONV_DIM"] = len(weights["roi_heads.box_head.conv1.weight"])
    if fcs:
        outputs, inputs = weights["roi_heads.box_head.fc1.weight"].shape
        channels = settings.get("MODEL.ROI_BOX_HEAD.CONV_DIM") or len(_pooled_map(weights))
        settings["MODEL.ROI_BOX_HEAD.FC_DIM"] = outputs
        settings["MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION"] = math.isqrt(inputs // channels)
    return settings


def _pooled_map(weights: Weights) -> Tensor:
    # Regions are pooled from maps with as many channels as this weight has rows.
    name = next((name for name in weights if re.match(r"backbone\.fpn_output\d\.weight$", name)), None)
    if name is None:
        raise UserError("a box head with fully connected layers needs a feature pyramid; the file has none.")
    return weights[name]


def _mask_settings(weights: Weights) -> Settings:
    has_masks = "roi_heads.mask_head.predictor.weight" in weights
    if not has_masks:
        return {"MODEL.MASK_ON": False}
    masks, channels = weights["roi_heads.mask_head.predictor.weight"].shape[:2]
    return {
        "MODEL.MASK_ON": True,
        "MODEL.ROI_MASK_HEAD.NUM_CONV": _count(weights, r"^roi_heads\.mask_head\.mask_fcn(\d+)\.weight$"),
        "MODEL.ROI_MASK_HEAD.CONV_DIM": channels,
        "MODEL.ROI_MASK_HEAD.NORM": _norm_name(weights, "roi_heads.mask_head.mask_fcn1"),
        "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": masks < len(weights["roi_heads.box_predictor.cls_score.weight"]) - 1,
    }


def _mask_iou_settings(weights: Weights) -> Settings:
    prefix = r"^roi_heads\.mask_iou_head\."
    convs, fcs = (_count(weights, rf"{prefix}{layer}(\d+)\.weight$") for layer in ("conv", "fc"))
    if convs == 0:
        return {}
    settings = {
        "MODEL.ROI_HEADS.BRANCHES": ["MaskIoUHead"],
        "MODEL.ROI_MASKIOU_HEAD.NUM_CONV": convs,
        "MODEL.ROI_MASKIOU_HEAD.CONV_DIM": len(weights["roi_heads.mask_iou_head.conv1.weight"]),
        "MODEL.ROI_MASKIOU_HEAD.NUM_FC": fcs,
    }
    if fcs:
        settings["MODEL.ROI_MASKIOU_HEAD.FC_DIM"] = len(weights["roi_heads.mask_iou_head.fc1.weight"])
    return settings


def _keypoint_settings(weights: Weights) -> Settings:
    scores = weights.get("roi_heads.keypoint_head.score_lowres.bias")
    if scores is None:
        return {}
    count = _count(weights, r"^roi_heads\.keypoint_head\.conv_fcn(\d+)\.weight$")
    widths = [len(weights[f"roi_heads.keypoint_head.conv_fcn{number}.bias"]) for number in range(1, count + 1)]
    return {
        "MODEL.KEYPOINT_ON": True,
        "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": widths,
        "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": len(scores),
    }


def _norm_name(weights: Weights, layer: str) -> str:
    if f"{layer}.norm.running_mean" in weights:
        return "BN"
    return "GN" if f"{layer}.norm.weight" in weights else ""


def _count(weights: Weights, pattern: str) -> int:
    return len(_numbers(weights, pattern))


def _numbers(weights: Weights, pattern: str) -> set[str]:
    return {found.group(1) for found in (re.search(pattern, name) for name in weights) if found}
