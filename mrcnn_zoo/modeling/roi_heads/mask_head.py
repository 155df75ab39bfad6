"""Mask heads: from a pooled map to a mask of the object in it."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.layers.conv import Conv2d, fill_for_relu, relu_
from mrcnn_zoo.layers.norm import build_norm
from mrcnn_zoo.losses.mask import MaskLoss
from mrcnn_zoo.ops.processes import mean_over_processes, world_size
from mrcnn_zoo.registries import MASK_HEADS, MASK_LOSSES
from mrcnn_zoo.structures import Detections, FeatureSpec, LabeledRegions, ProbabilityMasks, TrainingOutput


class MaskRCNNConvUpsampleHead(nn.Module):
    """3 x 3 convolutions, a learned up-sampling to twice the side, and one map a class.

    Source: He et al. 2017 (Mask R-CNN), figure 4, right.

    Args:
        input_spec: channels and side of the pooled maps.
        num_maps: K, or 1 for one mask whatever the class.
        conv_channels: output channels of each convolution.
        upsampled_channels: of the map of twice the side.
        norm: registered name of the norm after each convolution, "" for none.
        loss: compares the logits of each region's class with its mask, summed over pixels.
    """

    def __init__(
        self,
        input_spec: FeatureSpec,
        *,
        num_maps: int,
        conv_channels: Sequence[int],
        upsampled_channels: int,
        norm: str,
        loss: MaskLoss,
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
        self.deconv = nn.ConvTranspose2d(channels, upsampled_channels, 2, stride=2)
        fill_for_relu(self.deconv)
        self.predictor = nn.Conv2d(upsampled_channels, num_maps, 1)
        nn.init.normal_(self.predictor.weight, std=0.001)
        assert self.predictor.bias is not None
        nn.init.zeros_(self.predictor.bias)
        self.output_side = 2 * input_spec.side
        self.loss = loss

    def forward(self, pooled: Tensor) -> Tensor:
        """(R, C, S, S) -> (R, K, 2 S, 2 S) logits; K is 1 when masks do not depend on the class."""
        return self.predictor(self.upsample(pooled))

    def upsample(self, pooled: Tensor) -> Tensor:
        """All layers but the last: (R, C, S, S) -> (R, D, 2 S, 2 S)."""
        for name in self.conv_names:
            pooled = self.get_submodule(name)(pooled)
        return relu_(self.deconv(pooled))

    def class_logits(self, pooled: Tensor, classes: Tensor) -> Tensor:
        """Each region's map of one class alone: what `forward` gives for it, at a K-th of the work and memory.

        Args:
            pooled: (R, C, S, S).
            classes: (R,) int64 in [0, K).

        Returns:
            (R, 2 S, 2 S) logits, float32.
        """
        features = self.upsample(pooled)
        assert self.predictor.bias is not None
        maps = classes.clamp(max=self.predictor.out_channels - 1)
        # Flattened in channels-last order, so that the gradient gets the strides of the weight, as DDP wants it.
        weights = self.predictor.weight.permute(0, 2, 3, 1).flatten(1)[maps]  # (R, D)
        logits = torch.bmm(weights[:, None], features.flatten(2)).unflatten(2, features.shape[2:])
        return logits.squeeze(1).float() + self.predictor.bias[maps][:, None, None]

    def losses(self, pooled: Tensor, foreground: list[LabeledRegions]) -> TrainingOutput:
        """`loss_mask`, the mean over the pixels of all foreground regions, and the share of right pixels.

        Args:
            pooled: (sum of R_i, C, S, S).
            foreground: R_i regions of each image, all with an object.

        Raises:
            UserError: an image with objects has no masks.
        """
        logits = self.class_logits(pooled, torch.cat([table.classes for table in foreground]))
        targets = torch.cat([self.mask_targets(table) for table in foreground])
        num_pixels = logits.new_tensor(targets.numel())
        normalizer = mean_over_processes(num_pixels).clamp(min=1 / world_size())
        is_right = (logits.detach() > 0) == targets
        return TrainingOutput(
            {"loss_mask": self.loss(logits, targets) / normalizer},
            {"mask/accuracy": is_right.sum() / num_pixels.clamp(min=1)},
        )

    @torch.no_grad()
    def mask_targets(self, foreground: LabeledRegions) -> Tensor:
        """The matched ground truth inside each region: (R, 2 S, 2 S) bool."""
        if len(foreground) == 0:
            side = self.output_side
            return torch.zeros((0, side, side), dtype=torch.bool, device=foreground.boxes.device)
        masks = foreground.targets.masks
        if masks is None:
            raise UserError("The training data has no masks. Use data with masks, or set MODEL.MASK_ON False.")
        return masks[foreground.matches].crop_and_resize(foreground.boxes, self.output_side)

    def predict(self, pooled: Tensor, detections: list[Detections]) -> list[Detections]:
        """The detections with masks: (sum of R_i, C, S, S) and R_i detections of each image."""
        logits = self.class_logits(pooled, torch.cat([table.classes for table in detections]))
        probabilities = logits.sigmoid().split([len(table) for table in detections])
        return [
            replace(table, masks=ProbabilityMasks(image_probabilities, table.boxes, table.image_size))
            for table, image_probabilities in zip(detections, probabilities, strict=True)
        ]


@MASK_HEADS.register("MaskRCNNConvUpsampleHead")
def build_mask_rcnn_conv_upsample_head(cfg: CfgNode, input_spec: FeatureSpec) -> MaskRCNNConvUpsampleHead:
    """The mask head that `MODEL.ROI_MASK_HEAD` describes."""
    head = cfg.MODEL.ROI_MASK_HEAD
    return MaskRCNNConvUpsampleHead(
        input_spec,
        num_maps=1 if head.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        conv_channels=[head.CONV_DIM] * head.NUM_CONV,
        upsampled_channels=head.CONV_DIM,
        norm=head.NORM,
        loss=MASK_LOSSES.get(head.LOSS)(),
    )
