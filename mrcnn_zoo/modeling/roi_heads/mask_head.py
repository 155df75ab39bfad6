"""Mask heads, convolutional and fully connected, and their common criterion."""

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode, choice_of
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.layers.conv import Conv2d, add_linear_layers, kaiming_init_, relu_
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


class MaskCriterion:
    """Loss and meaning of the maps of a mask head.

    Args:
        loss: of mask logits.
        weight: factor of the loss.
    """

    def __init__(self, loss: MaskLoss, *, weight: float = 1.0) -> None:
        self.loss = loss
        self.weight = weight

    def count_maps(self, num_class_maps: int) -> int:
        """The number of maps of a head: one per class, and one for the background if classes compete."""
        return num_class_maps + 1 if self.loss.maps_compete else num_class_maps


class PooledMaskHead(nn.Module):
    """Base of mask heads with pooled input: a subclass has the layers, this class the losses and predictions.

    Args:
        num_maps: K, or 1 for class-agnostic masks.
        criterion: loss and meaning of the maps.
    """

    def __init__(self, *, num_maps: int, criterion: MaskCriterion) -> None:
        super().__init__()
        self.num_maps = num_maps
        self.criterion = criterion

    @abstractmethod
    def forward(self, pooled: Tensor) -> Tensor:
        """All maps: (R, C, S, S) -> (R, K, M, M) logits, or K + 1 maps if the criterion's classes compete."""
        raise NotImplementedError

    @abstractmethod
    def class_logits(self, pooled: Tensor, classes: Tensor) -> Tensor:
        """The map of one class per region: (R, C, S, S), (R,) int64 in [0, K) -> (R, M, M) logits, float32."""
        raise NotImplementedError

    def losses(self, pooled: Tensor, foreground: list[LabeledRegions]) -> TrainingOutput:
        """The losses of `supervise` alone."""
        return self.supervise(pooled, foreground)[1]

    def supervise(self, pooled: Tensor, foreground: list[LabeledRegions]) -> tuple[Tensor, TrainingOutput]:
        """Mask probabilities, and `loss_mask`, the mean over the pixels of all foreground regions.

        Args:
            pooled: (sum of R_i, C, S, S).
            foreground: R_i foreground regions of each image.

        Returns:
            (sum of R_i, M, M) probabilities of each region's class, with gradient; the loss and the pixel accuracy.

        Raises:
            UserError: the targets have no masks.
        """
        classes = torch.cat([table.classes for table in foreground])
        logits = self._criterion_logits(pooled, classes)
        targets = mask_targets(foreground, logits.shape[-1])
        probabilities = self.criterion.loss.probabilities(logits, classes)
        is_correct = (probabilities.detach() > 0.5) == targets
        loss = self.criterion.weight * self.criterion.loss(logits, targets, classes)
        return probabilities, TrainingOutput(
            {"loss_mask": LossSum(loss, targets.numel())},
            {"mask/accuracy": is_correct.sum() / max(targets.numel(), 1)},
        )

    def predict(self, pooled: Tensor, detections: list[Detections]) -> list[Detections]:
        """The detections with masks.

        Args:
            pooled: (sum of R_i, C, S, S).
            detections: R_i of each image.
        """
        return with_masks(detections, self.probabilities(pooled, torch.cat([table.classes for table in detections])))

    def probabilities(self, pooled: Tensor, classes: Tensor) -> Tensor:
        """The mask of one class per region: (R, C, S, S), (R,) int64 in [0, K) -> (R, M, M) in [0, 1]."""
        return self.criterion.loss.probabilities(self._criterion_logits(pooled, classes), classes)

    def _criterion_logits(self, pooled: Tensor, classes: Tensor) -> Tensor:
        """(R, K + 1, M, M) if the classes compete, else (R, M, M), at 1 / K of the work and memory."""
        return self(pooled).float() if self.criterion.loss.maps_compete else self.class_logits(pooled, classes)


