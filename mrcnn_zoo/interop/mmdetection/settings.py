"""Config keys with which our model computes the same as the model of an MMDetection config."""

import math
from collections.abc import Sequence
from typing import Any

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.interop.mmdetection.config import MMDetectionModel
from mrcnn_zoo.interop.structure import Settings

# The types that ours can express.
KNOWN_TYPES = {
    "type": ("FasterRCNN", "MaskRCNN", "MaskScoringRCNN", "TwoStageDetector"),
    "backbone.type": ("ResNet", "ResNeXt"),
    "neck.type": ("FPN",),
    "rpn_head.type": ("RPNHead",),
    "rpn_head.anchor_generator.type": ("AnchorGenerator",),
    "rpn_head.bbox_coder.type": ("DeltaXYWHBBoxCoder",),
    "roi_head.type": ("StandardRoIHead", "MaskScoringRoIHead"),
    "roi_head.bbox_roi_extractor.type": ("SingleRoIExtractor",),
    "roi_head.bbox_head.type": ("Shared2FCBBoxHead", "Shared4Conv1FCBBoxHead", "ConvFCBBoxHead", "BBoxHead"),
    "roi_head.bbox_head.bbox_coder.type": ("DeltaXYWHBBoxCoder",),
    "roi_head.mask_head.type": ("FCNMaskHead",),
    "roi_head.mask_iou_head.type": ("MaskIoUHead",),
    "roi_head.mask_iou_head.loss_iou.type": ("MSELoss",),
}
# Settings without a key of ours, and the value that our model computes with.
FIXED: dict[str, Any] = {
    "backbone.deep_stem": False,
    "backbone.avg_down": False,
    "neck.add_extra_convs": False,
    "rpn_head.anchor_generator.scale_major": True,
    "rpn_head.bbox_coder.clip_border": True,
    "rpn_head.bbox_coder.add_ctr_clamp": False,
    "rpn_head.bbox_coder.wh_ratio_clip": 16 / 1000,
    "roi_head.bbox_head.bbox_coder.clip_border": True,
    "roi_head.bbox_head.bbox_coder.add_ctr_clamp": False,
    "roi_head.bbox_head.bbox_coder.wh_ratio_clip": 16 / 1000,
    "test_cfg.rpn.nms_across_levels": False,
    "test_cfg.rcnn.mask_thr_binary": 0.5,
}
NORMS = {"BN": "BN", "SyncBN": "SyncBN", "MMSyncBN": "SyncBN", "GN": "GN", "LN": "LN"}
ROI_LAYERS = {
    ("RoIAlign", True, "avg"): "ROIAlignV2",
    ("RoIAlign", False, "avg"): "ROIAlign",
    ("RoIAlign", True, "max"): "ROIAlignV2Max",
    ("RoIAlign", False, "max"): "ROIAlignMax",
}


def convention_settings(model: MMDetectionModel, *, has_masks: bool, scores_masks: bool = False) -> Settings:
    """The config keys that do not follow from the shapes of the weights.

    Args:
        model: the config.
        has_masks: whether there is a mask branch.
        scores_masks: whether there is a mask-IoU head.

    Raises:
        UserError: a network that ours cannot express.
    """
    for path, known in KNOWN_TYPES.items():
        if model.at(path, known[0]) not in known:
            raise UserError(
                f"MMDetection's {path} = {model.at(path)!r} cannot be imported; known here are {', '.join(known)}."
            )
    return {
        **_pixel_settings(model),
        **_backbone_settings(model),
        **_proposal_settings(model),
        **_box_settings(model),
        **(_mask_settings(model) if has_masks else {}),
        **(_mask_iou_settings(model) if scores_masks else {}),
        **_training_settings(model),
    }


def differences(model: MMDetectionModel) -> list[str]:
    """Sentences about values of the config that our model does not compute with.

    Args:
        model: the config.
    """
    found = [
        f"{path} = {model.at(path)!r} has no key here; the model computes as with {value!r}"
        for path, value in FIXED.items()
        if model.at(path, value) != value
    ]
    paths = [f"roi_head.{branch}_roi_extractor.finest_scale" for branch in ("bbox", "mask")]
    if model.has("roi_head.mask_head") and len({model.at(path, 56) for path in paths}) > 1:
        found.append(f"{paths[1]} = {model.at(paths[1])} differs from the box branch's, which is used for both")
    return found


def _pixel_settings(model: MMDetectionModel) -> Settings:
    return {
        "INPUT.FORMAT": "RGB" if model.at("data_preprocessor.bgr_to_rgb") else "BGR",
        "MODEL.PIXEL_MEAN": _floats(model.at("data_preprocessor.mean")),
        "MODEL.PIXEL_STD": _floats(model.at("data_preprocessor.std")),
    }


