"""maskrcnn-benchmark's Faster and Mask R-CNN, with a pyramid or on C4.

Its boxes end with their last pixel, and their width is x2 - x1 + 1. Such a box is ours with x2 + 1 and y2 + 1, so that
sizes, overlaps, deltas and levels stay the same. Equal: all layers, the anchors with their rounded shapes, decoding,
the selection of proposals and detections, pooling (which ends at the last pixel). Different there:
  - boxes are clipped one pixel earlier, so that those outside an image stay one pixel wide; ours are dropped;
  - an overlap equal to the threshold suppresses on the CPU; proposals of equal probability have another order;
  - boxes are scaled to the original image before their last pixel is added, a fraction of a pixel;
  - masks are resized to whole pixels.
"""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.interop.conventions import anchors_by_size, background_last, variance_under_our_eps
from mrcnn_zoo.interop.converter import Conversion, has_all
from mrcnn_zoo.interop.renaming import RESIDUAL_BLOCK, RenameTable, without_pyramid
from mrcnn_zoo.interop.structure import Settings, two_stage_settings
from mrcnn_zoo.registries import CHECKPOINT_CONVERTERS

SIGNATURE = (
    "backbone.body.stem.conv1.weight",
    "rpn.head.cls_logits.weight",
    "roi_heads.box.predictor.cls_score.weight",
)

NAMES = RenameTable(
    (
        ("backbone.body.stem.bn1.", "backbone.bottom_up.stem.conv1.norm."),
        ("backbone.body.stem.conv1.", "backbone.bottom_up.stem.conv1."),
        ("backbone.body.layer1.", "backbone.bottom_up.res2."),
        ("backbone.body.layer2.", "backbone.bottom_up.res3."),
        ("backbone.body.layer3.", "backbone.bottom_up.res4."),
        ("backbone.body.layer4.", "backbone.bottom_up.res5."),
        ("backbone.fpn.fpn_inner1.", "backbone.fpn_lateral2."),
        ("backbone.fpn.fpn_inner2.", "backbone.fpn_lateral3."),
        ("backbone.fpn.fpn_inner3.", "backbone.fpn_lateral4."),
        ("backbone.fpn.fpn_inner4.", "backbone.fpn_lateral5."),
        ("backbone.fpn.fpn_layer1.", "backbone.fpn_output2."),
        ("backbone.fpn.fpn_layer2.", "backbone.fpn_output3."),
        ("backbone.fpn.fpn_layer3.", "backbone.fpn_output4."),
        ("backbone.fpn.fpn_layer4.", "backbone.fpn_output5."),
        ("rpn.head.conv.", "proposal_generator.rpn_head.conv."),
        ("rpn.head.cls_logits.", "proposal_generator.rpn_head.objectness_logits."),
        ("rpn.head.bbox_pred.", "proposal_generator.rpn_head.anchor_deltas."),
        ("rpn.anchor_generator.cell_anchors.", "proposal_generator.anchor_generator.cell_anchors."),
        ("roi_heads.box.feature_extractor.fc6.", "roi_heads.box_head.fc1."),
        ("roi_heads.box.feature_extractor.fc7.", "roi_heads.box_head.fc2."),
        ("roi_heads.box.feature_extractor.head.layer4.", "roi_heads.res5."),
        ("roi_heads.box.predictor.cls_score.", "roi_heads.box_predictor.cls_score."),
        ("roi_heads.box.predictor.bbox_pred.", "roi_heads.box_predictor.bbox_pred."),
        ("roi_heads.mask.feature_extractor.mask_fcn1.", "roi_heads.mask_head.mask_fcn1."),
        ("roi_heads.mask.feature_extractor.mask_fcn2.", "roi_heads.mask_head.mask_fcn2."),
        ("roi_heads.mask.feature_extractor.mask_fcn3.", "roi_heads.mask_head.mask_fcn3."),
        ("roi_heads.mask.feature_extractor.mask_fcn4.", "roi_heads.mask_head.mask_fcn4."),
        ("roi_heads.mask.predictor.conv5_mask.", "roi_heads.mask_head.deconv."),
        ("roi_heads.mask.predictor.mask_fcn_logits.", "roi_heads.mask_head.predictor."),
    ),
    inner=RESIDUAL_BLOCK,
)
# On C4 the mask branch shares the last stage of the box branch, under a second name.
SHARED = ("roi_heads.mask.feature_extractor.head.", "roi_heads.box.feature_extractor.head.")

