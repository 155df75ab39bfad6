"""torchvision's detectors with a ResNet and an FPN: Faster, Mask and Keypoint R-CNN and RetinaNet, both versions.

Masks agree as the network predicts them, M x M. torchvision pastes them into whole pixels, we into the exact box, as
Detectron2 does.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.interop.coco_classes import COCO_CLASSES, COCO_CLASSES_BY_ID
from mrcnn_zoo.interop.conventions import OUR_EPS, background_last, scaled_for_our_eps
from mrcnn_zoo.interop.converter import Conversion
from mrcnn_zoo.interop.torchvision.names import NAMES_BEFORE_0_13, names_of_detector
from mrcnn_zoo.interop.torchvision.settings import rcnn_settings, retinanet_settings
from mrcnn_zoo.registries import CHECKPOINT_CONVERTERS

RESNET_STEM = "backbone.body.conv1.weight"
RCNN_SCORES = "rpn.head.cls_logits.weight"
RETINANET_SCORES = "head.classification_head.cls_logits.weight"
FROZEN_EPS_KEY = "frozen_bn_eps"  # in the other content of a file


class TorchvisionDetectorConverter:
    """Converts files of `torchvision.models.detection`'s models, under their present names or those before 0.13.

    torchvision computes the frozen batch norms of its first published weights with an eps of 0, and those of all other
    models with 1e-5. The weights do not show it; but those files have names from before torchvision 0.13, and no others
    do. A file saved again from such a model needs `frozen_bn_eps` 0 in `meta`.
    """

    source = "torchvision detector"

    def recognises(self, names: Collection[str]) -> bool:
        """Whether a file comes from torchvision's detectors.

        Args:
            names: of the weights in the file.
        """
        return RESNET_STEM in names and (RCNN_SCORES in names or RETINANET_SCORES in names)

    def convert(self, weights: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Conversion:
        """The same network as ours, without the background's unused box, mask and RetinaNet score.

        Args:
            weights: by torchvision's names; not changed.
            meta: may hold `frozen_bn_eps`.

        Raises:
            UserError: a network that torchvision does not build.
        """
        theirs, has_old_names = with_present_names(weights)
        ours, leftovers = names_of_detector(theirs).apply(theirs)
        is_frozen = has_frozen_norms(theirs)
        eps = frozen_eps(meta, has_old_names=has_old_names)
        if is_frozen and eps != OUR_EPS:
            ours = scaled_for_our_eps(ours, eps=eps)
        if RETINANET_SCORES in theirs:
            ours = _retinanet_in_our_convention(ours)
            settings = retinanet_settings(ours)
            num_classes = settings["MODEL.RETINANET.NUM_CLASSES"]
        else:
            ours = _rcnn_in_our_convention(ours)
            settings = rcnn_settings(ours)
            num_classes = settings["MODEL.ROI_HEADS.NUM_CLASSES"]
        settings["MODEL.RESNETS.NORM"] = "FrozenBN" if is_frozen else "BN"
        class_names = _class_names(num_classes, has_keypoints="MODEL.KEYPOINT_ON" in settings)
        return Conversion(ours, leftovers, settings, class_names)


@CHECKPOINT_CONVERTERS.register("torchvision_detector")
def build_torchvision_detector_converter() -> TorchvisionDetectorConverter:
    """torchvision's R-CNN and RetinaNet detectors."""
    return TorchvisionDetectorConverter()


def with_present_names(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """The weights under the names of torchvision from 0.13 on, and whether they had older ones.

    Args:
        weights: of a detector, under either names.
    """
    present = {NAMES_BEFORE_0_13.rename(name): tensor for name, tensor in weights.items()}
    return present, present.keys() != weights.keys()


def has_frozen_norms(names: Collection[str]) -> bool:
    """Whether the batch norms of the ResNet are frozen; others count their batches.

    Args:
        names: of the weights, torchvision's.
    """
    return not any(name.endswith("bn1.num_batches_tracked") for name in names)


def frozen_eps(meta: Mapping[str, Any], *, has_old_names: bool) -> float:
    """The eps of a file's frozen batch norms.

    Args:
        meta: the other content of the file.
        has_old_names: whether its names are from before torchvision 0.13.
    """
    return float(meta.get(FROZEN_EPS_KEY, 0.0 if has_old_names else OUR_EPS))


def _rcnn_in_our_convention(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    converted = dict(ours)
    for name, tensor in ours.items():
        if re.search(r"box_predictor\.cls_score\.(weight|bias)$", name):
            converted[name] = background_last(tensor)
        elif re.search(r"box_predictor\.bbox_pred\.(weight|bias)$", name):
            converted[name] = tensor[4:].clone()
        elif re.search(r"mask_head\.predictor\.(weight|bias)$", name):
            converted[name] = tensor[1:].clone()
    return converted


def _retinanet_in_our_convention(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    converted = dict(ours)
    num_anchors = len(ours["head.bbox_pred.bias"]) // 4
    for name in ("head.cls_score.weight", "head.cls_score.bias"):
        per_anchor = ours[name].unflatten(0, (num_anchors, -1))
        if per_anchor.shape[1] < 2:
            raise UserError(
                f"this RetinaNet of torchvision has no class but the background: {name} has no row for one."
            )
        converted[name] = per_anchor[:, 1:].flatten(0, 1)
    # Our convolutions have a bias before a norm, too, as Detectron2's have.
    for name, tensor in ours.items():
        if re.fullmatch(r"head\.(cls|bbox)_subnet\.\d+\.weight", name) and tensor.dim() == 4:
            converted.setdefault(name.removesuffix("weight") + "bias", torch.zeros(len(tensor), dtype=tensor.dtype))
    return converted


def _class_names(num_classes: int, *, has_keypoints: bool) -> tuple[str, ...]:
    if has_keypoints and num_classes == 1:
        return COCO_CLASSES[:1]
    return COCO_CLASSES_BY_ID if num_classes == len(COCO_CLASSES_BY_ID) else ()
