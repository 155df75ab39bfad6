"""torchvision's own model for the weights of one of its detectors."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from mrcnn_zoo.checkpoint.conversion.torchvision_detectors import (
    RETINANET_SIGN,
    frozen_eps,
    has_frozen_norms,
    with_present_names,
)
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.experiments.conversion.comparison import Found
from mrcnn_zoo.ops.boxes import is_nonempty
from mrcnn_zoo.structures import Sample

NAMES = (
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "keypointrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
)


class KeepSize(GeneralizedRCNNTransform):
    """torchvision's input stage for images that already have the size to work on."""

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Both as they are."""
        return image, target


class TorchvisionReference:
    """A torchvision detector that is asked as ours are.

    Args:
        model: from `torchvision.models.detection`; its resizing is switched off, and it is put into evaluation mode.
    """

    def __init__(self, model: nn.Module) -> None:
        theirs: Any = model.transform
        model.transform = KeepSize(theirs.min_size, theirs.max_size, theirs.image_mean, theirs.image_std)
        self.model = model.eval()

    @torch.no_grad()
    def predict(self, samples: list[Sample]) -> list[Found]:
        """What it finds in RGB samples, in the coordinates of their pixels; masks as the network gives them.

        Boxes without width or height are left out, as we do: its RetinaNet returns those beside the image as such.
        """
        masks: list[Tensor | None] = [None] * len(samples)

        def keep_masks(_: nn.Module, __: object, output: tuple[list[dict[str, Tensor]], object]) -> None:
            # Copied here: afterwards the same dicts hold masks that are stretched over the image.
            masks[:] = [result["masks"][:, 0] if "masks" in result else None for result in output[0]]

        heads = getattr(self.model, "roi_heads", None)
        hook = heads.register_forward_hook(keep_masks) if isinstance(heads, nn.Module) else None
        results = self.model([sample.image.float() / 255 for sample in samples])
        if hook is not None:
            hook.remove()
        return [
            Found(
                boxes=result["boxes"],
                scores=result["scores"],
                classes=result["labels"] - 1,
                masks=image_masks,
                keypoints=result["keypoints"][..., :2] if "keypoints" in result else None,
            )[is_nonempty(result["boxes"])]
            for result, image_masks in zip(results, masks, strict=True)
        ]


def build_torchvision_detector(
    state: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None
) -> TorchvisionReference:
    """torchvision's model with these weights.

    Args:
        state: by torchvision's names, old or present ones.
        meta: what else the file told, see `TorchvisionDetector`.

    Raises:
        UserError: weights of another model than those in `NAMES`.
    """
    present, has_old_names = with_present_names(state)
    name, sizes = _model_of(present)
    model: nn.Module = getattr(detection, name)(weights=None, weights_backbone=None, **sizes)
    try:
        model.load_state_dict(present)
    except RuntimeError as error:
        raise UserError(f"these are not the weights of torchvision's {name}: {str(error).splitlines()[1]}") from error
    eps = frozen_eps(meta or {}, has_old_names=has_old_names)
    for module in model.modules():  # in evaluation a batch norm computes what a frozen one does
        if isinstance(module, nn.BatchNorm2d) and has_frozen_norms(present):
            module.eps = eps
    return TorchvisionReference(model)


def _model_of(present: Mapping[str, Tensor]) -> tuple[str, dict[str, int]]:
    """The name of the constructor in torchvision, and what it has to be told."""
    if RETINANET_SIGN in present:
        version = "_v2" if "head.classification_head.conv.0.1.weight" in present else ""
        num_anchors = len(present["head.regression_head.bbox_reg.bias"]) // 4
        return f"retinanet_resnet50_fpn{version}", {"num_classes": len(present[RETINANET_SIGN]) // num_anchors}
    version = "_v2" if any(re.match(r"roi_heads\.box_head\.0\.1\.", name) for name in present) else ""
    sizes = {"num_classes": len(present["roi_heads.box_predictor.cls_score.bias"])}
    keypoints = present.get("roi_heads.keypoint_predictor.kps_score_lowres.bias")
    if keypoints is not None:
        return "keypointrcnn_resnet50_fpn", {**sizes, "num_keypoints": len(keypoints)}
    kind = "maskrcnn" if "roi_heads.mask_predictor.mask_fcn_logits.bias" in present else "fasterrcnn"
    return f"{kind}_resnet50_fpn{version}", sizes
