"""How torchvision's detectors name what we name as Detectron2 does: literal pieces, read in both directions."""

import re

from mrcnn_zoo.interop.converter import Line

BODY: tuple[Line, ...] = (
    ("backbone.body.bn1.", "backbone.bottom_up.stem.conv1.norm."),
    ("backbone.body.conv1.", "backbone.bottom_up.stem.conv1."),
    ("backbone.body.layer1.", "backbone.bottom_up.res2."),
    ("backbone.body.layer2.", "backbone.bottom_up.res3."),
    ("backbone.body.layer3.", "backbone.bottom_up.res4."),
    ("backbone.body.layer4.", "backbone.bottom_up.res5."),
    # These may stand anywhere, so they come after the lines for all other norms.
    (".bn1.", ".conv1.norm."),
    (".bn2.", ".conv2.norm."),
    (".bn3.", ".conv3.norm."),
    (".downsample.1.", ".shortcut.norm."),
    (".downsample.0.", ".shortcut."),
)

RCNN: tuple[Line, ...] = (
    ("backbone.fpn.inner_blocks.0.1.", "backbone.fpn_lateral2.norm."),
    ("backbone.fpn.inner_blocks.1.1.", "backbone.fpn_lateral3.norm."),
    ("backbone.fpn.inner_blocks.2.1.", "backbone.fpn_lateral4.norm."),
    ("backbone.fpn.inner_blocks.3.1.", "backbone.fpn_lateral5.norm."),
    ("backbone.fpn.inner_blocks.0.0.", "backbone.fpn_lateral2."),
    ("backbone.fpn.inner_blocks.1.0.", "backbone.fpn_lateral3."),
    ("backbone.fpn.inner_blocks.2.0.", "backbone.fpn_lateral4."),
    ("backbone.fpn.inner_blocks.3.0.", "backbone.fpn_lateral5."),
    ("backbone.fpn.layer_blocks.0.1.", "backbone.fpn_output2.norm."),
    ("backbone.fpn.layer_blocks.1.1.", "backbone.fpn_output3.norm."),
    ("backbone.fpn.layer_blocks.2.1.", "backbone.fpn_output4.norm."),
    ("backbone.fpn.layer_blocks.3.1.", "backbone.fpn_output5.norm."),
    ("backbone.fpn.layer_blocks.0.0.", "backbone.fpn_output2."),
    ("backbone.fpn.layer_blocks.1.0.", "backbone.fpn_output3."),
    ("backbone.fpn.layer_blocks.2.0.", "backbone.fpn_output4."),
    ("backbone.fpn.layer_blocks.3.0.", "backbone.fpn_output5."),
    ("rpn.head.cls_logits.", "proposal_generator.rpn_head.objectness_logits."),
    ("rpn.head.bbox_pred.", "proposal_generator.rpn_head.anchor_deltas."),
    ("roi_heads.box_head.0.1.", "roi_heads.box_head.conv1.norm."),
    ("roi_heads.box_head.1.1.", "roi_heads.box_head.conv2.norm."),
    ("roi_heads.box_head.2.1.", "roi_heads.box_head.conv3.norm."),
    ("roi_heads.box_head.3.1.", "roi_heads.box_head.conv4.norm."),
    ("roi_heads.box_head.0.0.", "roi_heads.box_head.conv1."),
    ("roi_heads.box_head.1.0.", "roi_heads.box_head.conv2."),
    ("roi_heads.box_head.2.0.", "roi_heads.box_head.conv3."),
    ("roi_heads.box_head.3.0.", "roi_heads.box_head.conv4."),
    ("roi_heads.mask_head.0.1.", "roi_heads.mask_head.mask_fcn1.norm."),
    ("roi_heads.mask_head.1.1.", "roi_heads.mask_head.mask_fcn2.norm."),
    ("roi_heads.mask_head.2.1.", "roi_heads.mask_head.mask_fcn3.norm."),
    ("roi_heads.mask_head.3.1.", "roi_heads.mask_head.mask_fcn4.norm."),
    ("roi_heads.mask_head.0.0.", "roi_heads.mask_head.mask_fcn1."),
    ("roi_heads.mask_head.1.0.", "roi_heads.mask_head.mask_fcn2."),
    ("roi_heads.mask_head.2.0.", "roi_heads.mask_head.mask_fcn3."),
    ("roi_heads.mask_head.3.0.", "roi_heads.mask_head.mask_fcn4."),
    ("roi_heads.mask_predictor.conv5_mask.", "roi_heads.mask_head.deconv."),
    ("roi_heads.mask_predictor.mask_fcn_logits.", "roi_heads.mask_head.predictor."),
    ("roi_heads.keypoint_head.0.", "roi_heads.keypoint_head.conv_fcn1."),
    ("roi_heads.keypoint_head.2.", "roi_heads.keypoint_head.conv_fcn2."),
    ("roi_heads.keypoint_head.4.", "roi_heads.keypoint_head.conv_fcn3."),
    ("roi_heads.keypoint_head.6.", "roi_heads.keypoint_head.conv_fcn4."),
    ("roi_heads.keypoint_head.8.", "roi_heads.keypoint_head.conv_fcn5."),
    ("roi_heads.keypoint_head.10.", "roi_heads.keypoint_head.conv_fcn6."),
    ("roi_heads.keypoint_head.12.", "roi_heads.keypoint_head.conv_fcn7."),
    ("roi_heads.keypoint_head.14.", "roi_heads.keypoint_head.conv_fcn8."),
    ("roi_heads.keypoint_predictor.kps_score_lowres.", "roi_heads.keypoint_head.score_lowres."),
    *BODY,
)

