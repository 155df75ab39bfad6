"""Labels and losses of learned suppression: which detections the evaluation counts as correct."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mrcnn_zoo.modeling.contracts import Candidates
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.structures import LossSum, Targets, TrainingOutput


@dataclass(frozen=True)
class SuppressionCriterion:
    """Labels detections as the evaluation does, and computes the losses.

    Source: Hosang et al. 2017 (Learning Non-Maximum Suppression), sec. 4.1, for a single IoU. The mean over several, as
    in COCO's AP, prefers the best localised of the detections of an object: at 0.5 any of them may be the one to keep.

    As in the paper, the positives have the weight `positive_weight` in total and the negatives 1 minus it; their
    numbers are those of the batch over all processes.

    Args:
        min_ious: T minimum IoUs of a correct detection with its object, each in (0, 1].
        positive_weight: share of the positives in the loss, in (0, 1).
        loss_weight: factor of the losses.
    """

    min_ious: Sequence[float] = (0.5,)
    positive_weight: float = 0.1
    loss_weight: float = 1.0

    def losses(self, logits: Tensor, candidates: Candidates, targets: list[Targets]) -> TrainingOutput:
        """`loss_suppression_pos` of the best detection of each object, `loss_suppression_neg` of all others.

        Args:
            logits: (R,) of the candidates.
            candidates: R of them.
            targets: ground truth of each image.
        """
        is_positive = match_by_score(logits.detach(), candidates, targets, min_ious=self.min_ious)
        num_positive = is_positive.sum()
        positive_loss = (F.softplus(-logits) * is_positive).sum()
        negative_loss = (F.softplus(logits) * ~is_positive).sum()
        positive_weight = self.loss_weight * self.positive_weight
        negative_weight = self.loss_weight * (1 - self.positive_weight)
        num_objects = sum(len(table) for table in targets)
        return TrainingOutput(
            losses={
                "loss_suppression_pos": LossSum(positive_weight * positive_loss, num_positive),
                "loss_suppression_neg": LossSum(negative_weight * negative_loss, is_positive.numel() - num_positive),
            },
            metrics={
                "suppression/num_candidates": torch.full((), float(len(logits)), device=logits.device),
                "suppression/matched_objects": is_positive[0].sum() / max(num_objects, 1),
            },
        )


@torch.no_grad()
def match_by_score(
    scores: Tensor, candidates: Candidates, targets: list[Targets], *, min_ious: Sequence[float]
) -> Tensor:
    """Which detections COCO's evaluation counts as correct.

    In descending order of score each detection takes the object of its class with the largest IoU that no better
    detection has taken.

    Args:
        scores: (R,) of the candidates, in place of their own.
        candidates: R of them.
        targets: ground truth of each image.
        min_ious: T minimum IoUs of a correct detection with its object.

    Returns:
        (T, R) bool.
    """
    counts = list(candidates.counts)
    orders = [of_image.argsort(descending=True) for of_image in scores.split(counts)]
    overlaps = []
    for boxes, classes, truth in zip(
        candidates.boxes.split(counts), candidates.classes.split(counts), targets, strict=True
    ):
        overlaps.append(box_ops.iou(boxes, truth.boxes).masked_fill(classes[:, None] != truth.classes, 0))
    # The loop is on the host: one copy for the whole batch. float64 holds row numbers.
    parts = [part.flatten().double() for part in (*orders, *overlaps)]
    host = torch.cat(parts).cpu().split([len(part) for part in parts])
    matched = [
        _match_image(order.long().numpy(), table.view(len(order), -1).numpy(), min_ious)
        if len(table)
        else np.zeros((len(min_ious), len(order)), dtype=bool)
        for order, table in zip(host[: len(counts)], host[len(counts) :], strict=True)
    ]
    return torch.from_numpy(np.concatenate(matched, axis=1)).to(scores.device)


def _match_image(
    order: NDArray[np.int64], overlaps: NDArray[np.float64], min_ious: Sequence[float]
) -> NDArray[np.bool_]:
    """(R,) rows best first, (R, G) IoU, which is 0 for other classes -> (T, R) whether each row is correct."""
    matched = np.zeros((len(min_ious), len(order)), dtype=bool)
    for of_threshold, min_iou in zip(matched, min_ious, strict=True):
        free = overlaps * (overlaps >= min_iou)
        for row in order[free.max(axis=1)[order] > 0]:
            column = free[row].argmax()
            if free[row, column] > 0:
                of_threshold[row] = True
                free[:, column] = 0
    return matched
