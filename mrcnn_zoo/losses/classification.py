"""Losses of class logits and keypoint heatmaps, as sums that the caller divides by a count."""

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED_CLASS = -1  # of regions that are left out of the losses


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy, summed.

    Args:
        logits: (...,).
        targets: (...,) in [0, 1].

    Returns:
        Scalar; 0 with a gradient of 0 if there are no logits.
    """
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="sum")


def softmax_cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Softmax cross-entropy, summed.

    Args:
        logits: (R, K).
        classes: (R,) int64 in [0, K), or -1 for ignored rows.

    Returns:
        Scalar; 0 with a gradient of 0 if there are no rows.
    """
    return F.cross_entropy(logits, classes, ignore_index=IGNORED_CLASS, reduction="sum")


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Binary cross-entropy that down-weights easy examples, elementwise.

    Not `torchvision.ops.sigmoid_focal_loss`: where a probability rounds to 1, its loss is 0 and, for a gamma below 1,
    its gradient is not finite.

    Source: Lin et al. 2017 (Focal Loss), eq. 5.

    Args:
        logits: (...,) of any magnitude.
        targets: (...,) 0 or 1.
        alpha: weight of positive targets, in [0, 1]; negative targets have 1 - alpha.
        gamma: exponent of the probability of the wrong label, at least 0; 0 is plain cross-entropy.

    Returns:
        (...,).
    """
    is_positive = targets > 0
    correct = torch.where(is_positive, logits, -logits)  # logit of the correct label
    weight = torch.where(is_positive, alpha, 1 - alpha).to(logits.dtype)
    # The power is computed from the logarithm: a power below 1 has an infinite slope at 0.
    return weight * torch.exp(gamma * F.logsigmoid(-correct)) * F.softplus(-correct)


def focal_loss_of_classes(logits: Tensor, classes: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """The focal loss over all classes, summed.

    Computed as the sum of the negative terms plus a correction at the positives, without a one-hot table as large as
    the logits of all anchors.

    Args:
        logits: (R, K).
        classes: (R,) int64 in [0, K), K for background, -1 for ignored rows.
        alpha: see `sigmoid_focal_loss`.
        gamma: see `sigmoid_focal_loss`.

    Returns:
        Scalar; 0 with a gradient of 0 if there are no rows.
    """
    zero = torch.zeros((), device=logits.device)
    as_negative = sigmoid_focal_loss(logits, zero, alpha=alpha, gamma=gamma)
    rows = ((classes >= 0) & (classes < logits.shape[1])).nonzero().flatten()
    positive = logits[rows, classes[rows]]
    correction = sigmoid_focal_loss(positive, zero + 1, alpha=alpha, gamma=gamma) - as_negative[rows, classes[rows]]
    return as_negative.sum(dim=1).masked_fill(classes == IGNORED_CLASS, 0).sum() + correction.sum()


def heatmap_cross_entropy(logits: Tensor, cells: Tensor) -> Tensor:
    """Softmax cross-entropy over the cells of each heatmap, summed.

    Source: He et al. 2017 (Mask R-CNN), section 5.

    Args:
        logits: (R, J, M, M).
        cells: (R, J) int64 in [0, M * M), row by row, or -1 for ignored keypoints.

    Returns:
        Scalar; 0 with a gradient of 0 if there are no keypoints.
    """
    return softmax_cross_entropy(logits.flatten(0, 1).flatten(1), cells.flatten())
