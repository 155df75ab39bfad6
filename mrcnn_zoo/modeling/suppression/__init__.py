"""Of many boxes around the same object, keep one."""

from mrcnn_zoo.modeling.suppression.greedy import GreedySuppression

__all__ = ["GreedySuppression"]
