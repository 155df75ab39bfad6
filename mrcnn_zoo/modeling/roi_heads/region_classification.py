"""Loss and scores of the class logits of regions, by the names of `ROI_BOX_HEAD.CLS_LOSS_TYPE`.

In all classes: logits are (R, K + 1); classes are (R,) int64 with K background and -1 ignored; `loss` is a scalar sum
over regions; `scores` are (R, K) in [0, 1].
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.losses.classification import (
    IGNORED_CLASS,
    binary_cross_entropy,
    focal_loss_of_classes,
    softmax_cross_entropy,
)
from mrcnn_zoo.modeling.contracts import RegionClassification
from mrcnn_zoo.registries import REGION_CLASSIFICATIONS


class SoftmaxClassification:
    """Softmax over the classes and the background."""

    def loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Cross-entropy."""
        return softmax_cross_entropy(logits, classes)

    def scores(self, logits: Tensor) -> Tensor:
        """Probability of each class; the rest to 1 is the background's."""
        return logits.softmax(dim=1)[:, :-1]


class SigmoidClassification:
    """Independent sigmoids per class; background is negative for all classes, and its logit is not used."""

    def loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Binary cross-entropy, summed over classes too."""
        logits, targets = binary_targets(logits, classes)
        return binary_cross_entropy(logits, targets)

    def scores(self, logits: Tensor) -> Tensor:
        """Probability of each class, independent of the others."""
        return logits[:, :-1].sigmoid()


class FocalClassification:
    """Independent sigmoids per class with the focal loss, which down-weights easy examples.

    Source: Lin et al. 2017 (Focal Loss), eq. 5, here for the regions of a second stage.

    Args:
        alpha: weight of positive targets, in [0, 1].
        gamma: exponent of the down-weighting, at least 0; 0 is plain cross-entropy.
    """

    def __init__(self, *, alpha: float, gamma: float) -> None:
        self.alpha = alpha
        self.gamma = gamma

    def loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Focal loss, summed over classes too."""
        return focal_loss_of_classes(logits[:, :-1], classes, alpha=self.alpha, gamma=self.gamma)

    def scores(self, logits: Tensor) -> Tensor:
        """Probability of each class, independent of the others."""
        return logits[:, :-1].sigmoid()


class FederatedClassification(nn.Module):
    """Independent sigmoids with a loss on the classes in the batch and on a random sample of the others per step.

    With many rare classes, the negative terms of all other regions would outweigh the few positive terms of a class.

    Source: Zhou et al. 2021 (Probabilistic two-stage detection), section 5.1.

    Args:
        num_classes: K.
        least_classes: number of classes in the loss of a step; more if the batch has more.
        frequency_power: classes are sampled in proportion to their number of images to this power.
    """

    class_weights: Tensor | None  # (K,)

    def __init__(self, num_classes: int, *, least_classes: int, frequency_power: float) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.least_classes = min(least_classes, num_classes)
        self.frequency_power = frequency_power
        self.register_buffer("class_weights", None, persistent=False)

    def set_class_counts(self, image_counts: Tensor) -> None:
        """Set the number of training images per class: (K,), on the device of the model.

        Raises:
            ValueError: another number of classes.
        """
        if image_counts.shape != (self.num_classes,):
            raise ValueError(f"{self.num_classes} classes need as many counts, not {tuple(image_counts.shape)}")
        self.class_weights = image_counts.float() ** self.frequency_power

    def loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Binary cross-entropy, summed over the sampled classes.

        Raises:
            UserError: the class counts are not set.
        """
        is_chosen = self.sample_classes(classes)
        logits, targets = binary_targets(logits, classes)
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return losses.sum(dim=0).masked_fill(~is_chosen, 0).sum()

    def scores(self, logits: Tensor) -> Tensor:
        """Probability of each class, independent of the others."""
        return logits[:, :-1].sigmoid()

    @torch.no_grad()
    def sample_classes(self, classes: Tensor) -> Tensor:
        """The classes in the loss, those among `classes` and a random sample of others: (R,) int64 -> (K,) bool."""
        if self.class_weights is None:
            raise UserError(
                "the class counts of the federated loss are not set. `mrcnn_zoo.training.run` counts the classes of "
                "the training data; elsewhere call set_class_counts(counts) of the box predictor's classification."
            )
        weights = self.class_weights.to(classes.device)
        is_present = torch.zeros(self.num_classes + 2, dtype=torch.bool, device=classes.device)
        is_present[classes] = True  # -1 and K are the two entries behind the classes
        is_present = is_present[: self.num_classes]
        # The largest quotients of weights and exponential random numbers are a sample without replacement in proportion
        # to the weights. Classes without images have weight 0 and are never sampled.
        keys = weights / torch.empty_like(weights).exponential_()
        keys = keys.masked_fill(is_present, torch.inf)
        drawn = keys.topk(self.least_classes)
        is_chosen = torch.zeros_like(is_present).scatter(0, drawn.indices, drawn.values > 0)
        return is_chosen | is_present


def binary_targets(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Class logits and one-hot targets of the regions that are not ignored.

    Args:
        logits: (R, K + 1).
        classes: (R,) int64 with K background and -1 ignored.

    Returns:
        (S, K) logits and (S, K) targets of 0 and 1, of the same dtype.
    """
    is_counted = classes != IGNORED_CLASS
    logits, classes = logits[is_counted], classes[is_counted]
    targets = F.one_hot(classes, logits.shape[1]).to(logits.dtype)
    return logits[:, :-1], targets[:, :-1]


@REGION_CLASSIFICATIONS.register("softmax")
def build_softmax_classification(_cfg: CfgNode) -> SoftmaxClassification:
    """Softmax over classes and background, as in Fast R-CNN."""
    return SoftmaxClassification()


@REGION_CLASSIFICATIONS.register("sigmoid")
def build_sigmoid_classification(_cfg: CfgNode) -> SigmoidClassification:
    """Independent sigmoids."""
    return SigmoidClassification()


@REGION_CLASSIFICATIONS.register("focal")
def build_focal_classification(cfg: CfgNode) -> FocalClassification:
    """Independent sigmoids with the focal loss."""
    head = cfg.MODEL.ROI_BOX_HEAD
    return FocalClassification(alpha=head.FOCAL_LOSS_ALPHA, gamma=head.FOCAL_LOSS_GAMMA)


@REGION_CLASSIFICATIONS.register("federated")
def build_federated_classification(cfg: CfgNode) -> FederatedClassification:
    """Independent sigmoids with a loss on a sample of the classes."""
    head = cfg.MODEL.ROI_BOX_HEAD
    return FederatedClassification(
        cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        least_classes=head.FED_LOSS_NUM_CLASSES,
        frequency_power=head.FED_LOSS_FREQ_WEIGHT_POWER,
    )


def build_region_classification(cfg: CfgNode) -> RegionClassification:
    """The classification of Detectron2's switches USE_SIGMOID_CE and USE_FED_LOSS, or else of `CLS_LOSS_TYPE`."""
    head = cfg.MODEL.ROI_BOX_HEAD
    by_switch = "federated" if head.USE_FED_LOSS else "sigmoid"
    return REGION_CLASSIFICATIONS.get(by_switch if head.USE_SIGMOID_CE else head.CLS_LOSS_TYPE)(cfg)
