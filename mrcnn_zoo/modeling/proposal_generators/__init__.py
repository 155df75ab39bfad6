"""Proposal generators: boxes that may contain an object."""

from collections.abc import Mapping

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.modeling.contracts import ProposalGenerator
from mrcnn_zoo.modeling.proposal_generators.edge_boxes import EdgeBoxes
from mrcnn_zoo.modeling.proposal_generators.image_search import ImageSearch
from mrcnn_zoo.modeling.proposal_generators.multibox import MultiBox
from mrcnn_zoo.modeling.proposal_generators.precomputed import GroundTruthProposals, PrecomputedProposals
from mrcnn_zoo.modeling.proposal_generators.rpn import RPN
from mrcnn_zoo.modeling.proposal_generators.rpn_head import StandardRPNHead
from mrcnn_zoo.modeling.proposal_generators.selection import ProposalSelection
from mrcnn_zoo.modeling.proposal_generators.selective_search import SelectiveSearch
from mrcnn_zoo.modeling.proposal_generators.separate_rpn import SeparateRPN
from mrcnn_zoo.modeling.proposal_generators.sliding_window import SlidingWindow
from mrcnn_zoo.registries import PROPOSAL_GENERATORS
from mrcnn_zoo.structures import FeatureSpec

__all__ = [
    "RPN",
    "EdgeBoxes",
    "GroundTruthProposals",
    "ImageSearch",
    "MultiBox",
    "PrecomputedProposals",
    "ProposalSelection",
    "SelectiveSearch",
    "SeparateRPN",
    "SlidingWindow",
    "StandardRPNHead",
    "build_proposal_generator",
]


def build_proposal_generator(cfg: CfgNode, feature_specs: Mapping[str, FeatureSpec]) -> ProposalGenerator:
    """The generator that `MODEL.PROPOSAL_GENERATOR.NAME` names.

    Args:
        cfg: the whole config.
        feature_specs: maps of the backbone by name.
    """
    return PROPOSAL_GENERATORS.get(cfg.MODEL.PROPOSAL_GENERATOR.NAME)(cfg, feature_specs)
