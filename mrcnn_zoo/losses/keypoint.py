"""Losses of predicted keypoints; sums over keypoints, which the caller divides by what it counts."""

from torch import Tensor

from mrcnn_zoo.losses.classification import softmax_cross_entropy


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
