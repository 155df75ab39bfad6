"""torchvision's Faster and Mask R-CNN with the settings of a config."""

from typing import Any

from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.interop.torchvision.export import to_torchvision
from mrcnn_zoo.interop.torchvision.reference import NormalizeOnly
from mrcnn_zoo.modeling import resolve_device

NORMS = {"FrozenBN": FrozenBatchNorm2d, "BN": nn.BatchNorm2d}
STAGES = ("conv1.", "layer1.", "layer2.", "layer3.", "layer4.")  # of FREEZE_AT; bn1 belongs to the first

# The only values that torchvision's model supports.
REQUIRED = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
    "MODEL.RESNETS.NUM_GROUPS": 1,
    "MODEL.FPN.NORM": "",
    "MODEL.FPN.FUSE_TYPE": "sum",
    "MODEL.PROPOSAL_GENERATOR.NAME": "RPN",
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.BRANCHES": [],
    "MODEL.ROI_BOX_HEAD.NUM_CONV": 0,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": False,
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": False,
}


def build_torchvision_model(cfg: CfgNode) -> FasterRCNN:
    """torchvision's model with the layers, thresholds and frozen parts of a config, randomly initialised.

    It is on MODEL.DEVICE and takes images in pixel units, resized for the network.

    Args:
        cfg: of a Faster or Mask R-CNN with an FPN.

    Raises:
        UserError: torchvision's model does not support a setting.
    """
    _check_supported(cfg)
    model, heads = cfg.MODEL, cfg.MODEL.ROI_HEADS
    ours_to_theirs: dict[str, Any] = {
        "num_classes": None,  # given by the predictors
        "image_mean": list(model.PIXEL_MEAN),
        "image_std": list(model.PIXEL_STD),
        "rpn_anchor_generator": _build_anchors(cfg),
        "rpn_pre_nms_top_n_train": model.RPN.PRE_NMS_TOPK_TRAIN,
        "rpn_pre_nms_top_n_test": model.RPN.PRE_NMS_TOPK_TEST,
        "rpn_post_nms_top_n_train": model.RPN.POST_NMS_TOPK_TRAIN,
        "rpn_post_nms_top_n_test": model.RPN.POST_NMS_TOPK_TEST,
        "rpn_nms_thresh": model.RPN.NMS_THRESH,
        "rpn_bg_iou_thresh": model.RPN.IOU_THRESHOLDS[0],
        "rpn_fg_iou_thresh": model.RPN.IOU_THRESHOLDS[-1],
        "rpn_batch_size_per_image": model.RPN.BATCH_SIZE_PER_IMAGE,
        "rpn_positive_fraction": model.RPN.POSITIVE_FRACTION,
        "box_score_thresh": heads.SCORE_THRESH_TEST,
        "box_nms_thresh": heads.NMS_THRESH_TEST,
        "box_detections_per_img": cfg.TEST.DETECTIONS_PER_IMAGE,
        "box_bg_iou_thresh": heads.IOU_THRESHOLDS[0],
        "box_fg_iou_thresh": heads.IOU_THRESHOLDS[-1],
        "box_batch_size_per_image": heads.BATCH_SIZE_PER_IMAGE,
        "box_positive_fraction": heads.POSITIVE_FRACTION,
        "bbox_reg_weights": tuple(model.ROI_BOX_HEAD.BBOX_REG_WEIGHTS),
        **_build_box_parts(cfg),
    }
    backbone = _build_backbone(cfg)
    if model.MASK_ON:
        detector: FasterRCNN = MaskRCNN(backbone, **ours_to_theirs, **_build_mask_parts(cfg))
    else:
        detector = FasterRCNN(backbone, **ours_to_theirs)
    detector.transform = NormalizeOnly(detector.transform)
    return detector.to(resolve_device(model.DEVICE))


