"""From regions of any size to maps of one size."""

from mrcnn_zoo.modeling.poolers.pooling_operations import RoIAlign, RoIPool
from mrcnn_zoo.modeling.poolers.pyramid_pooler import PyramidPooler, assign_levels, build_pyramid_pooler

__all__ = ["PyramidPooler", "RoIAlign", "RoIPool", "assign_levels", "build_pyramid_pooler"]
