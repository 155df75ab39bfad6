"""Region heads on the last stage of the backbone, which all branches share: Mask R-CNN on res4, "C4"."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.assignment import RegionLabeler, build_region_labeler
from mrcnn_zoo.modeling.backbones.resnet import build_res5_stage
from mrcnn_zoo.modeling.contracts import Features
from mrcnn_zoo.modeling.poolers import PyramidPooler, build_head_pooler, select_specs
from mrcnn_zoo.modeling.recording import Recorder
from mrcnn_zoo.modeling.roi_heads.box_head import BoxPredictor, build_box_predictor
from mrcnn_zoo.modeling.roi_heads.branch import RegionBranch, build_branches
from mrcnn_zoo.modeling.roi_heads.detection_selection import RegionPredictions
from mrcnn_zoo.modeling.roi_heads.standard_heads import RegionHeads, contiguous_features
from mrcnn_zoo.registries import ROI_HEADS
from mrcnn_zoo.structures import FeatureSpec, Proposals, Targets, TrainingOutput, foreground_regions


class SharedStage:
    """Pooling and res5 as the pooler of a branch. No module: both are modules of the region heads already.

    Args:
        pooler: makes the input of res5.
        res5: (R, C, S, S) -> (R, D, S / 2, S / 2).
    """

    def __init__(self, pooler: PyramidPooler, res5: nn.Module) -> None:
        self.pooler = pooler
        self.res5 = res5

    def __call__(self, features: Features, boxes: list[Tensor]) -> Tensor:
        """N x (R_i, 4) pixels -> (sum of R_i, D, S / 2, S / 2)."""
        return self.res5(self.pooler(features, boxes))


class Res5ROIHeads(RegionHeads):
    """Each pooled region goes through res5; its mean predicts class and box, the map itself the mask.

    Source: He et al. 2017 (Mask R-CNN), figure 4, left.

    Args:
        labeler: samples and labels the training regions.
        pooler: makes the input of res5.
        res5: (R, C, S, S) -> (R, D, S / 2, S / 2).
        box_predictor: class scores and deltas of (R, D).
        branches: the further branches by module name, in their order; pooled branches pool with a `SharedStage`.
    """

    def __init__(
        self,
        labeler: RegionLabeler,
        *,
        pooler: PyramidPooler,
        res5: nn.Sequential,
        box_predictor: BoxPredictor,
        branches: Mapping[str, RegionBranch],
    ) -> None:
        super().__init__()
        self.labeler = labeler
        self.box_pooler = pooler
        self.res5 = res5
        self.box_predictor = box_predictor
        self.add_branches(branches)

    def losses(self, features: Features, proposals: list[Proposals], targets: list[Targets]) -> TrainingOutput:
        """The losses of all branches on regions sampled from the proposals; res5 runs once for all of them."""
        features = contiguous_features(features, self.box_pooler.names)
        regions = self.labeler.label(proposals, targets)
        maps = self.region_maps(features, [table.boxes for table in regions])
        output = self.box_predictor.losses(maps.mean(dim=(2, 3)), regions, features)
        if not self.branches:
            return output
        foreground, rows = foreground_regions(regions, self.labeler.num_classes)
        return output | self.branch_losses(features, foreground, pooled=maps[rows])

    @property
    def last_predictor(self) -> BoxPredictor:
        """The only box predictor."""
        return self.box_predictor

    def predict_regions(
        self,
        features: Features,
        proposals: list[Proposals],
        *,
        recorder: Recorder | None = None,  # noqa: ARG002
    ) -> RegionPredictions:
        """The outputs of the box predictor for the proposals."""
        vectors = self.region_maps(features, [table.boxes for table in proposals]).mean(dim=(2, 3))
        return self.box_predictor.predictions(vectors, proposals, features)

    def box_scores(self, features: Features, boxes: list[Tensor]) -> Tensor:
        """The class scores of given boxes: N x (R_i, 4) pixels -> (sum of R_i, K)."""
        return self.box_predictor.scores(self.region_maps(features, boxes).mean(dim=(2, 3)))

    def region_maps(self, features: Features, boxes: list[Tensor]) -> Tensor:
        """The input of all branches: N x (R_i, 4) pixels -> (sum of R_i, D, S / 2, S / 2)."""
        return self.res5(self.box_pooler(features, boxes))


@ROI_HEADS.register("Res5ROIHeads")
def build_res5_roi_heads(cfg: CfgNode, specs: Mapping[str, FeatureSpec]) -> Res5ROIHeads:
    """Heads over the one map in `MODEL.ROI_HEADS.IN_FEATURES`, usually res4.

    Args:
        cfg: the whole config.
        specs: all maps of the backbone by name.
    """
    _check_settings(cfg)
    maps = select_specs(specs, cfg.MODEL.ROI_HEADS.IN_FEATURES)
    res5, spec = build_res5_stage(cfg)
    _check_channels(maps, spec)
    map_spec = replace(spec, side=-(-cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION // 2))
    pooler = build_head_pooler(cfg, "ROI_BOX_HEAD", specs)
    branches = build_branches(cfg, specs, pooler=SharedStage(pooler, res5), pooled=map_spec)
    return Res5ROIHeads(
        build_region_labeler(cfg),
        pooler=pooler,
        res5=res5,
        box_predictor=build_box_predictor(cfg, replace(spec, side=1)),
        branches=branches,
    )


def _check_settings(cfg: CfgNode) -> None:
    in_features = cfg.MODEL.ROI_HEADS.IN_FEATURES
    if len(in_features) != 1:
        raise UserError(
            f"Res5ROIHeads pools from one map: MODEL.ROI_HEADS.IN_FEATURES = {in_features} should name one."
        )
    for name in ("MODEL.KEYPOINT_ON", "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES"):
        if cfg.value_of(name):
            raise UserError(f"Res5ROIHeads does not support {name} True: set it to False, or use StandardROIHeads.")


def _check_channels(maps: Mapping[str, FeatureSpec], res5_spec: FeatureSpec) -> None:
    (name, spec), expected = next(iter(maps.items())), res5_spec.channels // 2
    if spec.channels != expected:
        raise UserError(
            f"res5 of Res5ROIHeads follows res4 of a ResNet: the map in MODEL.ROI_HEADS.IN_FEATURES must have the "
            f"{expected} channels that MODEL.RESNETS gives res4, and {name} has {spec.channels}. Use StandardROIHeads."
        )
