"""torchvision's and our (Detectron2's) names of a detector's weights: literal tables, read in both directions."""

from collections.abc import Collection

from mrcnn_zoo.interop.renaming import RESIDUAL_BLOCK, Line, RenameTable, patterns

RESNET: tuple[Line, ...] = (
    ("backbone.body.bn1.", "backbone.bottom_up.stem.conv1.norm."),
    ("backbone.body.conv1.", "backbone.bottom_up.stem.conv1."),
    ("backbone.body.layer1.", "backbone.bottom_up.res2."),
    ("backbone.body.layer2.", "backbone.bottom_up.res3."),
    ("backbone.body.layer3.", "backbone.bottom_up.res4."),
    ("backbone.body.layer4.", "backbone.bottom_up.res5."),
)
# A line of a norm stands before the line of its convolution, which in our names is the beginning of the norm's name.
RCNN: tuple[Line, ...] = (
    *RESNET,
    *((f"backbone.fpn.inner_blocks.{n}.1.", f"backbone.fpn_lateral{n + 2}.norm.") for n in range(4)),
    *((f"backbone.fpn.inner_blocks.{n}.0.", f"backbone.fpn_lateral{n + 2}.") for n in range(4)),
    *((f"backbone.fpn.layer_blocks.{n}.1.", f"backbone.fpn_output{n + 2}.norm.") for n in range(4)),
    *((f"backbone.fpn.layer_blocks.{n}.0.", f"backbone.fpn_output{n + 2}.") for n in range(4)),
    ("rpn.head.cls_logits.", "proposal_generator.rpn_head.objectness_logits."),
    ("rpn.head.bbox_pred.", "proposal_generator.rpn_head.anchor_deltas."),
    *((f"roi_heads.box_head.{n}.1.", f"roi_heads.box_head.conv{n + 1}.norm.") for n in range(4)),
    *((f"roi_heads.box_head.{n}.0.", f"roi_heads.box_head.conv{n + 1}.") for n in range(4)),
    ("roi_heads.box_predictor.cls_score.", "roi_heads.box_predictor.cls_score."),
    ("roi_heads.box_predictor.bbox_pred.", "roi_heads.box_predictor.bbox_pred."),
    *((f"roi_heads.mask_head.{n}.1.", f"roi_heads.mask_head.mask_fcn{n + 1}.norm.") for n in range(4)),
    *((f"roi_heads.mask_head.{n}.0.", f"roi_heads.mask_head.mask_fcn{n + 1}.") for n in range(4)),
    ("roi_heads.mask_predictor.conv5_mask.", "roi_heads.mask_head.deconv."),
    ("roi_heads.mask_predictor.mask_fcn_logits.", "roi_heads.mask_head.predictor."),
    # torchvision counts the ReLUs between the convolutions, too.
    *((f"roi_heads.keypoint_head.{2 * n}.", f"roi_heads.keypoint_head.conv_fcn{n + 1}.") for n in range(8)),
    ("roi_heads.keypoint_predictor.kps_score_lowres.", "roi_heads.keypoint_head.score_lowres."),
)
# We name the RPN's convolutions in another way where there are several, torchvision the fully connected layers of a box
# head where there are convolutions before them.
ONE_RPN_CONVOLUTION: tuple[Line, ...] = (("rpn.head.conv.0.0.", "proposal_generator.rpn_head.conv."),)
TWO_RPN_CONVOLUTIONS: tuple[Line, ...] = (
    ("rpn.head.conv.0.0.", "proposal_generator.rpn_head.conv.conv0."),
    ("rpn.head.conv.1.0.", "proposal_generator.rpn_head.conv.conv1."),
)
FC_BOX_HEAD: tuple[Line, ...] = (
    ("roi_heads.box_head.fc6.", "roi_heads.box_head.fc1."),
    ("roi_heads.box_head.fc7.", "roi_heads.box_head.fc2."),
)
CONV_FC_BOX_HEAD: tuple[Line, ...] = (("roi_heads.box_head.5.", "roi_heads.box_head.fc1."),)

