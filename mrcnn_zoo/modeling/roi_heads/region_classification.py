"""How class logits of regions are trained and turned into scores, by the name in `ROI_BOX_HEAD.CLS_LOSS_TYPE`."""

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
    """One choice among the classes and the background."""

    def loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Cross-entropy."""
        return softmax_cross_entropy(logits, classes)

    def scores(self, logits: Tensor) -> Tensor:
        """Probability of each class; what is missing to 1 is the background's."""
        return logits.softmax(dim=1)[:, :-1]


class SigmoidClassification:
    """A yes or no for every class; the background is a no to all of them, and its own logit is not used."""

    def loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Binary cross-entropy, summed over classes too."""
        logits, targets = counted_decisions(logits, classes)
        return binary_cross_entropy(logits, targets)

    def scores(self, logits: Tensor) -> Tensor:
        """Probability of each class, independent of the others."""
        return logits[:, :-1].sigmoid()


class FocalClassification:
    """A yes or no for every class, of which those count little that are right already.

    Source: Lin et al. 2017 (Focal Loss), eq. 5, here for the regions of a second stage.

    Args:
        alpha: weight of decisions that should be yes, in [0, 1].
        gamma: how much less the right ones count; 0 is plain cross-entropy.
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
    """A yes or no only for the classes in the batch and for some others, drawn anew in each step.

    With many classes of which most are rare, the no of all the other regions would drown a rare class's few yes.

    Source: Zhou et al. 2021 (Probabilistic two-stage detection), section 5.1.

    Args:
        num_classes: K.
        least_classes: so many classes count in a step, or all those in the batch where they are more.
        frequency_power: classes are drawn in proportion to their number of images to this power.
    """

    class_weights: Tensor | None  # (K,)

    def __init__(self, num_classes: int, *, least_classes: int, frequency_power: float) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.least_classes = min(least_classes, num_classes)
        self.frequency_power = frequency_power
        self.register_buffer("class_weights", None, persistent=False)

    def set_class_counts(self, image_counts: Tensor) -> None:
        """Tell in how many training images each class is: (K,), on the device of the model."""
        if image_counts.shape != (self.num_classes,):
            raise ValueError(f"{self.num_classes} classes need as many counts, not {tuple(image_counts.shape)}")
        self.class_weights = image_counts.float() ** self.frequency_power

    def loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Binary cross-entropy, summed over the chosen classes.

        Raises:
            UserError: nobody has told the class counts.
        """
        is_chosen = self.choose(classes)
        logits, targets = counted_decisions(logits, classes)
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return losses.sum(dim=0).masked_fill(~is_chosen, 0).sum()

    def scores(self, logits: Tensor) -> Tensor:
        """Probability of each class, independent of the others."""
        return logits[:, :-1].sigmoid()

    @torch.no_grad()
    def choose(self, classes: Tensor) -> Tensor:
        """The classes that count: all that are among `classes` (R,), and others by chance -> (K,) bool."""
        if self.class_weights is None:
            raise UserError(
                "the federated loss does not know how frequent the classes are. `mrcnn_zoo.training.run` counts them "
                "in the training data; elsewhere call set_class_counts(counts) of the box predictor's classification."
            )
        weights = self.class_weights.to(classes.device)
        is_present = torch.zeros(self.num_classes + 2, dtype=torch.bool, device=classes.device)
        is_present[classes] = True  # -1 and the background fall into the two places behind the classes
        is_present = is_present[: self.num_classes]
        # The largest quotients of weights and exponential numbers are a draw without replacement in proportion to the
        # weights. Classes without a single image have weight 0 and are never drawn.
        lots = weights / torch.empty_like(weights).exponential_()
        lots = lots.masked_fill(is_present, torch.inf)
        drawn = lots.topk(self.least_classes)
        is_chosen = torch.zeros_like(is_present).scatter(0, drawn.indices, drawn.values > 0)
        return is_chosen | is_present


def counted_decisions(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """The yes-or-no logits of the regions that are not ignored, and what they should be.

    Args:
        logits: (R, K + 1).
        classes: (R,) int64 with K background and -1 ignored.

    Returns:
        (S, K) logits and (S, K) 0 or 1, of the same type.
    """
    is_counted = classes != IGNORED_CLASS
    logits, classes = logits[is_counted], classes[is_counted]
    targets = F.one_hot(classes, logits.shape[1]).to(logits.dtype)
    return logits[:, :-1], targets[:, :-1]


@REGION_CLASSIFICATIONS.register("softmax")
def build_softmax_classification(_cfg: CfgNode) -> SoftmaxClassification:
    """Fast R-CNN's softmax."""
    return SoftmaxClassification()


@REGION_CLASSIFICATIONS.register("sigmoid")
def build_sigmoid_classification(_cfg: CfgNode) -> SigmoidClassification:
    """Independent classes."""
    return SigmoidClassification()


@REGION_CLASSIFICATIONS.register("focal")
def build_focal_classification(cfg: CfgNode) -> FocalClassification:
    """Independent classes with RetinaNet's loss."""
    head = cfg.MODEL.ROI_BOX_HEAD
    return FocalClassification(alpha=head.FOCAL_LOSS_ALPHA, gamma=head.FOCAL_LOSS_GAMMA)


@REGION_CLASSIFICATIONS.register("federated")
def build_federated_classification(cfg: CfgNode) -> FederatedClassification:
    """Independent classes of which a step looks at some."""
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
