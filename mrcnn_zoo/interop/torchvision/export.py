"""Our detectors as torchvision's: the inverse of `detectors.py`."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.interop.conventions import background_first
from mrcnn_zoo.interop.torchvision.classifiers import TRAINED_WITH
from mrcnn_zoo.interop.torchvision.names import names_of_detector
from mrcnn_zoo.interop.weights_file import write_weights

RPN_SCORES = "proposal_generator.rpn_head.objectness_logits.weight"
RETINANET_SCORES = "head.cls_score.weight"
STEM = "backbone.bottom_up.stem.conv1.weight"
# Parts of all R-CNNs and of all RetinaNets of torchvision.
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

    The background comes first, with a box and a mask of zeros, which torchvision does not use.

    Args:
        ours: state dict of a model with a ResNet and an FPN, with StandardROIHeads or of RetinaNet.

    Raises:
        UserError: a part that torchvision's detectors do not have.
    """
    if RPN_SCORES not in ours and RETINANET_SCORES not in ours:
        raise UserError(
            f"these weights are not of a detector that torchvision has: there is no {RPN_SCORES} and no "
            f"{RETINANET_SCORES}."
        )
    _require_parts(ours, RETINANET_PARTS if RETINANET_SCORES in ours else RCNN_PARTS)
    theirs, unknown = names_of_detector(ours).inverse().apply(ours)
    if unknown:
        raise UserError(f"torchvision's detectors have no place for {', '.join(unknown[:5])}.")
    if RETINANET_SCORES in ours:
        return _retinanet_in_their_convention(theirs)
    return _rcnn_in_their_convention(theirs)


def with_torchvision_input(
    ours: Mapping[str, Tensor], *, color_order: str, pixel_mean: Sequence[float], pixel_std: Sequence[float]
) -> dict[str, Tensor]:
    """Adapt the first convolution of our weights to RGB images with torchvision's mean and deviation.

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
            f"MODEL.PIXEL_MEAN {list(pixel_mean)} cannot be converted."
        )
    _require_parts(ours, (STEM,))
    stem = ours[STEM]
    if is_bgr:
        stem = stem.flip(1)
    return {**ours, STEM: stem * (stem.new_tensor(std) / stem.new_tensor(deviations))[:, None, None]}


def save_for_torchvision(path: str | Path, ours: Mapping[str, Tensor], *, half: bool = False) -> None:
    """Write a detector as the bare state dict of torchvision's, as `model.load_state_dict` takes it.

    Args:
        path: of the file, `.pth` or `.safetensors`; its folder is made.
        ours: weights under our names.
        half: write the weights in half precision.

    Raises:
        UserError: as for `to_torchvision` and `write_weights`.
    """
    write_weights(Path(path), to_torchvision(ours), half=half)


def _require_parts(ours: Collection[str], parts: Sequence[str]) -> None:
    missing = [name for name in parts if name not in ours]
    if missing:
        raise UserError(
            f"these weights cannot become those of a torchvision detector, which is a ResNet with an FPN up to res5 "
            f"and the heads of an R-CNN or of RetinaNet: they have no {', '.join(missing)}."
        )


def _rcnn_in_their_convention(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    converted = dict(theirs)
    num_classes = len(theirs["roi_heads.box_predictor.cls_score.bias"]) - 1
    for name, tensor in theirs.items():
        if re.search(r"box_predictor\.cls_score\.(weight|bias)$", name):
            converted[name] = background_first(tensor)
        elif re.search(r"box_predictor\.bbox_pred\.(weight|bias)$|\.mask_fcn_logits\.(weight|bias)$", name):
            rows = 4 if "bbox_pred" in name else 1
            if len(tensor) != rows * num_classes:
                raise UserError(
                    f"{name} has {len(tensor)} rows for {num_classes} classes: torchvision's detectors predict a box "
                    f"and a mask per class; one with CLS_AGNOSTIC_BBOX_REG or CLS_AGNOSTIC_MASK cannot be converted."
                )
            converted[name] = torch.cat([tensor.new_zeros(rows, *tensor.shape[1:]), tensor])
    return converted


def _retinanet_in_their_convention(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    converted = dict(theirs)
    num_anchors = len(theirs["head.regression_head.bbox_reg.bias"]) // 4
    for kind, background in (("weight", 0.0), ("bias", IMPOSSIBLE_LOGIT)):
        name = f"head.classification_head.cls_logits.{kind}"
        per_anchor = theirs[name].unflatten(0, (num_anchors, -1))
        first = torch.full_like(per_anchor[:, :1], background)
        converted[name] = torch.cat([first, per_anchor], dim=1).flatten(0, 1)
    for name, tensor in theirs.items():
        has_norm = name.replace(".0.bias", ".1.weight") in theirs
        if re.fullmatch(r"head\.\w+_head\.conv\.\d\.0\.bias", name) and has_norm:
            if tensor.any():
                raise UserError(
                    f"{name} is not zero, and torchvision's RetinaNet has no biases before norms: it cannot "
                    f"compute what this model does."
                )
            del converted[name]
    return converted
