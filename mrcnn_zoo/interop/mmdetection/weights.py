"""MMDetection's Faster, Mask and Mask Scoring R-CNN on ResNets and ResNeXts, versions 3.x and 2.x.

Equal: all layers, the decoding of boxes with its bounds, the assignment to levels, pooling, suppression, mask pasting,
and the order of proposals with equal probabilities in float32 (as far as torch's sort is stable). Different: images are
resized by other code, and boxes without area are dropped.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from mrcnn_zoo.interop.conventions import anchors_by_size
from mrcnn_zoo.interop.converter import Conversion, has_all
from mrcnn_zoo.interop.mmdetection.config import ForeignConfig, MMDetectionModel, config_of
from mrcnn_zoo.interop.mmdetection.settings import anchor_scales, convention_settings, differences
from mrcnn_zoo.interop.renaming import RESIDUAL_BLOCK, RenameTable, patterns, without_pyramid
from mrcnn_zoo.interop.structure import Settings, two_stage_settings
from mrcnn_zoo.registries import CHECKPOINT_CONVERTERS

SIGNATURE = ("backbone.conv1.weight", "rpn_head.rpn_conv.weight", "rpn_head.rpn_cls.weight")

NAMES = RenameTable(
    (
        # Backbone, with a pyramid on it.
        ("backbone.conv1.", "backbone.bottom_up.stem.conv1."),
        ("backbone.bn1.", "backbone.bottom_up.stem.conv1.norm."),
        ("backbone.gn1.", "backbone.bottom_up.stem.conv1.norm."),
        ("backbone.layer1.", "backbone.bottom_up.res2."),
        ("backbone.layer2.", "backbone.bottom_up.res3."),
        ("backbone.layer3.", "backbone.bottom_up.res4."),
        ("backbone.layer4.", "backbone.bottom_up.res5."),
        ("neck.lateral_convs.0.", "backbone.fpn_lateral2."),
        ("neck.lateral_convs.1.", "backbone.fpn_lateral3."),
        ("neck.lateral_convs.2.", "backbone.fpn_lateral4."),
        ("neck.lateral_convs.3.", "backbone.fpn_lateral5."),
        ("neck.fpn_convs.0.", "backbone.fpn_output2."),
        ("neck.fpn_convs.1.", "backbone.fpn_output3."),
        ("neck.fpn_convs.2.", "backbone.fpn_output4."),
        ("neck.fpn_convs.3.", "backbone.fpn_output5."),
        # Proposal generator.
        ("rpn_head.rpn_conv.", "proposal_generator.rpn_head.conv."),
        ("rpn_head.rpn_cls.", "proposal_generator.rpn_head.objectness_logits."),
        ("rpn_head.rpn_reg.", "proposal_generator.rpn_head.anchor_deltas."),
        # Region heads.
        ("roi_head.shared_head.layer4.", "roi_heads.res5."),
        ("roi_head.bbox_head.shared_convs.0.", "roi_heads.box_head.conv1."),
        ("roi_head.bbox_head.shared_convs.1.", "roi_heads.box_head.conv2."),
        ("roi_head.bbox_head.shared_convs.2.", "roi_heads.box_head.conv3."),
        ("roi_head.bbox_head.shared_convs.3.", "roi_heads.box_head.conv4."),
        ("roi_head.bbox_head.shared_fcs.0.", "roi_heads.box_head.fc1."),
        ("roi_head.bbox_head.shared_fcs.1.", "roi_heads.box_head.fc2."),
        ("roi_head.bbox_head.fc_cls.", "roi_heads.box_predictor.cls_score."),
        ("roi_head.bbox_head.fc_reg.", "roi_heads.box_predictor.bbox_pred."),
        ("roi_head.mask_head.convs.0.", "roi_heads.mask_head.mask_fcn1."),
        ("roi_head.mask_head.convs.1.", "roi_heads.mask_head.mask_fcn2."),
        ("roi_head.mask_head.convs.2.", "roi_heads.mask_head.mask_fcn3."),
        ("roi_head.mask_head.convs.3.", "roi_heads.mask_head.mask_fcn4."),
        ("roi_head.mask_head.upsample.", "roi_heads.mask_head.deconv."),
        ("roi_head.mask_head.conv_logits.", "roi_heads.mask_head.predictor."),
        *((f"roi_head.mask_iou_head.convs.{n}.", f"roi_heads.mask_iou_head.conv{n + 1}.") for n in range(8)),
        *((f"roi_head.mask_iou_head.fcs.{n}.", f"roi_heads.mask_iou_head.fc{n + 1}.") for n in range(4)),
        ("roi_head.mask_iou_head.fc_mask_iou.", "roi_heads.mask_iou_head.predictor."),
    ),
    inner=(
        *RESIDUAL_BLOCK,
        (".gn1.", ".conv1.norm."),
        (".gn2.", ".conv2.norm."),
        (".gn3.", ".conv3.norm."),
        (".conv2.conv_offset.", ".conv2_offset."),
        *patterns(
            (r"(\.(?:fpn_lateral|fpn_output|conv|mask_fcn)\d)\.conv\.", r"\1."),
            (r"(\.(?:fpn_lateral|fpn_output|conv|mask_fcn)\d)\.[bg]n\.", r"\1.norm."),
        ),
    ),
)


class MMDetectionConverter:
    """Two-stage detectors that MMDetection trained."""

    source = "MMDetection"

    def recognises(self, names: Collection[str]) -> bool:
        """Whether a file comes from MMDetection: a network with its RPN.

        Args:
            names: of the weights in the file.
        """
        return has_all(names, SIGNATURE)

    def convert(self, weights: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Conversion:
        """The same network as ours, with the settings of its config, or else of MMDetection's published one.

        Args:
            weights: by their names in the file.
            meta: the other content of the checkpoint, with the config.

        Raises:
            UserError: a network that ours cannot express.
        """
        ours, leftovers = under_our_names(weights)
        config = config_of(meta)
        model = MMDetectionModel(config)
        settings = two_stage_settings(ours) | _image_settings(config)
        settings |= convention_settings(
            model, has_masks=settings["MODEL.MASK_ON"], scores_masks="MODEL.ROI_MASKIOU_HEAD.NUM_CONV" in settings
        )
        ours = anchors_by_size(ours, num_sizes=len(anchor_scales(model)))
        ours = _with_means_in_biases(ours, model)
        return Conversion(
            weights=ours,
            leftovers=leftovers,
            settings=settings,
            class_names=_class_names(meta),
            notes=_notes(config, model),
        )


@CHECKPOINT_CONVERTERS.register("mmdetection")
def build_mmdetection_converter() -> MMDetectionConverter:
    """MMDetection's Mask Scoring, Mask and Faster R-CNN."""
    return MMDetectionConverter()


