"""Config keys with which our detectors compute what torchvision's do: from the weights, and torchvision's defaults."""

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.interop.structure import Settings, Weights, pyramid_settings, resnet_settings, two_stage_settings
from mrcnn_zoo.interop.torchvision.classifiers import TRAINED_WITH

ANCHORS_PER_CELL = {"rcnn": 3, "retinanet": 9}
INPUT: Settings = {**TRAINED_WITH, "INPUT.MIN_SIZE_TEST": 800, "INPUT.MAX_SIZE_TEST": 1333}
ANCHOR_GENERATOR: Settings = {
    "MODEL.ANCHOR_GENERATOR.NAME": "TorchvisionAnchorGenerator",
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.ANCHOR_GENERATOR.OFFSET": 0.0,
}
RESNET_FPN: Settings = {"MODEL.RESNETS.STRIDE_IN_1X1": False, "MODEL.FPN.FUSE_TYPE": "sum"}
RCNN: Settings = {
    **INPUT,
    **ANCHOR_GENERATOR,
    **RESNET_FPN,
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.PROPOSAL_GENERATOR.NAME": "RPN",
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": 0.001,
    "MODEL.RPN.IOU_THRESHOLDS": [0.3, 0.7],
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.RPN.POSITIVE_FRACTION": 0.5,
    "MODEL.RPN.SMOOTH_L1_BETA": 1 / 9,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.NMS_THRESH": 0.7,
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": [0.5],
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 512,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.25,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.05,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.5,
    "MODEL.ROI_HEADS.MIN_SIZE_TEST": 0.01,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign",
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": [10.0, 10.0, 5.0, 5.0],
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 1 / 9,
    "TEST.DETECTIONS_PER_IMAGE": 100,
}
MASK: Settings = {
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "ROIAlign",
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": 2,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
}
KEYPOINT: Settings = {
    "MODEL.ROI_KEYPOINT_HEAD.NAME": "KRCNNConvDeconvUpsampleHead",
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE": "ROIAlign",
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_SAMPLING_RATIO": 2,
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION": 14,
}
RETINANET: Settings = {
    **INPUT,
    **ANCHOR_GENERATOR,
    **RESNET_FPN,
    "MODEL.META_ARCHITECTURE": "RetinaNet",
    "MODEL.BACKBONE.NAME": "build_retinanet_resnet_fpn_backbone",
    # 1, 2 ** (1 / 3) and 2 ** (2 / 3) of each octave, rounded down
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 40, 50], [64, 80, 101], [128, 161, 203], [256, 322, 406], [512, 645, 812]],
    "MODEL.FPN.TOP_BLOCK": "p6p7",
    "MODEL.RETINANET.IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
    "MODEL.RETINANET.IOU_THRESHOLDS": [0.4, 0.5],
    "MODEL.RETINANET.SCORE_THRESH_TEST": 0.05,
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": 1000,
    "MODEL.RETINANET.NMS_THRESH_TEST": 0.5,
    "MODEL.RETINANET.CLIP_BEFORE_NMS": True,
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": 0.0,
    "TEST.DETECTIONS_PER_IMAGE": 300,
}


def rcnn_settings(ours: Weights) -> Settings:
    """The config of Faster, Mask and Keypoint R-CNN.

    Args:
        ours: weights under our names.

    Raises:
        UserError: a network that torchvision does not build.
    """
    _require_anchors(len(ours["proposal_generator.rpn_head.objectness_logits.bias"]), ANCHORS_PER_CELL["rcnn"])
    settings = RCNN | two_stage_settings(ours)
    if settings["MODEL.MASK_ON"]:
        settings |= MASK
    return settings | (KEYPOINT if "MODEL.KEYPOINT_ON" in settings else {})


def retinanet_settings(ours: Weights) -> Settings:
    """The config of RetinaNet.

    Args:
        ours: weights under our names.

    Raises:
        UserError: a network that torchvision does not build.
    """
    num_anchors = len(ours["head.bbox_pred.bias"]) // 4
    _require_anchors(num_anchors, ANCHORS_PER_CELL["retinanet"])
    has_norms = "head.cls_subnet.10.weight" in ours
    settings = RETINANET | resnet_settings(ours, prefix="backbone.bottom_up.") | pyramid_settings(ours)
    p6_channels = ours["backbone.top_block.p6.weight"].shape[1]
    return settings | {
        # torchvision computes p6 from p5 where that has as many channels as p6, otherwise from res5.
        "MODEL.FPN.TOP_BLOCK_IN_FEATURE": "p5" if p6_channels == settings["MODEL.FPN.OUT_CHANNELS"] else "res5",
        "MODEL.RETINANET.NUM_CLASSES": len(ours["head.cls_score.bias"]) // num_anchors,
        "MODEL.RETINANET.NUM_CONVS": 4,
        "MODEL.RETINANET.NORM": "GN" if has_norms else "",
        "MODEL.RETINANET.BBOX_REG_LOSS_TYPE": "giou" if has_norms else "smooth_l1",
    }


def _require_anchors(found: int, known: int) -> None:
    if found != known:
        raise UserError(
            f"these weights have {found} anchors per cell, and torchvision's own detectors {known}. A state dict does "
            f"not contain the sizes of anchors, so only models as torchvision builds them are converted from and to it."
        )
