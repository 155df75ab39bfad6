"""matterport's Mask_RCNN, a Keras model; its `.h5` files hold weights only.

Equal at inference: all layers (the biases of convolutions before a batch norm, and the batch norms of the heads, are
folded), the stem's padding, the softmax over background and object in the RPN (as the sigmoid of their difference), the
anchors, the decoding of boxes between pixel centres, top-k and suppression across levels, the level of each region,
crop-and-resize, one detection per region (with a score threshold of 0.5 or more no region has two). Different there:
  - images are padded with black to a centred square; ours are padded at the right and the bottom, with the mean;
  - overlaps are computed between the centres of the first and last pixels, so boxes are one pixel smaller;
  - boxes are clipped one pixel earlier and rounded to whole pixels at the end; masks are resized to those.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from mrcnn_zoo.interop.conventions import background_last, fold_batch_norm, variance_under_our_eps
from mrcnn_zoo.interop.converter import Conversion, has_all
from mrcnn_zoo.interop.renaming import RenameTable, patterns
from mrcnn_zoo.interop.structure import Settings, two_stage_settings
from mrcnn_zoo.registries import CHECKPOINT_CONVERTERS

SIGNATURE = ("fpn_c5p5/kernel", "rpn_class_raw/kernel", "mrcnn_class_logits/kernel")
KERAS_EPS = 1e-3
BLOCK_LETTERS = "abcdefghijklmnopqrstuvw"  # the longest stage of ResNet-101 has 23 blocks

NAMES = RenameTable(
    (
        ("conv1/", "backbone.bottom_up.stem.conv1/"),
        ("bn_conv1/", "backbone.bottom_up.stem.conv1.norm/"),
        *patterns(
            *(
                (rf"^(res|bn)(\d){letter}_branch", rf"backbone.bottom_up.res\2.{number}.\1_branch")
                for number, letter in enumerate(BLOCK_LETTERS)
            )
        ),
        ("fpn_c2p2/", "backbone.fpn_lateral2/"),
        ("fpn_c3p3/", "backbone.fpn_lateral3/"),
        ("fpn_c4p4/", "backbone.fpn_lateral4/"),
        ("fpn_c5p5/", "backbone.fpn_lateral5/"),
        ("fpn_p2/", "backbone.fpn_output2/"),
        ("fpn_p3/", "backbone.fpn_output3/"),
        ("fpn_p4/", "backbone.fpn_output4/"),
        ("fpn_p5/", "backbone.fpn_output5/"),
        ("rpn_conv_shared/", "proposal_generator.rpn_head.conv/"),
        ("rpn_class_raw/", "proposal_generator.rpn_head.objectness_logits/"),
        ("rpn_bbox_pred/", "proposal_generator.rpn_head.anchor_deltas/"),
        ("mrcnn_class_conv1/", "roi_heads.box_head.fc1/"),
        ("mrcnn_class_conv2/", "roi_heads.box_head.fc2/"),
        ("mrcnn_class_bn1/", "roi_heads.box_head.fc1.norm/"),
        ("mrcnn_class_bn2/", "roi_heads.box_head.fc2.norm/"),
        ("mrcnn_class_logits/", "roi_heads.box_predictor.cls_score/"),
        ("mrcnn_bbox_fc/", "roi_heads.box_predictor.bbox_pred/"),
        ("mrcnn_mask_conv1/", "roi_heads.mask_head.mask_fcn1/"),
        ("mrcnn_mask_conv2/", "roi_heads.mask_head.mask_fcn2/"),
        ("mrcnn_mask_conv3/", "roi_heads.mask_head.mask_fcn3/"),
        ("mrcnn_mask_conv4/", "roi_heads.mask_head.mask_fcn4/"),
        ("mrcnn_mask_bn1/", "roi_heads.mask_head.mask_fcn1.norm/"),
        ("mrcnn_mask_bn2/", "roi_heads.mask_head.mask_fcn2.norm/"),
        ("mrcnn_mask_bn3/", "roi_heads.mask_head.mask_fcn3.norm/"),
        ("mrcnn_mask_bn4/", "roi_heads.mask_head.mask_fcn4.norm/"),
        ("mrcnn_mask_deconv/", "roi_heads.mask_head.deconv/"),
        ("mrcnn_mask/", "roi_heads.mask_head.predictor/"),
    ),
    inner=(
        (".res_branch1/", ".shortcut/"),
        (".res_branch2a/", ".conv1/"),
        (".res_branch2b/", ".conv2/"),
        (".res_branch2c/", ".conv3/"),
        (".bn_branch1/", ".shortcut.norm/"),
        (".bn_branch2a/", ".conv1.norm/"),
        (".bn_branch2b/", ".conv2.norm/"),
        (".bn_branch2c/", ".conv3.norm/"),
        *patterns(
            (r"/kernel$", ".weight"),
            (r"/bias$", ".bias"),
            (r"/gamma$", ".weight"),
            (r"/beta$", ".bias"),
            (r"/moving_mean$", ".running_mean"),
            (r"/moving_variance$", ".running_var"),
        ),
    ),
)
NORM_VALUES = ("weight", "bias", "running_mean", "running_var")

SETTINGS: Settings = {
    "INPUT.FORMAT": "RGB",
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TEST": 1024,
    "MODEL.PIXEL_MEAN": [123.7, 116.8, 103.9],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
    "MODEL.RESNETS.STEM_POOL": "following",
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32.0], [64.0], [128.0], [256.0], [512.0]],
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[2.0, 1.0, 0.5]],  # there width over height: 0.5, 1, 2
    "MODEL.ANCHOR_GENERATOR.OFFSET": 0.0,
    "MODEL.RPN.BOX_CODER": "LastPixelBoxCoder",
    "MODEL.RPN.BBOX_REG_WEIGHTS": [10.0, 10.0, 5.0, 5.0],
    "MODEL.RPN.SMOOTH_L1_BETA": 1.0,
    "MODEL.RPN.ACROSS_LEVELS": True,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 6000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.NMS_THRESH": 0.7,
    "MODEL.ROI_HEADS.CANONICAL_LEVEL": 4,
    "MODEL.ROI_HEADS.CANONICAL_BOX_SIDE": 158.392,  # 224 / sqrt 2 and rounded down: 224 and rounded to the nearest
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.7,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.3,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 200,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.33,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "CropAndResize",
    "MODEL.ROI_BOX_HEAD.BOX_CODER": "LastPixelBoxCoder",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": [10.0, 10.0, 5.0, 5.0],
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 1.0,
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "CropAndResize",
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
    "TEST.DETECTIONS_PER_IMAGE": 100,
}
NOTES = (
    "the file holds weights only; the settings of matterport's base Config are assumed: RGB pixels less 123.7, 116.8, "
    "103.9, images up to 1024 pixels, anchors of 32 to 512, score threshold 0.7, NMS at 0.3",
    "there images are padded to a centred square with black, overlaps computed between pixel centres, boxes rounded to "
    "whole pixels; not so here",
    "the batch norms of its heads are folded into their layers: the same at inference, not in training",
)


class MatterportConverter:
    """Mask R-CNN as matterport's Keras code trains it."""

    source = "matterport Mask_RCNN"

    def recognises(self, names: Collection[str]) -> bool:
        """Whether a file comes from matterport's Mask_RCNN.

        Args:
            names: of the weights in the file.
        """
        return has_all(names, SIGNATURE)

    def convert(self, weights: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Conversion:  # noqa: ARG002
        """The same network as ours, with the settings of the project's base Config.

        Args:
            weights: by their names in the file.
            meta: not used.

        Raises:
            UserError: a backbone that we do not have.
        """
        renamed, leftovers = NAMES.apply(weights)
        ours = _with_folded_norms({name: _in_torch_layout(tensor) for name, tensor in renamed.items()})
        ours |= {name: _in_our_convention(name, tensor) for name, tensor in ours.items()}
        return Conversion(ours, leftovers, two_stage_settings(ours) | SETTINGS, notes=NOTES)


@CHECKPOINT_CONVERTERS.register("matterport")
def build_matterport_converter() -> MatterportConverter:
    """matterport's Mask_RCNN in Keras."""
    return MatterportConverter()


def _in_torch_layout(tensor: Tensor) -> Tensor:
    if tensor.ndim == 4:  # (h, w, in, out) of a convolution; (h, w, out, in) of a transposed one, where torch swaps too
        tensor = tensor.permute(3, 2, 0, 1)
    elif tensor.ndim == 2:
        tensor = tensor.T
    return tensor.contiguous()


def _with_folded_norms(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fold biases and Keras' eps into the norms of the backbone, and the norms of the heads into their layers."""
    result = dict(weights)
    for layer in [name.removesuffix(".norm.weight") for name in weights if name.endswith(".norm.weight")]:
        norm = [result.pop(f"{layer}.norm.{value}") for value in NORM_VALUES]
        if layer.startswith("backbone."):
            scale, shift, mean, variance = norm
            mean = mean - result.pop(f"{layer}.bias", 0.0)
            norm = [scale, shift, mean, variance_under_our_eps(variance, eps=KERAS_EPS)]
            result |= {f"{layer}.norm.{value}": tensor for value, tensor in zip(NORM_VALUES, norm, strict=True)}
        else:
            names = f"{layer}.weight", f"{layer}.bias"
            pair = fold_batch_norm(
                (result[names[0]], result[names[1]]), (norm[0], norm[1], norm[2], norm[3]), eps=KERAS_EPS
            )
            result |= dict(zip(names, pair, strict=True))
    return result


def _in_our_convention(name: str, tensor: Tensor) -> Tensor:
    layer = name.rpartition(".")[0]
    if layer == "proposal_generator.rpn_head.objectness_logits":
        background, objects = tensor.unflatten(0, (-1, 2)).unbind(1)
        return objects - background
    if layer == "proposal_generator.rpn_head.anchor_deltas":
        return _x_before_y(tensor)
    if layer == "roi_heads.box_predictor.bbox_pred":
        return _x_before_y(tensor[4:])  # without the background's
    if layer == "roi_heads.box_predictor.cls_score":
        return background_last(tensor)
    if layer == "roi_heads.mask_head.predictor":
        return tensor[1:]
    is_fc = re.fullmatch(r"roi_heads\.box_head\.fc\d\.weight", name)
    return tensor.flatten(1) if is_fc else tensor


def _x_before_y(rows: Tensor) -> Tensor:
    """Rows of dy, dx, dh, dw as dx, dy, dw, dh."""
    return rows.unflatten(0, (-1, 4))[:, [1, 0, 3, 2]].flatten(0, 1)