SIZES = [32.0, 64.0, 128.0, 256.0, 512.0]
NETWORK: Settings = {
    "INPUT.FORMAT": "BGR",
    "MODEL.PIXEL_MEAN": [102.9801, 115.9465, 122.7717],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.ANCHOR_GENERATOR.NAME": "RoundedAnchorGenerator",
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.ANCHOR_GENERATOR.OFFSET": 0.5,
    "MODEL.RPN.SMOOTH_L1_BETA": 1 / 9,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.NMS_THRESH": 0.7,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.05,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.5,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignLastPixel",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": [10.0, 10.0, 5.0, 5.0],
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 1.0,
    "TEST.DETECTIONS_PER_IMAGE": 100,
}
PYRAMID: Settings = {
    "MODEL.ANCHOR_GENERATOR.SIZES": [[size] for size in SIZES],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2,
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "ROIAlignLastPixel",
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": 2,
}
SINGLE_MAP: Settings = {
    "MODEL.ANCHOR_GENERATOR.SIZES": [SIZES],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 12000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 14,
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 0,
}
NOTES = (
    "maskrcnn-benchmark keeps no config in its files; the settings of its published configs are assumed: BGR pixels, "
    "3 anchor shapes on 5 sizes, 1000 proposals, score threshold 0.05, NMS at 0.5",
    "its masks are resized to whole pixels and its boxes clipped to the last pixel, ours are not",
)
BACKGROUND_ROWS = {
    "roi_heads.box_predictor.bbox_pred": 4,
    "roi_heads.mask_head.predictor": 1,
}


class MaskRCNNBenchmarkConverter:
    """Two-stage detectors that maskrcnn-benchmark trained."""

    source = "maskrcnn-benchmark"

    def recognises(self, names: Collection[str]) -> bool:
        """Whether a file comes from maskrcnn-benchmark.

        Args:
            names: of the weights in the file.
        """
        return has_all(names, SIGNATURE)

    def convert(self, weights: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Conversion:  # noqa: ARG002
        """The same network as ours, with the settings of the published configs.

        Args:
            weights: by their names in the file.
            meta: not used.

        Raises:
            UserError: a mask branch that does not share the last stage of the box branch.
        """
        ours, leftovers = NAMES.apply(_without_shared_stage(weights))
        is_pyramid = "backbone.fpn_lateral2.weight" in ours
        if not is_pyramid:
            ours = anchors_by_size(without_pyramid(ours), num_sizes=len(SIZES))
        ours = {name: _in_our_convention(name, tensor) for name, tensor in ours.items()}
        settings = two_stage_settings(ours) | NETWORK | (PYRAMID if is_pyramid else SINGLE_MAP)
        # The published ResNeXts halve the size in the 3 x 3 convolution, the ResNets in the 1 x 1 one.
        settings["MODEL.RESNETS.STRIDE_IN_1X1"] = settings["MODEL.RESNETS.NUM_GROUPS"] == 1
        return Conversion(ours, leftovers, settings, notes=NOTES)


@CHECKPOINT_CONVERTERS.register("maskrcnn_benchmark")
def build_maskrcnn_benchmark_converter() -> MaskRCNNBenchmarkConverter:
    """maskrcnn-benchmark's Mask and Faster R-CNN."""
    return MaskRCNNBenchmarkConverter()


def _without_shared_stage(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    own, shared = SHARED
    kept = {}
    for name, tensor in weights.items():
        other = weights.get(name.replace(own, shared, 1)) if name.startswith(own) else None
        if other is None:
            kept[name] = tensor
        elif not other.equal(tensor):
            raise UserError(
                f"{name} differs from that of the box branch: mask heads with a separate last stage cannot be imported."
            )
    return kept


def _in_our_convention(name: str, tensor: Tensor) -> Tensor:
    layer = name.rpartition(".")[0]
    if layer in BACKGROUND_ROWS:
        return tensor[BACKGROUND_ROWS[layer] :]
    if layer == "roi_heads.box_predictor.cls_score":
        return background_last(tensor)
    # Its frozen batch norm adds nothing to the variance.
    return variance_under_our_eps(tensor, eps=0.0) if name.endswith(".norm.running_var") else tensor