# The RPN's convolutions, one and more of them, which have different names with us, and the fully connected layers of a
# box head with and without convolutions, which have different names with torchvision.
ONE_RPN_CONVOLUTION: tuple[Line, ...] = (("rpn.head.conv.0.0.", "proposal_generator.rpn_head.conv."),)
RPN_CONVOLUTIONS: tuple[Line, ...] = (
    ("rpn.head.conv.0.0.", "proposal_generator.rpn_head.conv.conv0."),
    ("rpn.head.conv.1.0.", "proposal_generator.rpn_head.conv.conv1."),
)
FC_BOX_HEAD: tuple[Line, ...] = (
    ("roi_heads.box_head.fc6.", "roi_heads.box_head.fc1."),
    ("roi_heads.box_head.fc7.", "roi_heads.box_head.fc2."),
)
CONV_FC_BOX_HEAD: tuple[Line, ...] = (("roi_heads.box_head.5.", "roi_heads.box_head.fc1."),)

RETINANET: tuple[Line, ...] = (
    ("backbone.fpn.inner_blocks.0.0.", "backbone.fpn_lateral3."),
    ("backbone.fpn.inner_blocks.1.0.", "backbone.fpn_lateral4."),
    ("backbone.fpn.inner_blocks.2.0.", "backbone.fpn_lateral5."),
    ("backbone.fpn.layer_blocks.0.0.", "backbone.fpn_output3."),
    ("backbone.fpn.layer_blocks.1.0.", "backbone.fpn_output4."),
    ("backbone.fpn.layer_blocks.2.0.", "backbone.fpn_output5."),
    ("backbone.fpn.extra_blocks.p6.", "backbone.top_block.p6."),
    ("backbone.fpn.extra_blocks.p7.", "backbone.top_block.p7."),
    ("head.classification_head.cls_logits.", "head.cls_score."),
    ("head.regression_head.bbox_reg.", "head.bbox_pred."),
    *BODY,
)
# Ours count convolution, norm and ReLU; torchvision's are blocks of all three.
RETINANET_CONVOLUTIONS: tuple[Line, ...] = (
    ("head.classification_head.conv.0.0.", "head.cls_subnet.0."),
    ("head.classification_head.conv.1.0.", "head.cls_subnet.2."),
    ("head.classification_head.conv.2.0.", "head.cls_subnet.4."),
    ("head.classification_head.conv.3.0.", "head.cls_subnet.6."),
    ("head.regression_head.conv.0.0.", "head.bbox_subnet.0."),
    ("head.regression_head.conv.1.0.", "head.bbox_subnet.2."),
    ("head.regression_head.conv.2.0.", "head.bbox_subnet.4."),
    ("head.regression_head.conv.3.0.", "head.bbox_subnet.6."),
)
RETINANET_CONVOLUTIONS_AND_NORMS: tuple[Line, ...] = (
    ("head.classification_head.conv.0.0.", "head.cls_subnet.0."),
    ("head.classification_head.conv.0.1.", "head.cls_subnet.1."),
    ("head.classification_head.conv.1.0.", "head.cls_subnet.3."),
    ("head.classification_head.conv.1.1.", "head.cls_subnet.4."),
    ("head.classification_head.conv.2.0.", "head.cls_subnet.6."),
    ("head.classification_head.conv.2.1.", "head.cls_subnet.7."),
    ("head.classification_head.conv.3.0.", "head.cls_subnet.9."),
    ("head.classification_head.conv.3.1.", "head.cls_subnet.10."),
    ("head.regression_head.conv.0.0.", "head.bbox_subnet.0."),
    ("head.regression_head.conv.0.1.", "head.bbox_subnet.1."),
    ("head.regression_head.conv.1.0.", "head.bbox_subnet.3."),
    ("head.regression_head.conv.1.1.", "head.bbox_subnet.4."),
    ("head.regression_head.conv.2.0.", "head.bbox_subnet.6."),
    ("head.regression_head.conv.2.1.", "head.bbox_subnet.7."),
    ("head.regression_head.conv.3.0.", "head.bbox_subnet.9."),
    ("head.regression_head.conv.3.1.", "head.bbox_subnet.10."),
)
# Weights whose names do not change, so that no line is for them.
UNCHANGED = re.compile(r"roi_heads\.box_predictor\.(cls_score|bbox_pred)\.(weight|bias)")

# Before torchvision 0.13 a convolution had no place for a norm beside it. The files published until then keep the old
# names: the first versions of all detectors trained on COCO.
OLD_NAMES = (
    (r"^backbone\.fpn\.(inner|layer)_blocks\.(\d)\.(weight|bias)$", r"backbone.fpn.\1_blocks.\2.0.\3"),
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
    (r"^roi_heads\.mask_head\.mask_fcn1\.", "roi_heads.mask_head.0.0."),
    (r"^roi_heads\.mask_head\.mask_fcn2\.", "roi_heads.mask_head.1.0."),
    (r"^roi_heads\.mask_head\.mask_fcn3\.", "roi_heads.mask_head.2.0."),
    (r"^roi_heads\.mask_head\.mask_fcn4\.", "roi_heads.mask_head.3.0."),
    (r"^head\.(classification|regression)_head\.conv\.0\.(weight|bias)$", r"head.\1_head.conv.0.0.\2"),
    (r"^head\.(classification|regression)_head\.conv\.2\.(weight|bias)$", r"head.\1_head.conv.1.0.\2"),
    (r"^head\.(classification|regression)_head\.conv\.4\.(weight|bias)$", r"head.\1_head.conv.2.0.\2"),
    (r"^head\.(classification|regression)_head\.conv\.6\.(weight|bias)$", r"head.\1_head.conv.3.0.\2"),
)
