"""Greedy non-maximum suppression."""

import torchvision
from torch import Tensor


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, *, iou_threshold: float) -> Tensor:
    """Drop each box that overlaps a better box of its own group by more than the threshold.

    Args:
        boxes: (R, 4) pixels, finite.
        scores: (R,).
        groups: (R,) integers, e.g. classes or pyramid levels; boxes of different groups never suppress each other.
        iou_threshold: in [0, 1].

    Returns:
        (at most R,) int64 rows of the kept boxes, best first.
    """
    # In float32 even under AMP: in half precision neighbouring boxes of a large image fall together.
    return torchvision.ops.batched_nms(boxes.float(), scores.float(), groups, iou_threshold)
