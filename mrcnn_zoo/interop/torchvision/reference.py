"""torchvision's own detectors, built from their weights and called as ours are, for comparisons."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.interop.comparison import PlainDetections
from mrcnn_zoo.interop.torchvision.detectors import RETINANET_SCORES, frozen_eps, has_frozen_norms, with_present_names
from mrcnn_zoo.ops.boxes import is_nonempty
from mrcnn_zoo.structures import Sample

# Constructors in `torchvision.models.detection`.
NAMES = (
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "keypointrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
)


class NormalizeOnly(GeneralizedRCNNTransform):
    """torchvision's input stage without resizing, for images that a mapper of ours has resized.

    Args:
        replaced: the transform of the model; its mean and standard deviation are taken over.
    """

    def __init__(self, replaced: Any) -> None:
        super().__init__(replaced.min_size, replaced.max_size, replaced.image_mean, replaced.image_std)

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Image and target, unchanged.

        Args:
            image: (C, H, W).
            target: boxes, masks and keypoints of the image.
        """
        return image, target


class RawOutput(NormalizeOnly):
    """As `NormalizeOnly`, and the results stay as the network gives them: masks M x M, not pasted into the image."""

    def postprocess(  # type: ignore[override]
        self,
        result: list[dict[str, Tensor]],
        image_shapes: list[tuple[int, int]],  # noqa: ARG002
        original_image_sizes: list[tuple[int, int]],  # noqa: ARG002
    ) -> list[dict[str, Tensor]]:
        """The results, unchanged.

        Args:
            result: per image.
            image_shapes: (height, width) per image.
            original_image_sizes: (height, width) per image.
        """
        return result


class TorchvisionReference:
    """A torchvision detector with a `predict` like our detectors'.

    Args:
        model: from `torchvision.models.detection`; its resizing is switched off, and it is put into evaluation mode.
    """

    def __init__(self, model: nn.Module) -> None:
        model.transform = RawOutput(model.transform)
        self.model = model.eval()

    @torch.no_grad()
    def predict(self, samples: list[Sample]) -> list[PlainDetections]:
        """Detections in the coordinates of the samples' pixels, with masks as the network gives them.

        Boxes without width or height are left out, as ours are: torchvision's RetinaNet returns them.

        Args:
            samples: with RGB images.
        """
        results = self.model([sample.image.float() / 255 for sample in samples])
        return [
            PlainDetections(
                boxes=result["boxes"],
                scores=result["scores"],
                classes=result["labels"] - 1,
                masks=result["masks"][:, 0] if "masks" in result else None,
                keypoints=result["keypoints"][..., :2] if "keypoints" in result else None,
            )[is_nonempty(result["boxes"])]
            for result in results
        ]


def build_torchvision_reference(state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> TorchvisionReference:
    """torchvision's model with these weights.

    Args:
        state: by torchvision's names, present ones or those before 0.13.
        meta: the other content of the file, see `TorchvisionDetectorConverter`.

    Raises:
        UserError: weights of another model than those in `NAMES`.
    """
    present, has_old_names = with_present_names(state)
    name, sizes = _constructor_of(present)
    model: nn.Module = getattr(detection, name)(weights=None, weights_backbone=None, **sizes)
    try:
        model.load_state_dict(present)
    except RuntimeError as error:
        raise UserError(f"these are not the weights of torchvision's {name}: {str(error).splitlines()[1]}") from error
    eps = frozen_eps(meta, has_old_names=has_old_names)
    for module in model.modules():  # in evaluation mode a batch norm computes what a frozen one does
        if isinstance(module, nn.BatchNorm2d) and has_frozen_norms(present):
            module.eps = eps
    return TorchvisionReference(model)


def _constructor_of(present: Mapping[str, Tensor]) -> tuple[str, dict[str, int]]:
    """The constructor in torchvision, and its arguments."""
    if RETINANET_SCORES in present:
        version = "_v2" if "head.classification_head.conv.0.1.weight" in present else ""
        num_anchors = len(present["head.regression_head.bbox_reg.bias"]) // 4
        return f"retinanet_resnet50_fpn{version}", {"num_classes": len(present[RETINANET_SCORES]) // num_anchors}
    version = "_v2" if any(re.match(r"roi_heads\.box_head\.0\.1\.", name) for name in present) else ""
    sizes = {"num_classes": len(present["roi_heads.box_predictor.cls_score.bias"])}
    keypoints = present.get("roi_heads.keypoint_predictor.kps_score_lowres.bias")
    if keypoints is not None:
        return "keypointrcnn_resnet50_fpn", {**sizes, "num_keypoints": len(keypoints)}
    kind = "maskrcnn" if "roi_heads.mask_predictor.mask_fcn_logits.bias" in present else "fasterrcnn"
    return f"{kind}_resnet50_fpn{version}", sizes
