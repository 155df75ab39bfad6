"""From regions of any size to maps of one size."""

from mrcnn_zoo.modeling.poolers.pooling_operations import (
    CropAndResize,
    RoIAlign,
    RoIPool,
    RoIWarp,
    RoundedRoIs,
)
from mrcnn_zoo.modeling.poolers.pyramid_pooler import (
    LevelAssignment,
    PyramidPooler,
    build_head_pooler,
    build_pyramid_pooler,
    select_specs,
)

__all__ = [
    "CropAndResize",
    "LevelAssignment",
    "PyramidPooler",
    "RoIAlign",
    "RoIPool",
    "RoIWarp",
    "RoundedRoIs",
    "build_head_pooler",
    "build_pyramid_pooler",
    "select_specs",
]
