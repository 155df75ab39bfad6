"""Region heads that share the backbone's last stage: Mask R-CNN on res4, "C4"."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.assignment import RegionLabeler, build_region_labeler
from mrcnn_zoo.modeling.backbones.resnet import build_res5_stage
from mrcnn_zoo.modeling.contracts import Features, MaskHead
from mrcnn_zoo.modeling.poolers import PyramidPooler, build_head_pooler
from mrcnn_zoo.modeling.roi_heads.box_predictor import BoxPredictor, build_box_predictor
from mrcnn_zoo.modeling.roi_heads.foreground import foreground_and_rows
from mrcnn_zoo.modeling.roi_heads.pooled_maps import boxes_of, in_reading_order, named_specs
from mrcnn_zoo.registries import MASK_HEADS, ROI_HEADS
from mrcnn_zoo.structures import Detections, FeatureSpec, Proposals, Targets, TrainingOutput


class Res5ROIHeads(nn.Module):
    """Each pooled region goes through res5; from its mean come class and box, from the map itself the mask.

    Source: He et al. 2017 (Mask R-CNN), figure 4, left.

    Args:
        labeler: chooses and labels the regions to train on.
        pooler: makes the input of res5.
        res5: (R, C, S, S) -> (R, D, S / 2, S / 2).
        box_predictor: judges the mean of a region's map.
        mask_head: draws the masks; None without masks.
    """

    def __init__(
        self,
        labeler: RegionLabeler,
        *,
        pooler: PyramidPooler,
        res5: nn.Sequential,
        box_predictor: BoxPredictor,
        mask_head: MaskHead | None = None,
    ) -> None:
        super().__init__()
        self.labeler = labeler
        self.pooler = pooler
        self.res5 = res5
        self.box_predictor = box_predictor
        self.mask_head = mask_head

    def losses(self, features: Features, proposals: list[Proposals], targets: list[Targets]) -> TrainingOutput:
        """The losses of both branches over regions sampled from the proposals; the maps are computed once for both."""
        regions = self.labeler.label(proposals, targets)
        maps = self.region_maps(in_reading_order(features, self.pooler.names), boxes_of(regions))
        output = self.box_predictor.losses(maps.mean(dim=(2, 3)), regions)
        if self.mask_head is not None:
            foreground, rows = foreground_and_rows(regions, self.labeler.num_classes)
            output |= self.mask_head.losses(maps[rows], foreground)
        return output

    def predict(self, features: Features, proposals: list[Proposals]) -> list[Detections]:
        """The detections of each image, best first, in the coordinates of its proposals; only these get masks."""
        features = in_reading_order(features, self.pooler.names)
        vectors = self.region_maps(features, boxes_of(proposals)).mean(dim=(2, 3))
        detections = self.box_predictor.predict(vectors, proposals)
        if self.mask_head is None:
            return detections
        return self.mask_head.predict(self.region_maps(features, boxes_of(detections)), detections)

    def region_maps(self, features: Features, boxes: list[Tensor]) -> Tensor:
        """What both branches look at, of all images' boxes: (sum of R_i, D, S / 2, S / 2)."""
        return self.res5(self.pooler(features, boxes))


@ROI_HEADS.register("Res5ROIHeads")
def build_res5_roi_heads(cfg: CfgNode, specs: Mapping[str, FeatureSpec]) -> Res5ROIHeads:
    """Heads over the one map that `MODEL.ROI_HEADS.IN_FEATURES` lists, most often res4."""
    _check_settings(cfg)
    maps = named_specs(specs, cfg.MODEL.ROI_HEADS.IN_FEATURES)
    res5, spec = build_res5_stage(cfg)
    _check_channels(maps, spec)
    map_spec = replace(spec, side=-(-cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION // 2))
    mask_head = MASK_HEADS.get(cfg.MODEL.ROI_MASK_HEAD.NAME)(cfg, map_spec) if cfg.MODEL.MASK_ON else None
    return Res5ROIHeads(
        build_region_labeler(cfg),
        pooler=build_head_pooler(cfg, "ROI_BOX_HEAD", maps),
        res5=res5,
        box_predictor=build_box_predictor(cfg, replace(spec, side=1)),
        mask_head=mask_head,
    )


def _check_settings(cfg: CfgNode) -> None:
    in_features = cfg.MODEL.ROI_HEADS.IN_FEATURES
    if len(in_features) != 1:
        raise UserError(
            f"Res5ROIHeads pools from one map: MODEL.ROI_HEADS.IN_FEATURES = {in_features} should name one."
        )
    for name in ("MODEL.KEYPOINT_ON", "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES"):
        if cfg.value_of(name):
            raise UserError(f"Res5ROIHeads cannot do {name} True: set it to False, or use StandardROIHeads.")


def _check_channels(maps: Mapping[str, FeatureSpec], res5_spec: FeatureSpec) -> None:
    (name, spec), wanted = next(iter(maps.items())), res5_spec.channels // 2
    if spec.channels != wanted:
        raise UserError(
            f"Res5ROIHeads continue a ResNet behind res4: their map in MODEL.ROI_HEADS.IN_FEATURES needs the {wanted} "
            f"channels that MODEL.RESNETS gives res4, and {name} has {spec.channels}. Use StandardROIHeads."
        )
