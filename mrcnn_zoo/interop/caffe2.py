"""Files of Detectron (2018, on Caffe2): ImageNet backbones, MSRA's and FAIR's, and detectors.

The batch norms of backbones are affine maps, a scale and a shift. Detectron's boxes include both border pixels, width =
x2 - x1 + 1; a converted detector computes what Detectron2 does with these files, which is close, not equal.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mrcnn_zoo.interop.conventions import OUR_EPS, background_last
from mrcnn_zoo.interop.converter import BackboneConverter
from mrcnn_zoo.interop.renaming import RenameTable, patterns
from mrcnn_zoo.registries import CHECKPOINT_CONVERTERS

NAMES = RenameTable(
    patterns(
        # ResNet
        (r"^res_conv1_bn_", "stem.conv1.norm."),
        (r"^conv1_gn_", "stem.conv1.norm."),
        (r"^conv1_", "stem.conv1."),
        (r"^res(\d)_(\d+)_branch1_[bg]n_", r"res\1.\2.shortcut.norm."),
        (r"^res(\d)_(\d+)_branch2a_[bg]n_", r"res\1.\2.conv1.norm."),
        (r"^res(\d)_(\d+)_branch2b_[bg]n_", r"res\1.\2.conv2.norm."),
        (r"^res(\d)_(\d+)_branch2c_[bg]n_", r"res\1.\2.conv3.norm."),
        (r"^res(\d)_(\d+)_branch1_", r"res\1.\2.shortcut."),
        (r"^res(\d)_(\d+)_branch2a_", r"res\1.\2.conv1."),
        (r"^res(\d)_(\d+)_branch2b_", r"res\1.\2.conv2."),
        (r"^res(\d)_(\d+)_branch2c_", r"res\1.\2.conv3."),
        # FPN: a lateral convolution is named after the last block of its stage, res2_2 or res4_22
        (r"^fpn_inner_res(\d)_\d+_sum_(?:lateral_)?gn_", r"fpn_lateral\1.norm."),
        (r"^fpn_inner_res(\d)_\d+_sum_(?:lateral_)?", r"fpn_lateral\1."),
        (r"^fpn_res(\d)_\d+_sum_gn_", r"fpn_output\1.norm."),
        (r"^fpn_res(\d)_\d+_sum_", r"fpn_output\1."),
        # RPN: with an FPN the layers that all levels share are named after level 2
        (r"^conv_rpn_(?:fpn2_)?", "proposal_generator.rpn_head.conv."),
        (r"^rpn_cls_logits_(?:fpn2_)?", "proposal_generator.rpn_head.objectness_logits."),
        (r"^rpn_bbox_pred_(?:fpn2_)?", "proposal_generator.rpn_head.anchor_deltas."),
        # heads
        (r"^head_conv(\d)_gn_", r"box_head.conv\1.norm."),
        (r"^head_conv(\d)_", r"box_head.conv\1."),
        (r"^fc6_", "box_head.fc1."),
        (r"^fc7_", "box_head.fc2."),
        (r"^cls_score_", "box_predictor.cls_score."),
        (r"^bbox_pred_", "box_predictor.bbox_pred."),
        (r"^_\[mask\]_fcn(\d)_gn_", r"mask_head.mask_fcn\1.norm."),
        (r"^_(?:\[mask\]|mask)_fcn(\d)_", r"mask_head.mask_fcn\1."),
        (r"^conv5_mask_", "mask_head.deconv."),
        (r"^mask_fcn_logits_", "mask_head.predictor."),
        (r"^conv_fcn(\d)_", r"keypoint_head.conv_fcn\1."),
        (r"^kps_score_lowres_", "keypoint_head.score_lowres."),
        # weight or scale, bias, statistics
        (r"\.(?:w|s|gamma)$", ".weight"),
        (r"\.(?:b|beta)$", ".bias"),
        (r"\.(?:rm|running_mean)$", ".running_mean"),
        (r"\.(?:riv|running_var)$", ".running_var"),
    )
)


@CHECKPOINT_CONVERTERS.register("caffe2")
def build_caffe2_converter() -> BackboneConverter:
    """Detectron's and MSRA's ImageNet backbones and Detectron's detectors."""
    return BackboneConverter(
        source="Caffe2 Detectron",
        signature=("conv1_w", "res2_0_branch2a_w"),
        names=NAMES,
        expected_settings={"INPUT.FORMAT": "BGR", "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675]},
        prepare=prepare,
        settings_from_weights=settings_from_weights,
    )


def prepare(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add statistics where a batch norm is an affine map, and put the classes into our order.

    A frozen batch norm with mean 0 and variance 1 - eps computes exactly its scale and shift.

    Args:
        weights: by their names in the file.
    """
    prepared: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name.endswith("_momentum"):
            continue  # of the optimizer
        if re.fullmatch(r"cls_score_[wb]", name):
            prepared[name] = background_last(tensor)
        elif re.fullmatch(r"bbox_pred_[wb]", name):
            prepared[name] = tensor[4:]  # the background's box, which nothing uses
        elif re.fullmatch(r"mask_fcn_logits_[wb]", name) and len(tensor) > 1:
            prepared[name] = tensor[1:]
        else:
            prepared[name] = tensor
        start = name.removesuffix("_bn_s")
        if start != name and not {f"{start}_bn_rm", f"{start}_bn_running_mean"} & weights.keys():
            prepared[f"{start}_bn_rm"] = torch.zeros_like(tensor)
            prepared[f"{start}_bn_riv"] = torch.ones_like(tensor) - OUR_EPS
    return prepared


def settings_from_weights(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """MODEL.RESNETS.STRIDE_IN_1X1, which is True for MSRA's plain ResNets alone, and their pixel deviation.

    Args:
        weights: by their names in the file.
    """
    grouped = weights.get("res2_0_branch2b_w")
    is_resnext = grouped is not None and grouped.shape[1] < grouped.shape[0]
    is_msra = "conv1_gn_s" not in weights and not is_resnext
    return {"MODEL.RESNETS.STRIDE_IN_1X1": is_msra} | ({"MODEL.PIXEL_STD": [1.0, 1.0, 1.0]} if is_msra else {})
