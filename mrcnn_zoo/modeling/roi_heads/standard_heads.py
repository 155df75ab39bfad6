"""Region heads that pool for each branch on its own: Mask R-CNN with an FPN."""

from collections.abc import Mapping

from torch import Tensor

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.modeling.assignment import RegionLabeler, build_region_labeler
from mrcnn_zoo.modeling.contracts import BoxHead, Features
from mrcnn_zoo.modeling.poolers import PyramidPooler, build_head_pooler
from mrcnn_zoo.modeling.recording import Recorder
from mrcnn_zoo.modeling.roi_heads.box_predictor import BoxPredictor, build_box_predictor
from mrcnn_zoo.modeling.roi_heads.branch import RegionBranch, RegionHeads, build_branches
from mrcnn_zoo.modeling.roi_heads.region_features import boxes_of, contiguous_features, foreground_only, named_specs
from mrcnn_zoo.registries import BOX_HEADS, ROI_HEADS
from mrcnn_zoo.structures import Detections, FeatureSpec, Proposals, Targets, TrainingOutput


class StandardROIHeads(RegionHeads):
    """A box branch over all regions, and further branches, for masks and keypoints, over those with an object.

    The branches share the features and nothing else. In training the further branches get the foreground proposals, at
    inference the boxes that the box branch kept.

    Source: He et al. 2017 (Mask R-CNN), section 3.

    Args:
        labeler: chooses and labels the regions to train on.
        box_pooler: makes the box head's input.
        box_head: makes the vector of a region.
        box_predictor: judges it.
        branches: the further branches by module name, in their order.
        train_on_predicted_boxes: train `branches` on the boxes that the box branch makes of the foreground proposals,
            which are nearer to those of inference.
    """

    def __init__(
        self,
        labeler: RegionLabeler,
        *,
        box_pooler: PyramidPooler,
        box_head: BoxHead,
        box_predictor: BoxPredictor,
        branches: Mapping[str, RegionBranch],
        train_on_predicted_boxes: bool = False,
    ) -> None:
        super().__init__()
        self.labeler = labeler
        self.box_pooler = box_pooler
        self.box_head = box_head
        self.box_predictor = box_predictor
        self.add_branches(branches)
        self.train_on_predicted_boxes = train_on_predicted_boxes

    def losses(self, features: Features, proposals: list[Proposals], targets: list[Targets]) -> TrainingOutput:
        """The losses of all branches over regions sampled from the proposals."""
        features = contiguous_features(features, self.box_pooler.names)
        regions = self.labeler.label(proposals, targets)
        vectors = self.box_vectors(features, boxes_of(regions))
        deltas, output = self.box_predictor.supervise(vectors, regions, features)
        if self.train_on_predicted_boxes:
            regions = self.box_predictor.refine(deltas, regions)
        return output | self.branch_losses(features, foreground_only(regions, self.labeler.num_classes))

    def detect_boxes(
        self, features: Features, proposals: list[Proposals], *, recorder: Recorder | None = None
    ) -> list[Detections]:
        """The detections of the box branch alone."""
        features = contiguous_features(features, self.box_pooler.names)
        vectors = self.box_vectors(features, boxes_of(proposals))
        return self.box_predictor.predict(vectors, proposals, features, recorder=recorder)

    def box_scores(self, features: Features, boxes: list[Tensor]) -> Tensor:
        """The scores of each class for given boxes: N x (R_i, 4) pixels -> (sum of R_i, K)."""
        logits, _ = self.box_predictor(self.box_vectors(features, boxes))
        return self.box_predictor.classification.scores(logits)

    def box_vectors(self, features: Features, boxes: list[Tensor]) -> Tensor:
        """What the box predictor sees of all images' boxes: N x (R_i, 4) pixels -> (sum of R_i, D)."""
        return self.box_head(self.box_pooler(features, boxes))


@ROI_HEADS.register("PointRendROIHeads")  # what configs of Detectron2's PointRend project call them
@ROI_HEADS.register("StandardROIHeads")
def build_standard_roi_heads(cfg: CfgNode, specs: Mapping[str, FeatureSpec]) -> StandardROIHeads:
    """Heads over the maps that `MODEL.ROI_HEADS.IN_FEATURES` lists."""
    maps = named_specs(specs, cfg.MODEL.ROI_HEADS.IN_FEATURES)
    channels = next(iter(maps.values())).channels
    box = cfg.MODEL.ROI_BOX_HEAD
    box_head = BOX_HEADS.get(box.NAME)(cfg, FeatureSpec(channels=channels, side=box.POOLER_RESOLUTION))
    return StandardROIHeads(
        build_region_labeler(cfg),
        box_pooler=build_head_pooler(cfg, "ROI_BOX_HEAD", maps),
        box_head=box_head,
        box_predictor=build_box_predictor(cfg, box_head.output_spec),
        branches=build_branches(cfg, specs),
        train_on_predicted_boxes=box.TRAIN_ON_PRED_BOXES,
    )
