"""Soft non-maximum suppression: a box that overlaps a better one gets a lower score instead of being dropped."""

from collections.abc import Callable

import torch
from torch import Tensor

from mrcnn_zoo.ops import boxes as box_ops

MAX_PAIRS = 1 << 24  # overlaps of boxes held at a time: 64 MiB of float32
STEPS_BETWEEN_CHECKS = 64  # asking whether any box is left means waiting for the device


def soft_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, *, factor: Callable[[Tensor], Tensor], min_score: float
) -> tuple[Tensor, Tensor]:
    """Take the best box, lower the scores of the others in its group that overlap it, and so on with the rest.

    All groups take their next box at the same time, so there are as many steps as the largest group has boxes.

    Source: Bodla et al. 2017 (Soft-NMS), figure 2.

    Args:
        boxes: (R, 4) pixels, finite.
        scores: (R,), at least 0.
        groups: (R,) integers, e.g. classes; boxes of different groups leave each other alone.
        factor: IoU in [0, 1] -> what scores are multiplied by, in [0, 1]; any shape.
        min_score: boxes whose score falls below this, or to 0, are dropped.

    Returns:
        (at most R,) int64 rows of the kept boxes, best first, and their lowered scores.
    """
    # What is below the threshold from the start would be taken last, and so lowers nothing that stays.
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
    """Boxes and scores of G groups -> (G, steps) the member that each step takes, and its score then, 0 for none."""
    remaining = torch.nn.utils.rnn.pad_sequence(scores, batch_first=True)  # (G, M)
    factors = remaining.new_zeros((*remaining.shape, remaining.shape[1]))
    for pairs, members in zip(factors, boxes, strict=True):
        # A box that is taken leaves with a score of 0.
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
