"""torchvision's detectors with a ResNet and an FPN: Faster, Mask and Keypoint R-CNN and RetinaNet, both versions.

Mask R-CNN's masks agree as the network gives them, M x M. torchvision stretches them over whole pixels, we over the
exact box, as Detectron2 does.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.interop import converter
from mrcnn_zoo.interop.converter import OUR_EPS, Conversion, Line, background_last, to_ours
from mrcnn_zoo.interop.torchvision.names import (
    CONV_FC_BOX_HEAD,
    FC_BOX_HEAD,
    OLD_NAMES,
    ONE_RPN_CONVOLUTION,
    RCNN,
    RETINANET,
    RETINANET_CONVOLUTIONS,
    RETINANET_CONVOLUTIONS_AND_NORMS,
    RPN_CONVOLUTIONS,
    UNCHANGED,
)
from mrcnn_zoo.interop.torchvision.settings import rcnn_settings, retinanet_settings
from mrcnn_zoo.registries import CHECKPOINT_CONVERTERS

RETINANET_SIGN = "head.classification_head.cls_logits.weight"
RCNN_SIGN = "rpn.head.cls_logits.weight"
BODY_SIGN = "backbone.body.conv1.weight"
FROZEN_EPS_KEY = "frozen_bn_eps"


class TorchvisionDetector:
    """Files of `torchvision.models.detection`'s models, by their published or their present names.

    torchvision computes the frozen batch norms of its first published weights with an eps of 0, and those of all other
    models with 1e-5. No weight tells; but those files have names from before torchvision 0.13, and no other file has.
    A file that was saved again from such a model is to be converted with `frozen_bn_eps` 0 in `meta`.
    """

    source = "torchvision detector"

    def recognises(self, names: Collection[str]) -> bool:
        """Whether these are the names of such a model."""
        return BODY_SIGN in names and (RCNN_SIGN in names or RETINANET_SIGN in names)

    def convert(self, weights: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Conversion:
        """The same network as ours; the background's box, mask and RetinaNet score, which have no use, are left out."""
        theirs, has_old_names = with_present_names(weights)
        eps = frozen_eps(meta, has_old_names=has_old_names)
        table = table_of(theirs)
        ours, leftovers = {}, []
        for name, tensor in theirs.items():
            new_name = to_ours(name, table)
            if new_name == name and not UNCHANGED.fullmatch(name):
                leftovers.append(name)
            else:
                ours[new_name] = tensor
        is_retinanet = RETINANET_SIGN in theirs
        is_frozen = has_frozen_norms(theirs)
        if is_frozen and eps != OUR_EPS:
            ours = with_other_eps(ours, eps)
        if is_retinanet:
            ours, settings = _finish_retinanet(ours)
            num_classes = settings["MODEL.RETINANET.NUM_CLASSES"]
        else:
            ours = _finish_rcnn(ours)
            settings = rcnn_settings(ours)
            num_classes = settings["MODEL.ROI_HEADS.NUM_CLASSES"]
        settings["MODEL.RESNETS.NORM"] = "FrozenBN" if is_frozen else "BN"
        is_keypoint_model = bool(settings.get("MODEL.KEYPOINT_ON"))
        return Conversion(ours, tuple(leftovers), settings, _class_names(num_classes, is_keypoint_model))


def frozen_eps(meta: Mapping[str, Any], *, has_old_names: bool) -> float:
    """The eps of a file's frozen batch norms."""
    return float(meta.get(FROZEN_EPS_KEY, 0.0 if has_old_names else OUR_EPS))


def has_frozen_norms(theirs: Collection[str]) -> bool:
    """Whether the batch norms of the ResNet are frozen; others count their batches."""
    return not any(name.endswith("bn1.num_batches_tracked") for name in theirs)


def with_present_names(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """The weights under the names of torchvision from 0.13 on, and whether they had older ones."""
    present = {}
    for name, tensor in weights.items():
        for pattern, replacement in OLD_NAMES:
            name = re.sub(pattern, replacement, name)
        present[name] = tensor
    return present, present.keys() != weights.keys()


def table_of(theirs: Collection[str]) -> tuple[Line, ...]:
    """The rename table for a model of torchvision with these names."""
    if RETINANET_SIGN in theirs:
        has_norms = "head.classification_head.conv.0.1.weight" in theirs
        return (RETINANET_CONVOLUTIONS_AND_NORMS if has_norms else RETINANET_CONVOLUTIONS) + RETINANET
    rpn = RPN_CONVOLUTIONS if "rpn.head.conv.1.0.weight" in theirs else ONE_RPN_CONVOLUTION
    box_head = FC_BOX_HEAD if "roi_heads.box_head.fc6.weight" in theirs else CONV_FC_BOX_HEAD
    return rpn + box_head + RCNN


def with_other_eps(ours: Mapping[str, Tensor], eps: float) -> dict[str, Tensor]:
    """Frozen norms that compute with an eps of 1e-5 what these do with another.

    The weight takes the difference. Taken from the variance it would drown: some channels have variances of 1e-12.
    """
    changed = dict(ours)
    for name, variance in ours.items():
        if name.endswith(".running_var"):
            weight = name.removesuffix("running_var") + "weight"
            factor = ((variance.double() + OUR_EPS) / (variance.double() + eps)).sqrt()
            changed[weight] = (ours[weight].double() * factor).to(ours[weight].dtype)
    return changed


def _finish_rcnn(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    finished = dict(ours)
    for name, tensor in ours.items():
        if re.search(r"box_predictor\.cls_score\.(weight|bias)$", name):
            finished[name] = background_last(tensor)
        elif re.search(r"box_predictor\.bbox_pred\.(weight|bias)$", name):
            finished[name] = tensor[4:].clone()
        elif re.search(r"mask_head\.predictor\.(weight|bias)$", name):
            finished[name] = tensor[1:].clone()
    return finished


def _finish_retinanet(ours: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    finished = dict(ours)
    num_anchors = len(ours["head.bbox_pred.bias"]) // 4
    for name in ("head.cls_score.weight", "head.cls_score.bias"):
        flatten_per_anchor = ours[name].unflatten(0, (num_anchors, -1))
        if flatten_per_anchor.shape[1] < 2:
            raise UserError(
                f"this RetinaNet of torchvision has no class but the background: {name} has no row for one."
            )
        finished[name] = flatten_per_anchor[:, 1:].flatten(0, 1)
    # Our convolutions have a bias in front of a norm too, as Detectron2's.
    for name, tensor in ours.items():
        if re.fullmatch(r"head\.(cls|bbox)_subnet\.\d+\.weight", name) and tensor.dim() == 4:
            finished.setdefault(name.removesuffix("weight") + "bias", torch.zeros(len(tensor), dtype=tensor.dtype))
    return finished, retinanet_settings(finished)


def _class_names(num_classes: int, is_keypoint_model: bool) -> tuple[str, ...]:
    if is_keypoint_model and num_classes == 1:
        return converter.COCO_CLASSES[:1]
    return converter.COCO_CLASSES_BY_ID if num_classes == len(converter.COCO_CLASSES_BY_ID) else ()


@CHECKPOINT_CONVERTERS.register("torchvision_detector")
def build_torchvision_detector_source() -> TorchvisionDetector:
    """torchvision's R-CNN and RetinaNet detectors."""
    return TorchvisionDetector()
