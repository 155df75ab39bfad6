"""Our detectors as torchvision's: the way back of `conversion/torchvision_detectors.py`."""

import re
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.interop.converter import Line, background_first, to_theirs
from mrcnn_zoo.interop.torchvision.classifiers import TRAINED_WITH
from mrcnn_zoo.interop.torchvision.names import (
    CONV_FC_BOX_HEAD,
    FC_BOX_HEAD,
    ONE_RPN_CONVOLUTION,
    RCNN,
    RETINANET,
    RETINANET_CONVOLUTIONS,
    RETINANET_CONVOLUTIONS_AND_NORMS,
    RPN_CONVOLUTIONS,
    UNCHANGED,
)

RPN_SIGN = "proposal_generator.rpn_head.objectness_logits.weight"
RETINANET_SIGN = "head.cls_score.weight"
STEM = "backbone.bottom_up.stem.conv1.weight"
# What all of torchvision's detectors have, the R-CNNs and RetinaNet.
RCNN_PARTS = (
    STEM,
    "backbone.fpn_lateral2.weight",
    "backbone.fpn_lateral5.weight",
    "roi_heads.box_predictor.cls_score.bias",
)
RETINANET_PARTS = (STEM, "backbone.fpn_lateral3.weight", "backbone.fpn_lateral5.weight", "backbone.top_block.p7.weight")
IMPOSSIBLE_LOGIT = -20.0  # of RetinaNet's background, which torchvision has a score for: a probability of 2e-9


def to_torchvision(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of one of our detectors under torchvision's names and in its conventions.

    The background comes first, and has a box and a mask of zeros, which torchvision never looks at.

    Args:
        ours: state dict of a model with a ResNet and an FPN, with StandardROIHeads or of RetinaNet.

    Raises:
        UserError: a part that torchvision's detectors do not have.
    """
    if RPN_SIGN not in ours and RETINANET_SIGN not in ours:
        raise UserError(
            f"these weights are not of a detector that torchvision has: there is no {RPN_SIGN} and no {RETINANET_SIGN}."
        )
    _require_parts(ours, RETINANET_PARTS if RETINANET_SIGN in ours else RCNN_PARTS)
    table = table_to_torchvision(ours)
    theirs: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in ours.items():
        new_name = to_theirs(name, table)
        if new_name == name and not UNCHANGED.fullmatch(name):
            unknown.append(name)
        else:
            theirs[new_name] = tensor
    if unknown:
        raise UserError(f"torchvision's detectors have no place for {', '.join(unknown[:5])}.")
    return _finish_retinanet(theirs) if RETINANET_SIGN in ours else _finish_rcnn(theirs)


def with_torchvision_input(
    ours: Mapping[str, Tensor], *, color_order: str, pixel_mean: Sequence[float], pixel_std: Sequence[float]
) -> dict[str, Tensor]:
    """Our weights for RGB images with torchvision's mean and deviation; the first convolution takes the difference.

    Args:
        ours: state dict of our model.
        color_order: "RGB" or "BGR", of the images that it takes.
        pixel_mean: of each channel in this order; it must be torchvision's, because an image is padded with it.
        pixel_std: of each channel in this order.

    Raises:
        UserError: other channels or another mean.
    """
    mean, std = TRAINED_WITH["MODEL.PIXEL_MEAN"], TRAINED_WITH["MODEL.PIXEL_STD"]
    is_bgr = color_order == "BGR"
    means, deviations = (list(values)[::-1] if is_bgr else list(values) for values in (pixel_mean, pixel_std))
    if color_order not in ("RGB", "BGR") or means != mean:
        raise UserError(
            f"torchvision's detectors take RGB images with a mean of {mean}; INPUT.FORMAT {color_order} with "
            f"MODEL.PIXEL_MEAN {list(pixel_mean)} cannot be brought into that form."
        )
    _require_parts(ours, (STEM,))
    stem = ours[STEM]
    if is_bgr:
        stem = stem.flip(1)
    return {**ours, STEM: stem * (stem.new_tensor(std) / stem.new_tensor(deviations))[:, None, None]}


def table_to_torchvision(ours: Collection[str]) -> tuple[Line, ...]:
    """The rename table for a model of ours with these names."""
    if RETINANET_SIGN in ours:
        has_norms = "head.cls_subnet.1.weight" in ours
        return (RETINANET_CONVOLUTIONS_AND_NORMS if has_norms else RETINANET_CONVOLUTIONS) + RETINANET
    has_one_rpn_conv = "proposal_generator.rpn_head.conv.weight" in ours
    has_box_convs = "roi_heads.box_head.conv1.weight" in ours
    return (
        (ONE_RPN_CONVOLUTION if has_one_rpn_conv else RPN_CONVOLUTIONS)
        + (CONV_FC_BOX_HEAD if has_box_convs else FC_BOX_HEAD)
        + RCNN
    )


def _require_parts(ours: Collection[str], parts: Sequence[str]) -> None:
    missing = [name for name in parts if name not in ours]
    if missing:
        raise UserError(
            f"these weights cannot become those of a torchvision detector, which is a ResNet with an FPN up to res5 "
            f"and the heads of an R-CNN or of RetinaNet: they have no {', '.join(missing)}."
        )


def _finish_rcnn(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    finished = dict(theirs)
    num_classes = len(theirs["roi_heads.box_predictor.cls_score.bias"]) - 1
    for name, tensor in theirs.items():
        if re.search(r"box_predictor\.cls_score\.(weight|bias)$", name):
            finished[name] = background_first(tensor)
        elif re.search(r"box_predictor\.bbox_pred\.(weight|bias)$|\.mask_fcn_logits\.(weight|bias)$", name):
            rows = 4 if "bbox_pred" in name else 1
            if len(tensor) != rows * num_classes:
                raise UserError(
                    f"{name} has {len(tensor)} rows for {num_classes} classes: torchvision's detectors predict a box "
                    f"and a mask for every class; one with CLS_AGNOSTIC_BBOX_REG or CLS_AGNOSTIC_MASK cannot be theirs."
                )
            finished[name] = torch.cat([tensor.new_zeros(rows, *tensor.shape[1:]), tensor])
    return finished


def _finish_retinanet(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    finished = dict(theirs)
    num_anchors = len(theirs["head.regression_head.bbox_reg.bias"]) // 4
    for kind, background in (("weight", 0.0), ("bias", IMPOSSIBLE_LOGIT)):
        name = f"head.classification_head.cls_logits.{kind}"
        flatten_per_anchor = theirs[name].unflatten(0, (num_anchors, -1))
        first = torch.full_like(flatten_per_anchor[:, :1], background)
        finished[name] = torch.cat([first, flatten_per_anchor], dim=1).flatten(0, 1)
    for name, tensor in theirs.items():
        has_norm = name.replace(".0.bias", ".1.weight") in theirs
        if re.fullmatch(r"head\.\w+_head\.conv\.\d\.0\.bias", name) and has_norm:
            if tensor.any():
                raise UserError(
                    f"{name} is not zero, and torchvision's RetinaNet has no biases in front of norms: it cannot "
                    f"compute what this model does."
                )
            del finished[name]
    return finished