def _backbone_settings(model: MMDetectionModel) -> Settings:
    norm = NORMS.get(model.at("backbone.norm_cfg.type", "BN"))
    if norm is None:
        raise UserError(f"MMDetection's backbone.norm_cfg.type = {model.at('backbone.norm_cfg.type')!r} is not known.")
    is_frozen = model.at("backbone.norm_eval", True) or not model.at("backbone.norm_cfg.requires_grad", True)
    dilations = model.at("backbone.dilations", (1, 1, 1, 1))
    settings = {
        "MODEL.RESNETS.STRIDE_IN_1X1": model.at("backbone.style") == "caffe",
        "MODEL.RESNETS.NORM": "FrozenBN" if norm in ("BN", "SyncBN") and is_frozen else norm,
        "MODEL.RESNETS.RES5_DILATION": int(dilations[3]) if len(dilations) > 3 else 1,
        "MODEL.BACKBONE.FREEZE_AT": int(model.at("backbone.frozen_stages")) + 1,
        "MODEL.FPN.NORM": NORMS.get(model.at("neck.norm_cfg.type", ""), ""),
    }
    if model.has("backbone.dcn"):
        settings |= {
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [bool(on) for on in model.at("backbone.stage_with_dcn", (True,) * 4)],
            "MODEL.RESNETS.DEFORM_MODULATED": model.at("backbone.dcn.type") == "DCNv2",
            "MODEL.RESNETS.DEFORM_NUM_GROUPS": int(model.at("backbone.dcn.deform_groups", 1)),
        }
    return settings


def _proposal_settings(model: MMDetectionModel) -> Settings:
    test = "test_cfg.rpn"
    return {
        "MODEL.ANCHOR_GENERATOR.NAME": "DefaultAnchorGenerator",
        "MODEL.ANCHOR_GENERATOR.SIZES": [
            [float(scale * stride) for scale in anchor_scales(model)] for stride in anchor_strides(model)
        ],
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [_floats(model.at("rpn_head.anchor_generator.ratios"))],
        "MODEL.ANCHOR_GENERATOR.OFFSET": float(model.at("rpn_head.anchor_generator.center_offset", 0.0)),
        "MODEL.RPN.BOX_CODER": "DeltaXYWHBBoxCoder",
        "MODEL.RPN.BBOX_REG_WEIGHTS": _weights(model.at("rpn_head.bbox_coder.target_stds")),
        "MODEL.RPN.RANK_BY": "probability",
        "MODEL.RPN.PRE_NMS_TOPK_TEST": int(model.at(f"{test}.nms_pre")),
        "MODEL.RPN.POST_NMS_TOPK_TEST": _max_per_image(model, test),
        "MODEL.RPN.NMS_THRESH": _iou_threshold(model, test),
        "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": max(0, int(model.at(f"{test}.min_bbox_size", 0))),
    }


def anchor_scales(model: MMDetectionModel) -> list[float]:
    """Sides of the square anchors of a cell, in strides.

    Args:
        model: the config.
    """
    octave = model.at("rpn_head.anchor_generator.octave_base_scale")
    if octave is not None:
        count = model.at("rpn_head.anchor_generator.scales_per_octave")
        return [octave * 2 ** (step / count) for step in range(count)]
    return list(model.at("rpn_head.anchor_generator.scales"))


def anchor_strides(model: MMDetectionModel) -> list[int]:
    """Pixels between the cells of each level.

    Args:
        model: the config.

    Raises:
        UserError: strides that differ in x and y, or anchor sizes that are not given in strides.
    """
    given = model.at("rpn_head.anchor_generator.strides")
    strides = [stride if isinstance(stride, Sequence) else (stride, stride) for stride in given]
    bases = model.at("rpn_head.anchor_generator.base_sizes", [across for across, _ in strides])
    if any(across != down for across, down in strides) or list(bases) != [across for across, _ in strides]:
        raise UserError(f"MMDetection's anchors with strides {given} and base_sizes {bases} are not known here.")
    return [int(across) for across, _ in strides]


def _box_settings(model: MMDetectionModel) -> Settings:
    extractor, test = "roi_head.bbox_roi_extractor", "test_cfg.rcnn"
    return {
        **_pooler_settings(model, extractor, "MODEL.ROI_BOX_HEAD"),
        "MODEL.ROI_HEADS.CANONICAL_LEVEL": int(math.log2(model.at(f"{extractor}.featmap_strides")[0])),
        "MODEL.ROI_HEADS.CANONICAL_BOX_SIDE": float(model.at(f"{extractor}.finest_scale", 56)),
        "MODEL.ROI_BOX_HEAD.BOX_CODER": "DeltaXYWHBBoxCoder",
        "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": _weights(model.at("roi_head.bbox_head.bbox_coder.target_stds")),
        "MODEL.ROI_BOX_HEAD.NORM": NORMS.get(model.at("roi_head.bbox_head.norm_cfg.type", ""), ""),
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": float(model.at(f"{test}.score_thr")),
        "MODEL.ROI_HEADS.NMS_THRESH_TEST": _iou_threshold(model, test),
        "TEST.DETECTIONS_PER_IMAGE": _max_per_image(model, test),
        **_suppression_settings(model, f"{test}.nms"),
    }


