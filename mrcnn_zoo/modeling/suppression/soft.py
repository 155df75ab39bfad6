"""Soft-NMS: overlapping boxes get lower scores instead of being removed."""

from collections.abc import Callable

import torch
from torch import Tensor

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.modeling.contracts import Candidates
from mrcnn_zoo.modeling.suppression.base import Suppression
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.registries import SUPPRESSIONS

MAX_PAIRS = 1 << 24  # overlaps of boxes held at a time: 64 MiB of float32
STEPS_BETWEEN_CHECKS = 64  # a check whether boxes are left is a host synchronisation


def soft_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, *, factor: Callable[[Tensor], Tensor], min_score: float
) -> tuple[Tensor, Tensor]:
    """Repeatedly keep the best remaining box and lower the scores of the boxes of its group that overlap it.

    All groups run in parallel: there are as many steps as boxes in the largest group.

    Source: Bodla et al. 2017 (Soft-NMS), figure 2.

    Args:
        boxes: (R, 4) pixels, finite.
        scores: (R,), at least 0.
        groups: (R,) integers, e.g. classes; boxes affect boxes of their own group only.
        factor: IoU in [0, 1] -> factor of the score in [0, 1], elementwise.
        min_score: boxes with lower scores, or scores of 0, are removed.

    Returns:
        (at most R,) int64 rows of the kept boxes, best first, and their lowered scores.
    """
    # Boxes below the threshold from the start would be last in the order and lower no score of a kept box.
    min_score = max(min_score, torch.finfo(torch.float32).tiny)
    rows = torch.nonzero(scores >= min_score).squeeze(1)
    rows = rows[groups[rows].argsort(stable=True)]
    counts = groups[rows].unique_consecutive(return_counts=True)[1].tolist()
    kept_rows, kept_scores = [rows[:0]], [scores[:0].float()]
    groups_at_a_time = max(1, MAX_PAIRS // max(counts, default=1) ** 2)
    for first in range(0, len(counts), groups_at_a_time):
        members = rows.split(counts)[first : first + groups_at_a_time]
        taken, taken_scores = _take_in_turn(
            [boxes[group].float() for group in members], [scores[group].float() for group in members], factor, min_score
        )
        is_kept = taken_scores >= min_score
        kept_rows.append(torch.nn.utils.rnn.pad_sequence(members, batch_first=True).gather(1, taken)[is_kept])
        kept_scores.append(taken_scores[is_kept])
    lowered, order = torch.cat(kept_scores).sort(descending=True, stable=True)
    return torch.cat(kept_rows)[order], lowered.to(scores.dtype)


def _take_in_turn(
    boxes: list[Tensor], scores: list[Tensor], factor: Callable[[Tensor], Tensor], min_score: float
) -> tuple[Tensor, Tensor]:
    """Soft-NMS of G groups: (G, steps) the box chosen in each step, and (G, steps) its score, 0 for none."""
    remaining = torch.nn.utils.rnn.pad_sequence(scores, batch_first=True)  # (G, M)
    factors = remaining.new_zeros((*remaining.shape, remaining.shape[1]))
    for pairs, members in zip(factors, boxes, strict=True):
        # The score of a chosen box becomes 0.
        pairs[: len(members), : len(members)] = factor(box_ops.iou(members, members)).fill_diagonal_(0)
    numbers = torch.arange(len(remaining), device=remaining.device)
    taken, taken_scores = [], []
    for step in range(remaining.shape[1]):
        if step % STEPS_BETWEEN_CHECKS == 0 and not (remaining >= min_score).any():
            break
        best_scores, best = remaining.max(dim=1)
        taken.append(best)
        taken_scores.append(best_scores)
        remaining *= factors[numbers, best]
    return torch.stack(taken, dim=1), torch.stack(taken_scores, dim=1)


class SoftSuppression(Suppression):
    """Soft-NMS per class.

    Source: Bodla et al. 2017 (Soft-NMS), section 3.

    Args:
        factor: IoU -> factor of the score: `LinearFactor`, `GaussianFactor` or another.
        min_score: boxes with lower scores are removed.
    """

    def __init__(self, factor: Callable[[Tensor], Tensor], *, min_score: float) -> None:
        super().__init__()
        self.factor = factor
        self.min_score = min_score

    def forward(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """The kept rows, best first, and their lowered scores.

        Args:
            boxes: (R, 4) pixels.
            scores: (R,).
            classes: (R,) int64.
        """
        return soft_nms(boxes, scores, classes, factor=self.factor, min_score=self.min_score)

    def suppress(self, candidates: Candidates) -> tuple[Tensor, Tensor]:
        """As `forward`, of each image; on an accelerator in one call with a group per image and class."""
        if candidates.boxes.device.type == "cpu":
            return super().suppress(candidates)
        rows, scores = self(
            candidates.boxes, candidates.scores, candidates.images * candidates.num_classes + candidates.classes
        )
        order = candidates.images[rows].argsort(stable=True)
        return rows[order], scores[order]


class LinearFactor:
    """1 - IoU for an IoU of at least the threshold, else 1.

    Source: Bodla et al. 2017, section 3, first formula.

    Args:
        iou_threshold: in [0, 1].
    """

    def __init__(self, iou_threshold: float) -> None:
        self.iou_threshold = iou_threshold

    def __call__(self, overlaps: Tensor) -> Tensor:
        """IoU (...,) -> (...,)."""
        return torch.where(overlaps >= self.iou_threshold, 1 - overlaps, 1.0)


class GaussianFactor:
    """exp(-IoU ** 2 / sigma), continuous in the IoU.

    Source: Bodla et al. 2017, eq. 3.

    Args:
        sigma: above 0; smaller values lower scores more.
    """

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma

    def __call__(self, overlaps: Tensor) -> Tensor:
        """IoU (...,) -> (...,)."""
        return torch.exp(-(overlaps**2) / self.sigma)


@SUPPRESSIONS.register("soft_linear")
def build_linear_suppression(cfg: CfgNode, iou_threshold: float) -> SoftSuppression:
    """Soft-NMS with the linear factor.

    Args:
        cfg: the whole config.
        iou_threshold: in [0, 1].
    """
    return SoftSuppression(LinearFactor(iou_threshold), min_score=cfg.MODEL.ROI_HEADS.SOFT_NMS_MIN_SCORE)


@SUPPRESSIONS.register("soft_gaussian")
def build_gaussian_suppression(cfg: CfgNode, _iou_threshold: float) -> SoftSuppression:
    """Soft-NMS with the Gaussian factor, which has no IoU threshold.

    Args:
        cfg: the whole config.
        _iou_threshold: in [0, 1].
    """
    sigma = cfg.MODEL.ROI_HEADS.SOFT_NMS_SIGMA
    return SoftSuppression(GaussianFactor(sigma), min_score=cfg.MODEL.ROI_HEADS.SOFT_NMS_MIN_SCORE)
