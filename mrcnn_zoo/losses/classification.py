"""Losses of class scores; sums, which the caller divides by what it counts."""

from torch import Tensor
from torch.nn import functional as F

IGNORED = -1  # the class of regions that take no part in a loss


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of independent yes-or-no decisions, summed.

    Args:
        logits: (...,).
        targets: (...,) in [0, 1].

    Returns:
        Scalar; 0 with a gradient of 0 when there is nothing to decide.
    """
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="sum")


def softmax_cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of one choice among classes, summed.

    Args:
        logits: (R, classes).
        classes: (R,) int64; rows of class -1 are left out.

    Returns:
        Scalar; 0 with a gradient of 0 when there are no rows.
    """
    return F.cross_entropy(logits, classes, ignore_index=IGNORED, reduction="sum")
