"""The convolutional mask head, and the criterion that all mask heads share."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.layers.conv import Conv2d, kaiming_init_, relu_
from mrcnn_zoo.layers.norm import build_norm
from mrcnn_zoo.losses.mask import MaskLoss
from mrcnn_zoo.registries import MASK_HEADS, MASK_LOSSES
from mrcnn_zoo.structures import (
    Detections,
    FeatureSpec,
    LabeledRegions,
    LossSum,
    ProbabilityMasks,
    TargetMasks,
    TrainingOutput,
    crop_matched,
)


class MaskLayers(Protocol):
    """The layers of a mask head."""

    def __call__(self, pooled: Tensor) -> Tensor:
        """(R, C, S, S) -> (R, maps, M, M) logits."""
        ...

    def class_logits(self, pooled: Tensor, classes: Tensor) -> Tensor:
        """(R, C, S, S), (R,) int64 in [0, K) -> (R, M, M) logits, float32: each region's map of one class."""
        ...


class MaskCriterion:
    """Trains the maps of a mask head and turns them into masks.

    Args:
        loss: what the maps mean, and how far they are from the masks.
        weight: factor of the loss.
    """

    def __init__(self, loss: MaskLoss, *, weight: float = 1.0) -> None:
        self.loss = loss
        self.weight = weight

    def count_maps(self, num_class_maps: int) -> int:
        """The maps that a head must have: those of the classes, and the background's where they compete."""
        return num_class_maps + 1 if self.loss.maps_compete else num_class_maps

    def supervise(
        self, layers: MaskLayers, pooled: Tensor, foreground: list[LabeledRegions]
    ) -> tuple[Tensor, TrainingOutput]:
        """Masks, `loss_mask`, the mean over the pixels of all foreground regions, and the share of right pixels.

        Args:
            layers: of the head.
            pooled: (sum of R_i, C, S, S).
            foreground: R_i regions of each image, all with an object.

        Returns:
            (sum of R_i, M, M) probabilities of each region's class, and the losses.

        Raises:
            UserError: an image with objects has no masks.
        """
        classes = torch.cat([table.classes for table in foreground])
        logits = self._logits(layers, pooled, classes)
        targets = mask_targets_of_all(foreground, logits.shape[-1])
        probabilities = self.loss.probabilities(logits, classes)
        is_right = (probabilities.detach() > 0.5) == targets
        return probabilities, TrainingOutput(
            {"loss_mask": LossSum(self.weight * self.loss(logits, targets, classes), targets.numel())},
            {"mask/accuracy": is_right.sum() / max(targets.numel(), 1)},
        )

    def predict(self, layers: MaskLayers, pooled: Tensor, detections: list[Detections]) -> list[Detections]:
        """The detections with masks: (sum of R_i, C, S, S) and R_i detections of each image."""
        classes = torch.cat([table.classes for table in detections])
        probabilities = self.loss.probabilities(self._logits(layers, pooled, classes), classes)
        return [
            replace(table, masks=ProbabilityMasks(image_probabilities, table.boxes, table.image_size))
            for table, image_probabilities in zip(
                detections, probabilities.split([len(table) for table in detections]), strict=True
            )
        ]

    def _logits(self, layers: MaskLayers, pooled: Tensor, classes: Tensor) -> Tensor:
        """What the loss needs: (R, K + 1, M, M) of all maps, or (R, M, M), a K-th of the work and memory."""
        return layers(pooled).float() if self.loss.maps_compete else layers.class_logits(pooled, classes)


@torch.no_grad()
def mask_targets(foreground: LabeledRegions, side: int) -> Tensor:
    """The matched ground truth inside each region: (R, side, side) bool.

    Raises:
        UserError: there are regions but no masks.
    """
    return mask_targets_of_all([foreground], side)


@torch.no_grad()
def mask_targets_of_all(foreground: Sequence[LabeledRegions], side: int) -> Tensor:
    """The same for the regions of all images: (sum of R_i, side, side) bool. The host waits once for all of them."""
    tables = [table for table in foreground if len(table)]
    if not tables:
        return torch.zeros((0, side, side), dtype=torch.bool, device=foreground[0].boxes.device)
    masks = [target_masks(table) for table in tables]
    return crop_matched(masks, [table.matches for table in tables], [table.boxes for table in tables], side)


def target_masks(foreground: LabeledRegions) -> TargetMasks:
    """The masks of the objects of one image.

    Raises:
        UserError: there are none.
    """
    masks = foreground.targets.masks
    if masks is None:
        raise UserError("The training data has no masks. Use data with masks, or set MODEL.MASK_ON False.")
    return masks


def build_mask_criterion(cfg: CfgNode) -> MaskCriterion:
    """The loss that `MODEL.ROI_MASK_HEAD` names, with its weight."""
    head = cfg.MODEL.ROI_MASK_HEAD
    return MaskCriterion(MASK_LOSSES.get(head.LOSS)(), weight=head.LOSS_WEIGHT)


def transposed_convolution(in_channels: int, out_channels: int) -> nn.Module:
    """A learned up-sampling: (R, C, S, S) -> (R, D, 2 S, 2 S)."""
    deconv = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
    kaiming_init_(deconv)
    return deconv


def bilinear_resizing(in_channels: int, out_channels: int) -> nn.Module:
    """Bilinear up-sampling and a 3 x 3 convolution: (R, C, S, S) -> (R, D, 2 S, 2 S)."""
    conv = Conv2d(in_channels, out_channels, 3)
    kaiming_init_(conv)
    resize = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    return nn.Sequential(OrderedDict(resize=resize, conv=conv))


