"""Suppression of duplicate boxes of the same object."""

from mrcnn_zoo.modeling.suppression.base import (
    FunctionSuppression,
    Suppression,
    best_overlapping,
    build_suppression,
    suppress_and_limit,
    suppression_losses,
)
from mrcnn_zoo.modeling.suppression.criterion import SuppressionCriterion, match_by_score
from mrcnn_zoo.modeling.suppression.gossip_net import GossipNet
from mrcnn_zoo.modeling.suppression.greedy import ClassAgnosticSuppression, GreedySuppression
from mrcnn_zoo.modeling.suppression.soft import GaussianFactor, LinearFactor, SoftSuppression

__all__ = [
    "ClassAgnosticSuppression",
    "FunctionSuppression",
    "GaussianFactor",
    "GossipNet",
    "GreedySuppression",
    "LinearFactor",
    "SoftSuppression",
    "Suppression",
    "SuppressionCriterion",
    "best_overlapping",
    "build_suppression",
    "match_by_score",
    "suppress_and_limit",
    "suppression_losses",
]
