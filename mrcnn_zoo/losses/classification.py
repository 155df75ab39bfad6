"""Losses of class scores and of keypoint heatmaps, as sums that the caller divides by a count."""

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED_CLASS = -1  # the class of regions that take no part in a loss


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
    return F.cross_entropy(logits, classes, ignore_index=IGNORED_CLASS, reduction="sum")


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Cross-entropy of yes-or-no decisions in which those count little that are right already; one value a decision.

    Source: Lin et al. 2017 (Focal Loss), eq. 5.

    Args:
        logits: (...,), of any size: nothing here overflows or loses small losses to rounding.
        targets: (...,) 0 or 1.
        alpha: weight of decisions that should be yes, in [0, 1]; the others get 1 - alpha.
        gamma: exponent of the probability of being wrong; 0 is plain cross-entropy.
    """
    is_yes = targets > 0
    # As the logit of the right answer, both kinds are the same formula.
    right = torch.where(is_yes, logits, -logits)
    weight = torch.where(is_yes, alpha, 1 - alpha).to(logits.dtype)
    # The power in logarithms: where the probability is 0 in float, a power below 1 would have an infinite slope.
    return weight * torch.exp(gamma * F.logsigmoid(-right)) * F.softplus(-right)


def focal_loss_of_classes(logits: Tensor, classes: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """The focal loss of one decision for every class, summed.

    The loss is that of a no everywhere, corrected in the few places of a yes. A table of targets, which would be as
    large as the logits of all anchors, is never made.

    Args:
        logits: (R, K).
        classes: (R,) int64 in [0, K); K is background, a no to all; rows of class -1 are left out.
        alpha: see `sigmoid_focal_loss`.
        gamma: see `sigmoid_focal_loss`.

    Returns:
        Scalar; 0 with a gradient of 0 when there are no rows.
    """
    nowhere = torch.zeros((), device=logits.device)
    as_no = sigmoid_focal_loss(logits, nowhere, alpha=alpha, gamma=gamma)
    rows = ((classes >= 0) & (classes < logits.shape[1])).nonzero().flatten()
    yes = logits[rows, classes[rows]]
    correction = sigmoid_focal_loss(yes, nowhere + 1, alpha=alpha, gamma=gamma) - as_no[rows, classes[rows]]
    return as_no.sum(dim=1).masked_fill(classes == IGNORED_CLASS, 0).sum() + correction.sum()


def heatmap_cross_entropy(logits: Tensor, cells: Tensor) -> Tensor:
    """Cross-entropy of one choice among the cells of each heatmap, summed.

    The cells compete, unlike the pixels of a mask: a keypoint is in one place only.

    Source: He et al. 2017 (Mask R-CNN), section 5.

    Args:
        logits: (R, J, M, M).
        cells: (R, J) int64 in [0, M * M), row after row; -1 leaves the keypoint out.

    Returns:
        Scalar; 0 with a gradient of 0 when there is no keypoint.
    """
    return softmax_cross_entropy(logits.flatten(0, 1).flatten(1), cells.flatten())