def with_masks(detections: Sequence[Detections], probabilities: Tensor) -> list[Detections]:
    """The detections of each image with masks.

    Args:
        detections: R_i of each image.
        probabilities: (sum of R_i, M, M) in [0, 1].
    """
    parts = probabilities.split([len(table) for table in detections])
    return [
        replace(table, masks=ProbabilityMasks(part, table.boxes, table.image_size))
        for table, part in zip(detections, parts, strict=True)
    ]


@torch.no_grad()
def mask_targets(foreground: Sequence[LabeledRegions], side: int) -> Tensor:
    """The matched ground-truth masks cropped to the regions, with one host synchronisation for all images.

    Args:
        foreground: R_i foreground regions of each image.
        side: M, rows and columns of the result.

    Returns:
        (sum of R_i, M, M) bool.

    Raises:
        UserError: there are regions, but the targets have no masks.
    """
    tables = [table for table in foreground if len(table)]
    if not tables:
        return torch.zeros((0, side, side), dtype=torch.bool, device=foreground[0].boxes.device)
    masks = [target_masks(table) for table in tables]
    return crop_matched(masks, [table.matches for table in tables], [table.boxes for table in tables], side)


def target_masks(foreground: LabeledRegions) -> TargetMasks:
    """The ground-truth masks of the image that the regions are from.

    Args:
        foreground: foreground regions of one image.

    Raises:
        UserError: the targets have no masks.
    """
    masks = foreground.targets.masks
    if masks is None:
        raise UserError("The training data has no masks. Use data with masks, or set MODEL.MASK_ON False.")
    return masks


def build_mask_criterion(cfg: CfgNode) -> MaskCriterion:
    """The loss named in `MODEL.ROI_MASK_HEAD`, with its weight."""
    head = cfg.MODEL.ROI_MASK_HEAD
    return MaskCriterion(MASK_LOSSES.get(head.LOSS)(), weight=head.LOSS_WEIGHT)


def transposed_convolution(in_channels: int, out_channels: int) -> nn.Module:
    """A learned up-sampling: (R, in_channels, S, S) -> (R, out_channels, 2 S, 2 S)."""
    deconv = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
    kaiming_init_(deconv)
    return deconv


def bilinear_resizing(in_channels: int, out_channels: int) -> nn.Module:
    """Bilinear up-sampling and a 3 x 3 convolution: (R, in_channels, S, S) -> (R, out_channels, 2 S, 2 S)."""
    conv = Conv2d(in_channels, out_channels, 3)
    kaiming_init_(conv)
    resize = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    return nn.Sequential(OrderedDict(resize=resize, conv=conv))


UPSAMPLINGS: dict[str, Callable[[int, int], nn.Module]] = {  # names that also begin the layers' names in state dicts
    "deconv": transposed_convolution,
    "bilinear": bilinear_resizing,
}


