"""Losses of mask logits, as sums over pixels that the caller divides by a count."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from mrcnn_zoo.losses.classification import binary_cross_entropy
from mrcnn_zoo.registries import MASK_LOSSES


class MaskLoss(Protocol):
    """Loss and meaning of mask logits.

    Attributes:
        maps_compete: True for a softmax over the maps of all classes and the background, False if only the map of the
            region's class is used.
    """

    maps_compete: bool

    def __call__(self, logits: Tensor, targets: Tensor, classes: Tensor) -> Tensor:
        """The loss summed over regions and pixels; a loss per mask is multiplied by its number of pixels.

        Args:
            logits: (R, M, M) of each region's class, or (R, K + 1, M, M) if maps compete.
            targets: (R, M, M) bool.
            classes: (R,) int64; class-agnostic masks have K = 1 for all classes.

        Returns:
            Scalar; 0 with a gradient of 0 if there are no regions.
        """
        ...

    def probabilities(self, logits: Tensor, classes: Tensor) -> Tensor:
        """The probability that a pixel belongs to the object: logits and classes as above -> (R, M, M) in [0, 1]."""
        ...


class SigmoidMaskLoss:
    """Binary cross-entropy per pixel of the map of the true class.

    Source: He et al. 2017 (Mask R-CNN), section 3, "Mask Representation" and table 2b.
    """

    maps_compete = False

    def __call__(self, logits: Tensor, targets: Tensor, _classes: Tensor) -> Tensor:
        """(R, M, M), (R, M, M) bool -> scalar."""
        return binary_cross_entropy(logits, targets)

    def probabilities(self, logits: Tensor, _classes: Tensor) -> Tensor:
        """(R, M, M) -> (R, M, M)."""
        return logits.sigmoid()


class SoftmaxMaskLoss:
    """Softmax cross-entropy per pixel over all classes and the background, the target of pixels off the object.

    Source: He et al. 2017 (Mask R-CNN), table 2b, "softmax".
    """

    maps_compete = True

    def __call__(self, logits: Tensor, targets: Tensor, classes: Tensor) -> Tensor:
        """(R, K + 1, M, M), (R, M, M) bool, (R,) -> scalar."""
        background = logits.shape[1] - 1
        labels = torch.where(targets, _map_numbers(logits, classes)[:, None, None], background)
        return F.cross_entropy(logits, labels, reduction="sum")

    def probabilities(self, logits: Tensor, classes: Tensor) -> Tensor:
        """(R, K + 1, M, M), (R,) -> (R, M, M)."""
        regions = torch.arange(len(logits), device=logits.device)
        return logits.softmax(dim=1)[regions, _map_numbers(logits, classes)]


class DiceMaskLoss:
    """1 minus the Dice coefficient, in which small and large objects have the same weight.

    Source: Milletari et al. 2016 (V-Net), section 3; 1 is added to numerator and denominator, so that an empty
    prediction of an empty mask has loss 0.
    """

    maps_compete = False

    def __call__(self, logits: Tensor, targets: Tensor, _classes: Tensor) -> Tensor:
        """(R, M, M), (R, M, M) bool -> scalar."""
        predicted, target = logits.sigmoid().flatten(1), targets.flatten(1).to(logits.dtype)
        common = (predicted * target).sum(dim=1)
        total = predicted.square().sum(dim=1) + target.sum(dim=1)
        return (1 - (2 * common + 1) / (total + 1)).sum() * predicted.shape[1]

    def probabilities(self, logits: Tensor, _classes: Tensor) -> Tensor:
        """(R, M, M) -> (R, M, M)."""
        return logits.sigmoid()


def _map_numbers(logits: Tensor, classes: Tensor) -> Tensor:
    """The number of each class's map among (R, K + 1, M, M): the class, or 0 for class-agnostic masks."""
    return classes.clamp(max=logits.shape[1] - 2)


@MASK_LOSSES.register("sigmoid")
def build_sigmoid_mask_loss() -> SigmoidMaskLoss:
    """Per-class sigmoid."""
    return SigmoidMaskLoss()


@MASK_LOSSES.register("softmax")
def build_softmax_mask_loss() -> SoftmaxMaskLoss:
    """Softmax over classes and background."""
    return SoftmaxMaskLoss()


@MASK_LOSSES.register("dice")
def build_dice_mask_loss() -> DiceMaskLoss:
    """Per-class sigmoid with the Dice loss."""
    return DiceMaskLoss()
