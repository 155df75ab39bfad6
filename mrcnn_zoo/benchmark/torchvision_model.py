"""torchvision's Mask R-CNN with the settings of a config, and random weights with which detectors detect."""

import re
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.interop.torchvision.export import to_torchvision
from mrcnn_zoo.modeling import resolve_device
from mrcnn_zoo.modeling.detectors.input_output import Collation
from mrcnn_zoo.structures import Sample

RESIDUAL_GAIN = 0.3  # what a block adds; at 1 the features of an untrained ResNet-50 double in variance 16 times
CLASS_LOGIT_SPREAD = 2.5  # standard deviation over the regions
FOREGROUND_SHARE = 0.07  # of the regions, a class beats the background
DENSE_CANDIDATES = 300  # anchors and classes of a RetinaNet in an image, above ...
DENSE_CANDIDATE_LOGIT = -2.9  # ... a score of 0.05, its usual threshold


@torch.no_grad()
def bring_to_life(model: nn.Module, samples: list[Sample]) -> None:
    """Change the fresh weights of a detector so that on these samples it finds many, differing instances.

    The features of a deep network with fresh weights explode, and its classifier then says the same of every region: it
    finds nothing, or one class everywhere. A score threshold of 0 makes every region a candidate for every class, which
    is more work than any real image. Here the backbone keeps its scale, and the classifier is centred and spread on
    what it sees: most regions are background, the rest are of various classes. Numbers of candidates and of detections
    are then close to those of a trained model on a crowded image.

    Args:
        model: with Detectron2's parameter names; changed in place. Of one that only proposes, the backbone is.
        samples: what it is going to be measured on, or some like it.
    """
    _scale_backbone(model, samples)
    if "head.cls_score.weight" in model.state_dict():
        _spread_dense_scores(model, samples)
        return
    # One after another: the regions of a stage of a cascade depend on the stages before. Proposals have no classes.
    for name, classifier in model.named_modules():
        if name.startswith("roi_heads.") and name.endswith("cls_score") and isinstance(classifier, nn.Linear):
            _spread_region_scores(model, classifier, samples)


def _spread_region_scores(model: nn.Module, classifier: nn.Linear, samples: list[Sample]) -> None:
    """Most regions are background, the rest of various classes."""
    seen: list[Tensor] = []
    hook = classifier.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach()))
    was_training = model.training
    model.eval()
    model.predict(samples)  # type: ignore[operator]
    model.train(was_training)
    hook.remove()
    regions = torch.cat(seen)
    centred = (regions - regions.mean(dim=0)) @ classifier.weight.T
    gain = CLASS_LOGIT_SPREAD / centred.std()
    classifier.weight *= gain
    classifier.bias.copy_(-classifier.weight @ regions.mean(dim=0))
    lead_of_best = gain * (centred[:, :-1].amax(dim=1) - centred[:, -1])
    classifier.bias[-1] += torch.quantile(lead_of_best, 1 - FOREGROUND_SHARE)


def _scale_backbone(model: nn.Module, samples: list[Sample]) -> None:
    state = model.state_dict()
    brightness = torch.stack([sample.image.float().std() for sample in samples]).mean()
    if isinstance(collation := getattr(model, "collate", None), Collation):
        brightness = brightness / collation.pixel_std.mean().cpu()
    for name, tensor in state.items():
        if name.endswith("stem.conv1.norm.weight"):
            tensor.fill_(1 / max(float(brightness), 1.0))
        last_of_block = re.fullmatch(r"(.*res\d\.\d+)\.conv(\d)\.norm\.weight", name)
        if last_of_block and f"{last_of_block[1]}.conv{int(last_of_block[2]) + 1}.weight" not in state:
            tensor.fill_(RESIDUAL_GAIN)


def _spread_dense_scores(model: nn.Module, samples: list[Sample]) -> None:
    """Of all scores of a RetinaNet, few pass the threshold, and these differ."""
    classifier = model.get_submodule("head.cls_score")
    seen: list[Tensor] = []
    hook = classifier.register_forward_hook(lambda _, __, output: seen.append(output.flatten()))
    model.eval()
    model.predict(samples)  # type: ignore[operator]
    hook.remove()
    logits = torch.cat(seen)
    gain = CLASS_LOGIT_SPREAD / logits.std()
    classifier.weight *= gain  # type: ignore[operator]
    rank = DENSE_CANDIDATES * len(samples)
    threshold = gain * logits.sort(descending=True).values[min(rank, len(logits) - 1)]
    # All biases are equal in fresh weights.
    classifier.bias.mul_(gain).add_(DENSE_CANDIDATE_LOGIT - threshold)  # type: ignore[operator, union-attr]


NORMS = {"FrozenBN": FrozenBatchNorm2d, "BN": nn.BatchNorm2d}
STAGES = ("conv1.", "layer1.", "layer2.", "layer3.", "layer4.")  # what FREEZE_AT counts; bn1 belongs to the first

# What torchvision's model cannot do otherwise.
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


class NormalizeOnly(GeneralizedRCNNTransform):
    """torchvision's input stage for images that already have the size to work on."""

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Both as they are."""
        return image, target


def build_torchvision_model(cfg: CfgNode) -> FasterRCNN:
    """The same network, with the same selections, thresholds and frozen parts, on MODEL.DEVICE, with fresh weights.

    It takes images in pixel units, of the size that the network is to see.

    Raises:
        UserError: a setting that torchvision's model does not have.
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
    theirs = detector.transform
    detector.transform = NormalizeOnly(theirs.min_size, theirs.max_size, theirs.image_mean, theirs.image_std)
    return detector.to(resolve_device(model.DEVICE))


def torchvision_state(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under torchvision's names: with them both models compute the same.

    Args:
        ours: state dict of our model.
        theirs: state dict of the model that `build_torchvision_model` gives for the same config; not changed.

    Raises:
        ValueError: a weight on either side without its like on the other.
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
