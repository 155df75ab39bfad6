"""Anchor generators: the reference boxes that predictions are relative to."""

from collections.abc import Sequence

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.modeling.anchors.anchored_levels import AnchoredLevels, build_anchored_levels, input_maps
from mrcnn_zoo.modeling.anchors.grid_anchors import GridAnchors
from mrcnn_zoo.modeling.anchors.integer_anchors import IntegerAnchors
from mrcnn_zoo.modeling.contracts import AnchorGenerator
from mrcnn_zoo.registries import ANCHOR_GENERATORS

__all__ = [
    "AnchoredLevels",
    "GridAnchors",
    "IntegerAnchors",
    "build_anchor_generator",
    "build_anchored_levels",
    "input_maps",
]


def build_anchor_generator(cfg: CfgNode, strides: Sequence[int]) -> AnchorGenerator:
    """The generator that `MODEL.ANCHOR_GENERATOR.NAME` names.

    Args:
        cfg: the whole config.
        strides: pixels per cell of each feature map.
    """
    return ANCHOR_GENERATORS.get(cfg.MODEL.ANCHOR_GENERATOR.NAME)(cfg, strides)