def under_our_names(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights under our names, and the names that no line of the table matches.

    Args:
        weights: by their names in the file.
    """
    ours, leftovers = NAMES.apply(weights)
    has_pyramid = any(name.startswith("backbone.fpn_") for name in ours)
    return ours if has_pyramid else without_pyramid(ours), leftovers


def _with_means_in_biases(weights: dict[str, Tensor], model: MMDetectionModel) -> dict[str, Tensor]:
    """MMDetection decodes `delta * std + mean`, we decode `delta / weight`: the mean is added to the layer's bias."""
    changed = dict(weights)
    for name, path in (
        ("proposal_generator.rpn_head.anchor_deltas.bias", "rpn_head.bbox_coder"),
        ("roi_heads.box_predictor.bbox_pred.bias", "roi_head.bbox_head.bbox_coder"),
    ):
        means, deviations = (torch.tensor(model.at(f"{path}.target_{what}", [0.0] * 4)) for what in ("means", "stds"))
        if means.any():
            changed[name] = weights[name] + (means / deviations).repeat(len(weights[name]) // 4)
    return changed


def _image_settings(config: ForeignConfig) -> Settings:
    """The size of test images from the test pipeline: width and height, in either order."""
    steps = config.values.get("test_pipeline")
    for step in steps if isinstance(steps, list | tuple) else ():
        scale = step.get("scale", step.get("img_scale")) if isinstance(step, Mapping) else None
        if isinstance(scale, list | tuple) and len(scale) == 2 and all(isinstance(side, int) for side in scale):
            return {"INPUT.MIN_SIZE_TEST": min(scale), "INPUT.MAX_SIZE_TEST": max(scale)}
    return {}


def _class_names(meta: Mapping[str, Any]) -> tuple[str, ...]:
    inner = meta.get("meta")
    for place in (inner, inner.get("dataset_meta") if isinstance(inner, Mapping) else None):
        for key in ("classes", "CLASSES"):
            names = place.get(key) if isinstance(place, Mapping) else None
            if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
                return tuple(names)
    return ()


def _notes(config: ForeignConfig, model: MMDetectionModel) -> tuple[str, ...]:
    assumed = list(dict.fromkeys(model.assumed))
    notes = [f"not plain data in MMDetection's config, left out: {text}" for text in config.unreadable]
    if not config.is_present:
        notes.append(
            "the file holds no config of MMDetection; its published settings for R-50-FPN are assumed. "
            "`mrcnn-zoo convert-checkpoint` takes another with --source-config"
        )
    notes += [f"assumed, as MMDetection's published config has it: {text}" for text in assumed]
    return (*notes, *differences(model))