def _suppression_settings(model: MMDetectionModel, path: str) -> Settings:
    if model.at(f"{path}.type", "nms") != "soft_nms":
        return {"MODEL.ROI_HEADS.SUPPRESSION": "greedy"}
    return {
        "MODEL.ROI_HEADS.SUPPRESSION": f"soft_{model.at(f'{path}.method', 'linear')}",
        "MODEL.ROI_HEADS.SOFT_NMS_SIGMA": float(model.at(f"{path}.sigma", 0.5)),
        "MODEL.ROI_HEADS.SOFT_NMS_MIN_SCORE": float(model.at(f"{path}.min_score", 0.001)),
    }


def _mask_settings(model: MMDetectionModel) -> Settings:
    return {
        **_pooler_settings(model, _mask_extractor(model), "MODEL.ROI_MASK_HEAD"),
        "MODEL.ROI_MASK_HEAD.NORM": NORMS.get(model.at("roi_head.mask_head.norm_cfg.type", ""), ""),
    }


def _mask_iou_settings(model: MMDetectionModel) -> Settings:
    # Its input are the features that the mask head gets.
    return {
        **_pooler_settings(model, _mask_extractor(model), "MODEL.ROI_MASKIOU_HEAD"),
        "MODEL.ROI_MASKIOU_HEAD.LOSS_WEIGHT": float(model.at("roi_head.mask_iou_head.loss_iou.loss_weight", 0.5)),
    }


def _mask_extractor(model: MMDetectionModel) -> str:
    # In a config, a mask branch without an extractor shares that of the box branch.
    own, shared = "roi_head.mask_roi_extractor", "roi_head.bbox_roi_extractor"
    return shared if model.has(shared) and not model.has(own) else own


def _pooler_settings(model: MMDetectionModel, extractor: str, head: str) -> Settings:
    layer = f"{extractor}.roi_layer"
    kind = model.at(f"{layer}.type", "RoIAlign")
    operation = ROI_LAYERS.get(
        (kind, bool(model.at(f"{layer}.aligned", True)), str(model.at(f"{layer}.pool_mode", "avg")))
    )
    operation = "ROIPool" if kind == "RoIPool" else operation
    if operation is None:
        raise UserError(f"MMDetection's {layer} of type {kind!r} cannot be imported; known are RoIAlign and RoIPool.")
    side = model.at(f"{layer}.output_size")
    return {
        f"{head}.POOLER_TYPE": operation,
        f"{head}.POOLER_RESOLUTION": int(side[0] if isinstance(side, Sequence) else side),
        f"{head}.POOLER_SAMPLING_RATIO": int(model.at(f"{layer}.sampling_ratio", 0)),
    }


def _training_settings(model: MMDetectionModel) -> Settings:
    rpn, proposals, rcnn = "train_cfg.rpn", "train_cfg.rpn_proposal", "train_cfg.rcnn"
    low, high = (float(model.at(f"{rcnn}.assigner.{side}_iou_thr")) for side in ("neg", "pos"))
    return {
        "MODEL.RPN.IOU_THRESHOLDS": [float(model.at(f"{rpn}.assigner.{side}_iou_thr")) for side in ("neg", "pos")],
        "MODEL.RPN.BATCH_SIZE_PER_IMAGE": int(model.at(f"{rpn}.sampler.num", 256)),
        "MODEL.RPN.POSITIVE_FRACTION": float(model.at(f"{rpn}.sampler.pos_fraction", 0.5)),
        "MODEL.RPN.BOUNDARY_THRESH": int(model.at(f"{rpn}.allowed_border", -1)),
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN": int(model.at(f"{proposals}.nms_pre")),
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": _max_per_image(model, proposals),
        "MODEL.RPN.SMOOTH_L1_BETA": _beta(model, "rpn_head.loss_bbox"),
        "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": _beta(model, "roi_head.bbox_head.loss_bbox"),
        "MODEL.ROI_HEADS.IOU_THRESHOLDS": [high] if low == high else [low, high],
        "MODEL.ROI_HEADS.IOU_LABELS": [0, 1] if low == high else [0, -1, 1],
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": int(model.at(f"{rcnn}.sampler.num", 512)),
        "MODEL.ROI_HEADS.POSITIVE_FRACTION": float(model.at(f"{rcnn}.sampler.pos_fraction", 0.25)),
    }


def _beta(model: MMDetectionModel, path: str) -> float:
    return float(model.at(f"{path}.beta", 1.0)) if model.at(f"{path}.type", "L1Loss") == "SmoothL1Loss" else 0.0


def _max_per_image(model: MMDetectionModel, path: str) -> int:
    # Until 2.3 it was called max_num.
    old = model.at(f"{path}.max_num")
    return int(old if old is not None else model.at(f"{path}.max_per_img"))


def _iou_threshold(model: MMDetectionModel, path: str) -> float:
    old = model.at(f"{path}.nms_thr")
    return float(old if old is not None else model.at(f"{path}.nms.iou_threshold"))


def _weights(deviations: Sequence[float]) -> list[float]:
    return [1 / float(deviation) for deviation in deviations]


def _floats(values: Sequence[float]) -> list[float]:
    return [float(value) for value in values]
