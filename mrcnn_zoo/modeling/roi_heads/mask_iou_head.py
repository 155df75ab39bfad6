"""The mask-IoU head of Mask Scoring R-CNN: the IoU of each predicted mask with its object."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.layers.conv import Conv2d, add_linear_layers, kaiming_init_, relu_
from mrcnn_zoo.modeling.contracts import Features
from mrcnn_zoo.modeling.poolers import PyramidPooler, build_head_pooler
from mrcnn_zoo.modeling.roi_heads.branch import RegionBranch
from mrcnn_zoo.modeling.roi_heads.mask_head import mask_targets, target_masks
from mrcnn_zoo.registries import REGION_BRANCHES
from mrcnn_zoo.structures import (
    BranchSpec,
    Detections,
    FeatureSpec,
    LabeledRegions,
    LossSum,
    ProbabilityMasks,
    TrainingOutput,
)

MASK_THRESHOLD = 0.5  # probability above which a pixel belongs to the predicted mask


class MaskIoUHead(RegionBranch):
    """Predicts the IoU of each predicted mask with the mask of its object; masks are ranked by score times this IoU.

    The input is the features of the region and, as one more channel, the predicted mask, max-pooled to their side. In
    training the mask has a gradient, so the loss also trains the mask head, as in MMDetection.

    Source: Huang et al. 2019 (Mask Scoring R-CNN), section 3.3 and figure 3.

    Args:
        pooler: pools the features of the regions.
        input_spec: channels and side of the pooled features.
        num_classes: K; one IoU is predicted per class.
        conv_channels: output channels of each 3 x 3 convolution; the last one has stride 2.
        fc_channels: outputs of each fully connected layer but the last.
        weight: factor of the loss.
    """

    name = "mask_iou_head"

    def __init__(
        self,
        pooler: PyramidPooler,
        *,
        input_spec: FeatureSpec,
        num_classes: int,
        conv_channels: Sequence[int],
        fc_channels: Sequence[int],
        weight: float = 0.5,
    ) -> None:
        super().__init__()
        self.pooler = pooler
        channels, side = input_spec.channels + 1, input_spec.side
        self.conv_names = [f"conv{number}" for number in range(1, len(conv_channels) + 1)]
        for name, width in zip(self.conv_names, conv_channels, strict=True):
            conv = Conv2d(channels, width, 3, stride=2 if name == self.conv_names[-1] else 1, activation=relu_)
            kaiming_init_(conv)
            self.add_module(name, conv)
            channels = width
        channels *= (-(-side // 2)) ** 2
        self.fc_names, channels = add_linear_layers(self, channels, fc_channels)
        self.predictor = nn.Linear(channels, num_classes)
        nn.init.normal_(self.predictor.weight, std=0.01)
        nn.init.zeros_(self.predictor.bias)
        self.weight = weight

    def forward(self, pooled: Tensor, masks: Tensor) -> Tensor:
        """The IoU of each region's mask for each class.

        Args:
            pooled: (R, C, S, S) features of the regions.
            masks: (R, M, M) probabilities.

        Returns:
            (R, K), not bounded to [0, 1].
        """
        mask_channel = F.adaptive_max_pool2d(masks[:, None].to(pooled.dtype), pooled.shape[-2:])
        values = torch.cat((pooled, mask_channel), dim=1)
        for name in self.conv_names:
            values = self.get_submodule(name)(values)
        values = values.flatten(1)
        for name in self.fc_names:
            values = relu_(self.get_submodule(name)(values))
        return self.predictor(values)

    def losses(self, features: Features, regions: list[LabeledRegions]) -> tuple[list[LabeledRegions], TrainingOutput]:
        """`loss_mask_iou`, the mean squared error of the IoU of each region's class, and the mean absolute error.

        Regions whose object has an empty mask are left out. (MMDetection and the authors' code also leave out regions
        whose masks do not overlap, so their head is not trained on the worst masks.)

        Args:
            features: maps of the backbone, (N, C, H, W) each.
            regions: foreground regions of each image, with mask probabilities.

        Raises:
            UserError: the mask head has not added its masks to the regions.
        """
        masks = torch.cat([_masks_in_training(table) for table in regions])
        classes = torch.cat([table.classes for table in regions])
        predicted = self.class_ious(features, [table.boxes for table in regions], masks, classes)
        ious, is_counted = mask_iou_targets(masks, regions)
        errors = (predicted - ious) * is_counted
        count = is_counted.sum()
        return regions, TrainingOutput(
            {"loss_mask_iou": LossSum(self.weight * errors.square().sum(), count)},
            {"mask_iou/error": errors.detach().abs().sum() / count.clamp(min=1)},
        )

    def predict(self, features: Features, detections: list[Detections]) -> list[Detections]:
        """The detections in the same order, with `mask_scores`.

        Args:
            features: maps of the backbone, (N, C, H, W) each.
            detections: of each image, with `ProbabilityMasks`.

        Raises:
            UserError: the masks are of another kind.
        """
        masks = torch.cat([_predicted_masks(table) for table in detections])
        classes = torch.cat([table.classes for table in detections])
        ious = self.class_ious(features, [table.boxes for table in detections], masks, classes)
        parts = ious.split([len(table) for table in detections])
        return [replace(table, mask_scores=table.scores * part) for table, part in zip(detections, parts, strict=True)]

    def class_ious(self, features: Features, boxes: list[Tensor], masks: Tensor, classes: Tensor) -> Tensor:
        """The predicted IoU of each region's class.

        Args:
            features: maps of the backbone, (N, C, H, W) each.
            boxes: N x (R_i, 4) pixels.
            masks: (sum of R_i, M, M) probabilities.
            classes: (sum of R_i,) int64 in [0, K).

        Returns:
            (sum of R_i,) float32.
        """
        ious = self(self.pooler(features, boxes), masks)
        return ious.gather(1, classes[:, None]).squeeze(1).float()


@torch.no_grad()
def mask_iou_targets(masks: Tensor, regions: Sequence[LabeledRegions]) -> tuple[Tensor, Tensor]:
    """The IoU of each predicted mask with the mask of its object, including the part outside the region.

    Masks are compared on the grid of the predicted one. The area of the whole object there is the area of its part in
    the region times the ratio of their pixels in the image, as in MMDetection and the authors' code. (Both threshold
    the predicted mask at a logit of 0.5; here it is a probability of 0.5, as at inference.)

    Source: Huang et al. 2019 (Mask Scoring R-CNN), section 3.3.

    Args:
        masks: (sum of R_i, M, M) probabilities.
        regions: R_i foreground regions of each image.

    Returns:
        (sum of R_i,) float32 IoU in [0, 1], and (sum of R_i,) bool, False where the mask of the object is empty.
    """
    predicted = masks > MASK_THRESHOLD
    inside = mask_targets(regions, masks.shape[-1])
    objects = [(target_masks(table)[table.matches], table.boxes) for table in regions if len(table)]
    none = [masks.new_zeros(0, dtype=torch.int64)]
    pixels = torch.cat([image_masks.areas() for image_masks, _ in objects] or none)
    pixels_inside = torch.cat([image_masks.areas(boxes) for image_masks, boxes in objects] or none)
    common = (predicted & inside).sum(dim=(1, 2))
    whole = inside.sum(dim=(1, 2)) * pixels / pixels_inside.clamp(min=1)
    union = predicted.sum(dim=(1, 2)) + whole - common
    return common / union.clamp(min=1), pixels > 0


def _masks_in_training(table: LabeledRegions) -> Tensor:
    if table.mask_probabilities is None:
        raise UserError(
            "MaskIoUHead (MODEL.ROI_HEADS.BRANCHES) needs the masks of the mask head in training, and the head of "
            "MODEL.ROI_MASK_HEAD.NAME has no `supervise` that returns them (modeling/contracts.py, ProvidesMasks): use "
            "MaskRCNNConvUpsampleHead, or remove MaskIoUHead."
        )
    return table.mask_probabilities


def _predicted_masks(table: Detections) -> Tensor:
    if not isinstance(table.masks, ProbabilityMasks):
        kind = "none" if table.masks is None else type(table.masks).__name__
        raise UserError(
            "MaskIoUHead (MODEL.ROI_HEADS.BRANCHES) needs masks as probabilities (ProbabilityMasks), but they are "
            f"{kind}: use another MODEL.ROI_MASK_HEAD.NAME, or remove MaskIoUHead."
        )
    return table.masks.probabilities


@REGION_BRANCHES.register("MaskIoUHead")
def build_mask_iou_head(cfg: CfgNode, spec: BranchSpec) -> MaskIoUHead:
    """The mask-IoU head of `MODEL.ROI_MASKIOU_HEAD`, over the maps in `MODEL.ROI_HEADS.IN_FEATURES`.

    With `Res5ROIHeads` it pools from the input of res5.

    Args:
        cfg: the whole config.
        spec: channels and side of the pooled maps, and all maps of the backbone.
    """
    if not cfg.MODEL.MASK_ON:
        raise UserError(
            "MaskIoUHead in MODEL.ROI_HEADS.BRANCHES scores masks, and MODEL.MASK_ON is False: set it to True, or "
            "remove MaskIoUHead."
        )
    if cfg.MODEL.ROI_MASK_HEAD.NAME == "PointRendMaskHead":
        raise UserError(
            "MaskIoUHead in MODEL.ROI_HEADS.BRANCHES is trained on the masks of the mask head, and "
            "MODEL.ROI_MASK_HEAD.NAME = 'PointRendMaskHead' predicts only points of masks in training: use "
            "MaskRCNNConvUpsampleHead, or remove MaskIoUHead."
        )
    head = cfg.MODEL.ROI_MASKIOU_HEAD
    return MaskIoUHead(
        build_head_pooler(cfg, "ROI_MASKIOU_HEAD", spec.maps),
        input_spec=FeatureSpec(channels=spec.channels, side=head.POOLER_RESOLUTION),
        num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        conv_channels=[head.CONV_DIM] * head.NUM_CONV,
        fc_channels=[head.FC_DIM] * head.NUM_FC,
        weight=head.LOSS_WEIGHT,
    )