def torchvision_state(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under torchvision's names, with which both models compute the same.

    Args:
        ours: state dict of our model.
        theirs: state dict of the model that `build_torchvision_model` gives for the same config; not changed.

    Raises:
        ValueError: a weight that only one of the models has, or in another shape.
    """
    state = _without_counters(to_torchvision(ours))
    theirs = _without_counters(theirs)
    different = [name for name in {*state, *theirs} if not _have_one_shape(state.get(name), theirs.get(name))]
    if different:
        raise ValueError(f"weights that only one model has, or in another shape: {', '.join(sorted(different)[:5])}")
    return state


def _without_counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def _have_one_shape(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and one.shape == other.shape


def _check_supported(cfg: CfgNode) -> None:
    for key, required in REQUIRED.items():
        value: Any = cfg
        for part in key.split("."):
            value = value[part]
        if value != required:
            raise UserError(f"torchvision's model cannot be built with {key} = {value!r}, only with {required!r}.")
    if cfg.MODEL.RESNETS.NORM not in NORMS:
        raise UserError(
            f"torchvision's model cannot be built with MODEL.RESNETS.NORM = {cfg.MODEL.RESNETS.NORM!r}, only with "
            f"{' or '.join(NORMS)}."
        )
    if cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE == "ROIPool":
        raise UserError("torchvision's model pools with RoIAlign; set MODEL.ROI_BOX_HEAD.POOLER_TYPE to ROIAlign.")


def _build_backbone(cfg: CfgNode) -> BackboneWithFPN:
    settings = cfg.MODEL.RESNETS
    body = getattr(resnet, f"resnet{settings.DEPTH}")(weights=None, norm_layer=NORMS[settings.NORM])
    frozen = STAGES[: cfg.MODEL.BACKBONE.FREEZE_AT] + (("bn1.",) if cfg.MODEL.BACKBONE.FREEZE_AT else ())
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    return BackboneWithFPN(
        body,
        return_layers={f"layer{level + 1}": str(level) for level in range(4)},
        in_channels_list=[settings.RES2_OUT_CHANNELS * 2**level for level in range(4)],
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
    )


def _build_anchors(cfg: CfgNode) -> AnchorGenerator:
    num_levels = len(cfg.MODEL.RPN.IN_FEATURES)
    sizes, ratios = (
        tuple(tuple(level) for level in (levels * num_levels if len(levels) == 1 else levels))
        for levels in (cfg.MODEL.ANCHOR_GENERATOR.SIZES, cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS)
    )
    return AnchorGenerator(sizes, ratios)


def _build_pooler(settings: CfgNode) -> MultiScaleRoIAlign:
    return MultiScaleRoIAlign(
        ["0", "1", "2", "3"], output_size=settings.POOLER_RESOLUTION, sampling_ratio=settings.POOLER_SAMPLING_RATIO
    )


def _build_box_parts(cfg: CfgNode) -> dict[str, nn.Module]:
    settings = cfg.MODEL.ROI_BOX_HEAD
    return {
        "box_roi_pool": _build_pooler(settings),
        "box_head": TwoMLPHead(cfg.MODEL.FPN.OUT_CHANNELS * settings.POOLER_RESOLUTION**2, settings.FC_DIM),
        "box_predictor": FastRCNNPredictor(settings.FC_DIM, cfg.MODEL.ROI_HEADS.NUM_CLASSES + 1),
    }


def _build_mask_parts(cfg: CfgNode) -> dict[str, nn.Module]:
    settings = cfg.MODEL.ROI_MASK_HEAD
    width = settings.CONV_DIM
    return {
        "mask_roi_pool": _build_pooler(settings),
        "mask_head": MaskRCNNHeads(cfg.MODEL.FPN.OUT_CHANNELS, (width,) * settings.NUM_CONV, 1),
        "mask_predictor": MaskRCNNPredictor(width, width, cfg.MODEL.ROI_HEADS.NUM_CLASSES + 1),
    }