class MaskRCNNConvUpsampleHead(PooledMaskHead):
    """3 x 3 convolutions, up-samplings by 2, and one map per class.

    Source: He et al. 2017 (Mask R-CNN), figure 4, right, with four convolutions and one up-sampling.

    Args:
        input_spec: channels and side of the pooled maps.
        num_maps: K, or 1 for class-agnostic masks.
        conv_channels: output channels of each convolution.
        upsampled_channels: output channels of each up-sampling.
        norm: registered name of the norm after each convolution, "" for none.
        criterion: loss and meaning of the maps.
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
        super().__init__(num_maps=num_maps, criterion=criterion)
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
        self.predictor = nn.Conv2d(channels, criterion.count_maps(num_maps), 1)
        nn.init.normal_(self.predictor.weight, std=0.001)
        assert self.predictor.bias is not None
        nn.init.zeros_(self.predictor.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """(R, C, S, S) -> (R, K, M, M) logits."""
        return self.predictor(self.upsample(pooled))

    def upsample(self, pooled: Tensor) -> Tensor:
        """All layers but the last: (R, C, S, S) -> (R, D, M, M)."""
        for name in self.conv_names:
            pooled = self.get_submodule(name)(pooled)
        for name in self.upsampling_names:
            pooled = relu_(self.get_submodule(name)(pooled))
        return pooled

    def class_logits(self, pooled: Tensor, classes: Tensor) -> Tensor:
        """As `forward`, for one class per region: (R, C, S, S), (R,) int64 in [0, K) -> (R, M, M), float32."""
        features = self.upsample(pooled)
        assert self.predictor.bias is not None
        maps = classes.clamp(max=self.num_maps - 1)
        # Flattened in channels-last order: DDP needs a gradient with the strides of the weight.
        weights = self.predictor.weight.permute(0, 2, 3, 1).flatten(1)[maps]  # (R, D)
        logits = torch.bmm(weights[:, None], features.flatten(2)).unflatten(2, features.shape[2:])
        return logits.squeeze(1).float() + self.predictor.bias[maps][:, None, None]


@MASK_HEADS.register("MaskRCNNConvUpsampleHead")
def build_mask_rcnn_conv_upsample_head(cfg: CfgNode, input_spec: FeatureSpec) -> MaskRCNNConvUpsampleHead:
    """The convolutional head of `MODEL.ROI_MASK_HEAD`.

    Args:
        cfg: the whole config.
        input_spec: channels and side of the pooled maps.
    """
    head = cfg.MODEL.ROI_MASK_HEAD
    choice_of(cfg, "MODEL.ROI_MASK_HEAD.UPSAMPLE", UPSAMPLINGS)  # refuses other names
    return MaskRCNNConvUpsampleHead(
        input_spec,
        num_maps=1 if head.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        conv_channels=[head.CONV_DIM] * head.NUM_CONV,
        upsampled_channels=[head.CONV_DIM] * head.NUM_UPSAMPLE,
        norm=head.NORM,
        criterion=build_mask_criterion(cfg),
        upsampling=head.UPSAMPLE,
    )


class MaskRCNNMLPHead(PooledMaskHead):
    """Fully connected layers; the last one outputs one map per class.

    Source: He et al. 2017 (Mask R-CNN), table 2e, "MLP": two hidden layers of 1024, then 80 maps of 28 x 28.

    Args:
        input_spec: channels and side of the pooled maps.
        num_maps: K, or 1 for class-agnostic masks.
        fc_channels: outputs of each hidden layer.
        mask_side: M, rows and columns of a map.
        criterion: loss and meaning of the maps.
    """

    def __init__(
        self,
        input_spec: FeatureSpec,
        *,
        num_maps: int,
        fc_channels: Sequence[int],
        mask_side: int,
        criterion: MaskCriterion,
    ) -> None:
        super().__init__(num_maps=num_maps, criterion=criterion)
        size = input_spec.channels * input_spec.side**2
        self.fc_names, size = add_linear_layers(self, size, fc_channels)
        self.mask_side = mask_side
        self.predictor = nn.Linear(size, criterion.count_maps(num_maps) * mask_side**2)
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """(R, C, S, S) -> (R, K, M, M) logits."""
        vectors = pooled.flatten(1)
        for name in self.fc_names:
            vectors = relu_(self.get_submodule(name)(vectors))
        return self.predictor(vectors).unflatten(1, (-1, self.mask_side, self.mask_side))

    def class_logits(self, pooled: Tensor, classes: Tensor) -> Tensor:
        """As `forward`, for one class per region: (R, C, S, S), (R,) int64 in [0, K) -> (R, M, M), float32."""
        # One product with all weights is less work than a copy of the weights of one class per region.
        regions = torch.arange(len(pooled), device=pooled.device)
        return self(pooled)[regions, classes.clamp(max=self.num_maps - 1)].float()


@MASK_HEADS.register("MaskRCNNMLPHead")
def build_mask_rcnn_mlp_head(cfg: CfgNode, input_spec: FeatureSpec) -> MaskRCNNMLPHead:
    """The fully connected head of `MODEL.ROI_MASK_HEAD`, with masks as large as those of the convolutional head.

    Args:
        cfg: the whole config.
        input_spec: channels and side of the pooled maps.
    """
    head = cfg.MODEL.ROI_MASK_HEAD
    return MaskRCNNMLPHead(
        input_spec,
        num_maps=1 if head.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        fc_channels=[head.FC_DIM] * head.NUM_FC,
        mask_side=input_spec.side * 2**head.NUM_UPSAMPLE,
        criterion=build_mask_criterion(cfg),
    )
