"""How class logits of regions are trained and turned into scores."""

from typing import Protocol

from torch import Tensor
from torch.nn import functional as F

from mrcnn_zoo.losses.classification import IGNORED, binary_cross_entropy, softmax_cross_entropy


class RegionClassification(Protocol):
    """What the K + 1 logits of a region mean."""

    def loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        """(R, K + 1), (R,) int64 with K background and -1 ignored -> scalar, summed over regions."""
        ...

    def scores(self, logits: Tensor) -> Tensor:
        """(R, K + 1) -> (R, K) in [0, 1]."""
        ...


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
        is_counted = classes != IGNORED
        logits, classes = logits[is_counted], classes[is_counted]
        targets = F.one_hot(classes, logits.shape[1])
        return binary_cross_entropy(logits[:, :-1], targets[:, :-1])

    def scores(self, logits: Tensor) -> Tensor:
        """Probability of each class, independent of the others."""
        return logits[:, :-1].sigmoid()
