"""The branches beside the box branch, which look only at regions with an object: masks and keypoints."""

from collections.abc import Mapping
from dataclasses import dataclass

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.modeling.contracts import Features, KeypointHead, MaskHead
from mrcnn_zoo.modeling.poolers import PyramidPooler, build_head_pooler
from mrcnn_zoo.modeling.roi_heads.keypoint_head import with_visible_keypoints
from mrcnn_zoo.modeling.roi_heads.pooled_maps import boxes_of
from mrcnn_zoo.registries import KEYPOINT_HEADS, MASK_HEADS
from mrcnn_zoo.structures import Detections, FeatureSpec, LabeledRegions, TrainingOutput


@dataclass(frozen=True)
class InstanceBranches:
    """The mask and the keypoint branch, each with a pooler of its own; either may be missing.

    This is a view: the modules belong to the region heads, where a checkpoint names them.

    Args:
        mask_pooler: makes the mask head's input.
        mask_head: draws masks; None without masks.
        keypoint_pooler: makes the keypoint head's input.
        keypoint_head: finds keypoints; None without keypoints.
    """

    mask_pooler: PyramidPooler | None = None
    mask_head: MaskHead | None = None
    keypoint_pooler: PyramidPooler | None = None
    keypoint_head: KeypointHead | None = None

    def losses(self, features: Features, foreground: list[LabeledRegions]) -> TrainingOutput:
        """What supervises the branches, on regions that all show an object."""
        output = TrainingOutput()
        if self.mask_head is not None and self.mask_pooler is not None:
            output |= self.mask_head.losses(self.mask_pooler(features, boxes_of(foreground)), foreground)
        if self.keypoint_head is not None and self.keypoint_pooler is not None:
            visible = with_visible_keypoints(foreground)
            output |= self.keypoint_head.losses(self.keypoint_pooler(features, boxes_of(visible)), visible)
        return output

    def predict(self, features: Features, detections: list[Detections]) -> list[Detections]:
        """The same detections with masks and keypoints, as far as there are branches for them."""
        boxes = boxes_of(detections)
        if self.mask_head is not None and self.mask_pooler is not None:
            detections = self.mask_head.predict(self.mask_pooler(features, boxes), detections)
        if self.keypoint_head is not None and self.keypoint_pooler is not None:
            detections = self.keypoint_head.predict(self.keypoint_pooler(features, boxes), detections)
        return detections


def build_instance_branches(cfg: CfgNode, maps: Mapping[str, FeatureSpec]) -> InstanceBranches:
    """The branches that `MODEL.MASK_ON` and `MODEL.KEYPOINT_ON` ask for, which pool from the given maps."""
    channels = next(iter(maps.values())).channels
    mask_pooler = mask_head = keypoint_pooler = keypoint_head = None
    if cfg.MODEL.MASK_ON:
        mask = cfg.MODEL.ROI_MASK_HEAD
        mask_pooler = build_head_pooler(cfg, "ROI_MASK_HEAD", maps)
        mask_head = MASK_HEADS.get(mask.NAME)(cfg, FeatureSpec(channels=channels, side=mask.POOLER_RESOLUTION))
    if cfg.MODEL.KEYPOINT_ON:
        points = cfg.MODEL.ROI_KEYPOINT_HEAD
        keypoint_pooler = build_head_pooler(cfg, "ROI_KEYPOINT_HEAD", maps)
        spec = FeatureSpec(channels=channels, side=points.POOLER_RESOLUTION)
        keypoint_head = KEYPOINT_HEADS.get(points.NAME)(cfg, spec)
    return InstanceBranches(mask_pooler, mask_head, keypoint_pooler, keypoint_head)
