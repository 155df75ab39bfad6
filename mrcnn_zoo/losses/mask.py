"""Losses of predicted masks; sums over pixels, which the caller divides by what it counts."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from mrcnn_zoo.losses.classification import binary_cross_entropy
from mrcnn_zoo.registries import MASK_LOSSES


class MaskLoss(Protocol):
    """What the maps of a region mean, and how far they are from its mask.

    Where the maps compete, the loss needs all of them: those of the classes, then one of the background. Otherwise the
    map of the region's class is enough, and the others need not be computed.
    """

    maps_compete: bool

    def __call__(self, logits: Tensor, targets: Tensor, classes: Tensor) -> Tensor:
        """The loss summed over masks and pixels; a loss of a mask as a whole counts once for each of its pixels.

        Args:
            logits: (R, M, M), each region's map of its own class; (R, K + 1, M, M) where maps compete.
            targets: (R, M, M) bool.
            classes: (R,) int64. K is 1 when masks do not depend on the class, whatever the classes are.

        Returns:
            Scalar; 0 with a gradient of 0 when there are no masks.
        """
        ...

    def probabilities(self, logits: Tensor, classes: Tensor) -> Tensor:
        """How likely each pixel is on the object: logits and classes as above -> (R, M, M) in [0, 1]."""
        ...


class SigmoidMaskLoss:
    """Binary cross-entropy of each pixel: the classes do not compete, only the map of the true class is trained.

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
    """Cross-entropy of one choice for each pixel, among all classes and the background.

    A pixel of the object should choose the region's class, any other the background.

    Source: He et al. 2017 (Mask R-CNN), table 2b, "softmax".
    """

    maps_compete = True

    def __call__(self, logits: Tensor, targets: Tensor, classes: Tensor) -> Tensor:
        """(R, K + 1, M, M), (R, M, M) bool, (R,) -> scalar."""
        background = logits.shape[1] - 1
        labels = torch.where(targets, _rows_of_maps(logits, classes)[:, None, None], background)
        return F.cross_entropy(logits, labels, reduction="sum")

    def probabilities(self, logits: Tensor, classes: Tensor) -> Tensor:
        """(R, K + 1, M, M), (R,) -> (R, M, M)."""
        regions = torch.arange(len(logits), device=logits.device)
        return logits.softmax(dim=1)[regions, _rows_of_maps(logits, classes)]


class DiceMaskLoss:
    """1 minus the overlap of prediction and mask: small objects weigh as much as large ones.

    Source: Milletari et al. 2016 (V-Net), section 3. One is added above and below, so that an empty mask that is
    predicted as empty has no loss.
    """

    maps_compete = False

    def __call__(self, logits: Tensor, targets: Tensor, _classes: Tensor) -> Tensor:
        """(R, M, M), (R, M, M) bool -> scalar."""
        predicted, wanted = logits.sigmoid().flatten(1), targets.flatten(1).to(logits.dtype)
        shared = (predicted * wanted).sum(dim=1)
        total = predicted.square().sum(dim=1) + wanted.sum(dim=1)
        return (1 - (2 * shared + 1) / (total + 1)).sum() * predicted.shape[1]

    def probabilities(self, logits: Tensor, _classes: Tensor) -> Tensor:
        """(R, M, M) -> (R, M, M)."""
        return logits.sigmoid()


def _rows_of_maps(logits: Tensor, classes: Tensor) -> Tensor:
    """The map of each class among (R, K + 1, M, M): the class itself, or the only one that is not the background's."""
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
    """Per-class sigmoid, trained by overlap."""
    return DiceMaskLoss()
