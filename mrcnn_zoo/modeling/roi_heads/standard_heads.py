"""Region heads that pool for each branch on its own: Mask R-CNN with an FPN."""

from collections.abc import Mapping

from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.assignment import RegionLabeler, build_region_labeler
from mrcnn_zoo.modeling.contracts import BoxHead, Features, MaskHead
from mrcnn_zoo.modeling.poolers import PyramidPooler, build_pyramid_pooler
from mrcnn_zoo.modeling.roi_heads.box_predictor import BoxPredictor, build_box_predictor
from mrcnn_zoo.modeling.roi_heads.foreground import foreground_only
from mrcnn_zoo.registries import BOX_HEADS, MASK_HEADS, ROI_HEADS
from mrcnn_zoo.structures import Detections, FeatureSpec, LabeledRegions, Proposals, Targets, TrainingOutput


class StandardROIHeads(nn.Module):
    """A box branch over all regions, and a mask branch over those with an object.

    The branches share the features and nothing else. In training the mask branch gets the foreground proposals, at
    inference the boxes that the box branch kept.

    Source: He et al. 2017 (Mask R-CNN), section 3.

    Args:
        labeler: chooses and labels the regions to train on.
        box_pooler: makes the box head's input.
        box_head: makes the vector of a region.
        box_predictor: judges it.
        mask_pooler: makes the mask head's input; None without masks.
        mask_head: draws the masks; None without masks.
    """

    def __init__(
        self,
        labeler: RegionLabeler,
        *,
        box_pooler: PyramidPooler,
        box_head: BoxHead,
        box_predictor: BoxPredictor,
        mask_pooler: PyramidPooler | None = None,
        mask_head: MaskHead | None = None,
    ) -> None:
        super().__init__()
        self.labeler = labeler
        self.box_pooler = box_pooler
        self.box_head = box_head
        self.box_predictor = box_predictor
        self.mask_pooler = mask_pooler
        self.mask_head = mask_head

    def losses(self, features: Features, proposals: list[Proposals], targets: list[Targets]) -> TrainingOutput:
        """The losses of both branches over regions sampled from the proposals."""
        features = self._maps(features)
        regions = self.labeler.label(proposals, targets)
        output = self.box_predictor.losses(self.box_vectors(features, regions), regions)
        if self.mask_head is not None and self.mask_pooler is not None:
            foreground = foreground_only(regions, self.labeler.num_classes)
            output |= self.mask_head.losses(self.mask_pooler(features, boxes_of(foreground)), foreground)
        return output

    def predict(self, features: Features, proposals: list[Proposals]) -> list[Detections]:
        """The detections of each image, best first, in the coordinates of its proposals; only these get masks."""
        features = self._maps(features)
        detections = self.box_predictor.predict(self.box_vectors(features, proposals), proposals)
        return self.predict_masks(features, detections)

    def predict_masks(self, features: Features, detections: list[Detections]) -> list[Detections]:
        """The same detections, with masks if there is a mask branch."""
        if self.mask_head is None or self.mask_pooler is None:
            return detections
        return self.mask_head.predict(self.mask_pooler(features, boxes_of(detections)), detections)

    def box_vectors(self, features: Features, regions: list[Proposals] | list[LabeledRegions]) -> Tensor:
        """What the box predictor judges, of all images' regions: (sum of R_i, D)."""
        return self.box_head(self.box_pooler(features, boxes_of(regions)))

    def _maps(self, features: Features) -> dict[str, Tensor]:
        # Pooling reads a map channel by channel. In that order here once, no pooler has to copy it again.
        return {name: features[name].contiguous() for name in self.box_pooler.names}


def boxes_of(tables: list[Proposals] | list[LabeledRegions] | list[Detections]) -> list[Tensor]:
    """The boxes of each image."""
    return [table.boxes for table in tables]


@ROI_HEADS.register("StandardROIHeads")
def build_standard_roi_heads(cfg: CfgNode, specs: Mapping[str, FeatureSpec]) -> StandardROIHeads:
    """Heads over the maps that `MODEL.ROI_HEADS.IN_FEATURES` lists."""
    in_features = cfg.MODEL.ROI_HEADS.IN_FEATURES
    maps = {name: specs[name] for name in in_features if name in specs}
    if not maps or len(maps) < len(in_features):
        raise UserError(
            f"MODEL.ROI_HEADS.IN_FEATURES = {in_features} should name maps of the backbone: {', '.join(specs)}."
        )
    channels = next(iter(maps.values())).channels
    box, mask = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD
    box_head = BOX_HEADS.get(box.NAME)(cfg, FeatureSpec(channels=channels, side=box.POOLER_RESOLUTION))
    mask_head = mask_pooler = None
    if cfg.MODEL.MASK_ON:
        mask_head = MASK_HEADS.get(mask.NAME)(cfg, FeatureSpec(channels=channels, side=mask.POOLER_RESOLUTION))
        mask_pooler = build_head_pooler(mask, maps, key="MODEL.ROI_MASK_HEAD.POOLER_TYPE")
    return StandardROIHeads(
        build_region_labeler(cfg),
        box_pooler=build_head_pooler(box, maps, key="MODEL.ROI_BOX_HEAD.POOLER_TYPE"),
        box_head=box_head,
        box_predictor=build_box_predictor(cfg, box_head.output_spec),
        mask_pooler=mask_pooler,
        mask_head=mask_head,
    )


def build_head_pooler(head: CfgNode, maps: Mapping[str, FeatureSpec], *, key: str) -> PyramidPooler:
    """The pooler of one head's section of the config; `key` names its operation."""
    return build_pyramid_pooler(
        head.POOLER_TYPE, maps, side=head.POOLER_RESOLUTION, sampling_ratio=head.POOLER_SAMPLING_RATIO, key=key
    )
