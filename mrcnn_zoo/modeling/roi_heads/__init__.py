"""Region heads: class, box, mask and keypoints of each proposed region."""

from collections.abc import Mapping

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.modeling.contracts import RoIHeads
from mrcnn_zoo.modeling.roi_heads.box_head import BoxPredictor, FastRCNNConvFCHead
from mrcnn_zoo.modeling.roi_heads.branch import PooledBranch, RegionBranch
from mrcnn_zoo.modeling.roi_heads.cascade_heads import CascadeROIHeads
from mrcnn_zoo.modeling.roi_heads.detection_selection import DetectionSelection
from mrcnn_zoo.modeling.roi_heads.keypoint_head import KRCNNConvDeconvUpsampleHead
from mrcnn_zoo.modeling.roi_heads.mask_head import (
    MaskCriterion,
    MaskRCNNConvUpsampleHead,
    MaskRCNNMLPHead,
    PooledMaskHead,
    mask_targets,
)
from mrcnn_zoo.modeling.roi_heads.mask_iou_head import MaskIoUHead
from mrcnn_zoo.modeling.roi_heads.point_head import PointSampler, StandardPointHead
from mrcnn_zoo.modeling.roi_heads.point_rend import PointRendMaskHead
from mrcnn_zoo.modeling.roi_heads.res5_heads import Res5ROIHeads
from mrcnn_zoo.modeling.roi_heads.standard_heads import RegionHeads, StandardROIHeads
from mrcnn_zoo.registries import ROI_HEADS
from mrcnn_zoo.structures import FeatureSpec

__all__ = [
    "BoxPredictor",
    "CascadeROIHeads",
    "DetectionSelection",
    "FastRCNNConvFCHead",
    "KRCNNConvDeconvUpsampleHead",
    "MaskCriterion",
    "MaskIoUHead",
    "MaskRCNNConvUpsampleHead",
    "MaskRCNNMLPHead",
    "PointRendMaskHead",
    "PointSampler",
    "PooledBranch",
    "PooledMaskHead",
    "RegionBranch",
    "RegionHeads",
    "Res5ROIHeads",
    "StandardPointHead",
    "StandardROIHeads",
    "build_roi_heads",
    "mask_targets",
]


def build_roi_heads(cfg: CfgNode, specs: Mapping[str, FeatureSpec]) -> RoIHeads:
    """The region heads of `MODEL.ROI_HEADS.NAME`.

    Args:
        cfg: the whole config.
        specs: all maps of the backbone by name.
    """
    return ROI_HEADS.get(cfg.MODEL.ROI_HEADS.NAME)(cfg, specs)
