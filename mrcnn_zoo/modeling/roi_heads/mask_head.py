"""The convolutional mask head: from a pooled map to a mask of the object in it."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.layers.conv import Conv2d, fill_for_relu, relu_
from mrcnn_zoo.layers.norm import build_norm
from mrcnn_zoo.modeling.roi_heads.mask_criterion import MaskCriterion, build_mask_criterion
from mrcnn_zoo.registries import MASK_HEADS
from mrcnn_zoo.structures import Detections, FeatureSpec, LabeledRegions, TrainingOutput


def transposed_convolution(in_channels: int, out_channels: int) -> nn.Module:
    """A learned up-sampling: (R, C, S, S) -> (R, D, 2 S, 2 S)."""
    deconv = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
    fill_for_relu(deconv)
    return deconv


def bilinear_resizing(in_channels: int, out_channels: int) -> nn.Module:
    """Bilinear up-sampling and a 3 x 3 convolution: (R, C, S, S) -> (R, D, 2 S, 2 S)."""
    conv = Conv2d(in_channels, out_channels, 3)
    fill_for_relu(conv)
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
            fill_for_relu(conv)
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