RETINANET: tuple[Line, ...] = (
    *RESNET,
    *((f"backbone.fpn.inner_blocks.{n}.0.", f"backbone.fpn_lateral{n + 3}.") for n in range(3)),
    *((f"backbone.fpn.layer_blocks.{n}.0.", f"backbone.fpn_output{n + 3}.") for n in range(3)),
    ("backbone.fpn.extra_blocks.p6.", "backbone.top_block.p6."),
    ("backbone.fpn.extra_blocks.p7.", "backbone.top_block.p7."),
    ("head.classification_head.cls_logits.", "head.cls_score."),
    ("head.regression_head.bbox_reg.", "head.bbox_pred."),
)
# We count convolutions, norms and ReLUs; torchvision has blocks of all three.
RETINANET_CONVOLUTIONS: tuple[Line, ...] = (
    *((f"head.classification_head.conv.{n}.0.", f"head.cls_subnet.{2 * n}.") for n in range(4)),
    *((f"head.regression_head.conv.{n}.0.", f"head.bbox_subnet.{2 * n}.") for n in range(4)),
)
RETINANET_CONVOLUTIONS_AND_NORMS: tuple[Line, ...] = (
    *((f"head.classification_head.conv.{n}.0.", f"head.cls_subnet.{3 * n}.") for n in range(4)),
    *((f"head.classification_head.conv.{n}.1.", f"head.cls_subnet.{3 * n + 1}.") for n in range(4)),
    *((f"head.regression_head.conv.{n}.0.", f"head.bbox_subnet.{3 * n}.") for n in range(4)),
    *((f"head.regression_head.conv.{n}.1.", f"head.bbox_subnet.{3 * n + 1}.") for n in range(4)),
)

# Before torchvision 0.13 a convolution had no place for a norm beside it. The files published until then keep the old
# names: the first versions of all detectors trained on COCO.
NAMES_BEFORE_0_13 = RenameTable(
    patterns(
        (r"^backbone\.fpn\.(inner|layer)_blocks\.(\d)\.(weight|bias)$", r"backbone.fpn.\1_blocks.\2.0.\3"),
        (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
        *((rf"^roi_heads\.mask_head\.mask_fcn{n + 1}\.", f"roi_heads.mask_head.{n}.0.") for n in range(4)),
        *((rf"^head\.(\w+)_head\.conv\.{2 * n}\.(weight|bias)$", rf"head.\1_head.conv.{n}.0.\2") for n in range(4)),
    )
)


def names_of_detector(names: Collection[str]) -> RenameTable:
    """The table, from torchvision's names to ours, for a detector.

    Args:
        names: of its weights, all of them torchvision's or all of them ours.
    """

    def has(theirs: str, ours: str) -> bool:
        return theirs in names or ours in names

    if has("head.classification_head.cls_logits.weight", "head.cls_score.weight"):
        has_norms = has("head.classification_head.conv.0.1.weight", "head.cls_subnet.1.weight")
        subnets = RETINANET_CONVOLUTIONS_AND_NORMS if has_norms else RETINANET_CONVOLUTIONS
        return RenameTable((*subnets, *RETINANET), inner=RESIDUAL_BLOCK)
    has_two_rpn_convs = has("rpn.head.conv.1.0.weight", "proposal_generator.rpn_head.conv.conv1.weight")
    has_box_convs = has("roi_heads.box_head.0.0.weight", "roi_heads.box_head.conv1.weight")
    rpn = TWO_RPN_CONVOLUTIONS if has_two_rpn_convs else ONE_RPN_CONVOLUTION
    box_head = CONV_FC_BOX_HEAD if has_box_convs else FC_BOX_HEAD
    return RenameTable((*rpn, *box_head, *RCNN), inner=RESIDUAL_BLOCK)
