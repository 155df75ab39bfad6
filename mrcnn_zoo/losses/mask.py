"""Losses of predicted masks; sums over pixels, which the caller divides by what it counts."""

from typing import Protocol

from torch import Tensor

from mrcnn_zoo.losses.classification import binary_cross_entropy
from mrcnn_zoo.registries import MASK_LOSSES


class MaskLoss(Protocol):
    """How far predicted masks are from their targets."""

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss summed over masks and pixels.

        Args:
            logits: (R, M, M), each region's map of its own class.
            targets: (R, M, M) bool.

        Returns:
            Scalar; 0 with a gradient of 0 when there are no masks.
        """
        ...


def sigmoid_mask_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of each pixel: the classes do not compete, only the map of the true class is trained.

    Source: He et al. 2017 (Mask R-CNN), section 3, "Mask Representation" and table 2b.
    """
    return binary_cross_entropy(logits, targets)


@MASK_LOSSES.register("sigmoid")
def build_sigmoid_mask_loss() -> MaskLoss:
    """Per-class sigmoid."""
    return sigmoid_mask_loss