UPSAMPLINGS: dict[str, Callable[[int, int], nn.Module]] = {  # the first part of a layer's name in the state dict, too
    "deconv": transposed_convolution,
    "bilinear": bilinear_resizing,
}


class MaskRCNNConvUpsampleHead(nn.Module):
    """3 x 3 convolutions, up-samplings to twice the side each, and one map a class.

    Source: He et al. 2017 (Mask R-CNN), figure 4, right, which has four convolutions and one up-sampling.

    Args:
        input_spec: channels and side of the pooled maps.
        num_maps: K, or 1 for one mask whatever the class.
        conv_channels: output channels of each convolution.
        upsampled_channels: output channels of each up-sampling.
        norm: registered name of the norm after each convolution, "" for none.
        criterion: trains the maps and turns them into masks.
        upsampling: a name in `UPSAMPLINGS`.
    """

    def __init__(
        self,
        input_spec: FeatureSpec,
        *,
        num_maps: int,
        conv_channels: Sequence[int],
        upsampled_channels: Sequence[int],
        norm: str,
        criterion: MaskCriterion,
        upsampling: str = "deconv",
    ) -> None:
        super().__init__()
        channels = input_spec.channels
        self.conv_names = [f"mask_fcn{number}" for number in range(1, len(conv_channels) + 1)]
        for name, width in zip(self.conv_names, conv_channels, strict=True):
            conv = Conv2d(
                channels, width, 3, norm=build_norm(norm, width, key="MODEL.ROI_MASK_HEAD.NORM"), activation=relu_
            )
            kaiming_init_(conv)
            self.add_module(name, conv)
            channels = width
        # The first has no number, as in Detectron2, where it is the only one.
        numbers = ["", *range(2, len(upsampled_channels) + 1)]
        self.upsampling_names = [f"{upsampling}{number}" for number in numbers[: len(upsampled_channels)]]
        for name, width in zip(self.upsampling_names, upsampled_channels, strict=True):
            self.add_module(name, UPSAMPLINGS[upsampling](channels, width))
            channels = width
        self.num_maps = num_maps
        self.predictor = nn.Conv2d(channels, criterion.count_maps(num_maps), 1)
        nn.init.normal_(self.predictor.weight, std=0.001)
        assert self.predictor.bias is not None
        nn.init.zeros_(self.predictor.bias)
        self.criterion = criterion

    def forward(self, pooled: Tensor) -> Tensor:
        """All maps: (R, C, S, S) -> (R, K, M, M) logits, or K + 1 maps where the criterion has the classes compete."""
        return self.predictor(self.upsample(pooled))

    def upsample(self, pooled: Tensor) -> Tensor:
        """All layers but the last: (R, C, S, S) -> (R, D, M, M)."""
        for name in self.conv_names:
            pooled = self.get_submodule(name)(pooled)
        for name in self.upsampling_names:
            pooled = relu_(self.get_submodule(name)(pooled))
        return pooled

    def class_logits(self, pooled: Tensor, classes: Tensor) -> Tensor:
        """Each region's map of one class alone: what `forward` gives for it, at a K-th of the work and memory.

        Args:
            pooled: (R, C, S, S).
            classes: (R,) int64 in [0, K).

        Returns:
            (R, M, M) logits, float32.
        """
        features = self.upsample(pooled)
        assert self.predictor.bias is not None
        maps = classes.clamp(max=self.num_maps - 1)
        # Flattened in channels-last order, so that the gradient gets the strides of the weight, as DDP wants it.
        weights = self.predictor.weight.permute(0, 2, 3, 1).flatten(1)[maps]  # (R, D)
        logits = torch.bmm(weights[:, None], features.flatten(2)).unflatten(2, features.shape[2:])
        return logits.squeeze(1).float() + self.predictor.bias[maps][:, None, None]

    def losses(self, pooled: Tensor, foreground: list[LabeledRegions]) -> TrainingOutput:
        """`loss_mask` and the share of right pixels; see `MaskCriterion.supervise`."""
        return self.supervise(pooled, foreground)[1]

    def supervise(self, pooled: Tensor, foreground: list[LabeledRegions]) -> tuple[Tensor, TrainingOutput]:
        """The masks with a gradient, (sum of R_i, M, M) in [0, 1], and the losses."""
        return self.criterion.supervise(self, pooled, foreground)

    def predict(self, pooled: Tensor, detections: list[Detections]) -> list[Detections]:
        """The detections with masks: (sum of R_i, C, S, S) and R_i detections of each image."""
        return self.criterion.predict(self, pooled, detections)


@MASK_HEADS.register("MaskRCNNConvUpsampleHead")
def build_mask_rcnn_conv_upsample_head(cfg: CfgNode, input_spec: FeatureSpec) -> MaskRCNNConvUpsampleHead:
    """The mask head that `MODEL.ROI_MASK_HEAD` describes."""
    head = cfg.MODEL.ROI_MASK_HEAD
    return MaskRCNNConvUpsampleHead(
        input_spec,
        num_maps=1 if head.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        conv_channels=[head.CONV_DIM] * head.NUM_CONV,
        upsampled_channels=[head.CONV_DIM] * head.NUM_UPSAMPLE,
        norm=head.NORM,
        criterion=build_mask_criterion(cfg),
        upsampling=head.UPSAMPLE,
    )
