"""Soft suppression, class by class: overlap lowers scores."""

from collections.abc import Callable

import torch
from torch import Tensor

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.modeling.contracts import Candidates
from mrcnn_zoo.modeling.suppression.base import Suppression
from mrcnn_zoo.ops.soft_nms import soft_nms
from mrcnn_zoo.registries import SUPPRESSIONS


class SoftSuppression(Suppression):
    """The best box stays as it is, and those of its class that overlap it get lower scores; then the next, and so on.

    Source: Bodla et al. 2017 (Soft-NMS), section 3.

    Args:
        factor: `LinearFactor`, `GaussianFactor` or another map of IoU to what scores are multiplied by.
        min_score: boxes whose lowered score is below this are dropped.
    """

    def __init__(self, factor: Callable[[Tensor], Tensor], *, min_score: float) -> None:
        super().__init__()
        self.factor = factor
        self.min_score = min_score

    def forward(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Rows that stay, best first, and their lowered scores.

        Args:
            boxes: (R, 4) pixels.
            scores: (R,).
            classes: (R,) int64.
        """
        return soft_nms(boxes, scores, classes, factor=self.factor, min_score=self.min_score)

    def suppress(self, candidates: Candidates) -> tuple[Tensor, Tensor]:
        """The same for each image; on an accelerator for all together, a class of an image being a group."""
        if candidates.boxes.device.type == "cpu":
            return super().suppress(candidates)
        rows, scores = self(
            candidates.boxes, candidates.scores, candidates.images * candidates.num_classes + candidates.classes
        )
        order = candidates.images[rows].argsort(stable=True)
        return rows[order], scores[order]


class LinearFactor:
    """1 minus the overlap, from a threshold on.

    Source: Bodla et al. 2017, section 3, first formula.

    Args:
        iou_threshold: a smaller overlap changes nothing.
    """

    def __init__(self, iou_threshold: float) -> None:
        self.iou_threshold = iou_threshold

    def __call__(self, overlaps: Tensor) -> Tensor:
        """IoU (...,) -> (...,)."""
        return torch.where(overlaps >= self.iou_threshold, 1 - overlaps, 1.0)


class GaussianFactor:
    """exp(-overlap ** 2 / sigma): no threshold, and so no jump.

    Source: Bodla et al. 2017, eq. 3.

    Args:
        sigma: the smaller, the harder.
    """

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma

    def __call__(self, overlaps: Tensor) -> Tensor:
        """IoU (...,) -> (...,)."""
        return torch.exp(-(overlaps**2) / self.sigma)


@SUPPRESSIONS.register("soft_linear")
def build_linear_suppression(cfg: CfgNode, iou_threshold: float) -> SoftSuppression:
    """Soft-NMS with the linear factor."""
    return SoftSuppression(LinearFactor(iou_threshold), min_score=cfg.MODEL.ROI_HEADS.SOFT_NMS_MIN_SCORE)


@SUPPRESSIONS.register("soft_gaussian")
def build_gaussian_suppression(cfg: CfgNode, _iou_threshold: float) -> SoftSuppression:
    """Soft-NMS with the Gaussian factor, which has a width and no threshold."""
    sigma = cfg.MODEL.ROI_HEADS.SOFT_NMS_SIGMA
    return SoftSuppression(GaussianFactor(sigma), min_score=cfg.MODEL.ROI_HEADS.SOFT_NMS_MIN_SCORE)
