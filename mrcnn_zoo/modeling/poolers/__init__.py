"""Poolers: maps of one size from regions of any size."""

from mrcnn_zoo.modeling.poolers.pooling_operations import FunctionPooling
from mrcnn_zoo.modeling.poolers.pyramid_pooler import (
    LevelAssignment,
    PyramidPooler,
    build_head_pooler,
    build_pyramid_pooler,
    select_specs,
)

__all__ = [
    "FunctionPooling",
    "LevelAssignment",
    "PyramidPooler",
    "build_head_pooler",
    "build_pyramid_pooler",
    "select_specs",
]
