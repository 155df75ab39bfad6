"""Keypoint heads: from pooled maps to one heatmap per keypoint."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.layers.conv import Conv2d, kaiming_init_, relu_
from mrcnn_zoo.losses.classification import heatmap_cross_entropy
from mrcnn_zoo.ops.keypoints import NO_CELL, decode_heatmaps, heatmap_cells
from mrcnn_zoo.ops.rows import rows_where
from mrcnn_zoo.registries import KEYPOINT_HEADS
from mrcnn_zoo.structures import Detections, FeatureSpec, LabeledRegions, LossSum, TrainingOutput

UPSAMPLING = 4  # 2 learned, 2 bilinear: pooled maps of side 14 give heatmaps of side 56


class KRCNNConvDeconvUpsampleHead(nn.Module):
    """3 x 3 convolutions, a learned and a bilinear up-sampling by 2 each, and one heatmap per keypoint.

    Source: He et al. 2017 (Mask R-CNN), section 5.

    Args:
        input_spec: channels and side of the pooled maps.
        num_keypoints: J.
        conv_channels: output channels of each convolution, at least one.
        loss_weight: factor of the loss.
        keypoints_per_image: the loss is divided by this number times the images; if None, by the number of labelled
            keypoints in the regions, so that each keypoint has the same weight.
    """

    def __init__(
        self,
        input_spec: FeatureSpec,
        *,
        num_keypoints: int,
        conv_channels: Sequence[int],
        loss_weight: float = 1.0,
        keypoints_per_image: float | None = None,
    ) -> None:
        super().__init__()
        channels = input_spec.channels
        self.conv_names = [f"conv_fcn{number}" for number in range(1, len(conv_channels) + 1)]
        for name, width in zip(self.conv_names, conv_channels, strict=True):
            conv = Conv2d(channels, width, 3, activation=relu_)
            kaiming_init_(conv)
            self.add_module(name, conv)
            channels = width
        self.score_lowres = nn.ConvTranspose2d(channels, num_keypoints, 4, stride=2, padding=1)
        kaiming_init_(self.score_lowres)
        self.num_keypoints = num_keypoints
        self.output_side = UPSAMPLING * input_spec.side
        self.loss_weight = loss_weight
        self.keypoints_per_image = keypoints_per_image

    def forward(self, pooled: Tensor) -> Tensor:
        """(R, C, S, S) -> (R, J, 4 S, 4 S) float32 logits of a softmax over the cells."""
        for name in self.conv_names:
            pooled = self.get_submodule(name)(pooled)
        scores = self.score_lowres(pooled).float()
        return F.interpolate(scores, size=(self.output_side,) * 2, mode="bilinear", align_corners=False)

    def losses(self, pooled: Tensor, foreground: list[LabeledRegions]) -> TrainingOutput:
        """`loss_keypoint`, and the number of labelled keypoints.

        Args:
            pooled: (sum of R_i, C, S, S).
            foreground: R_i foreground regions of each image.

        Raises:
            UserError: the targets have no keypoints, or a number other than J.
        """
        cells = torch.cat([self.keypoint_targets(table) for table in foreground])
        count = (cells != NO_CELL).sum().float()
        divided_by = count if self.keypoints_per_image is None else self.keypoints_per_image * len(foreground)
        loss = self.loss_weight * heatmap_cross_entropy(self(pooled), cells)
        return TrainingOutput({"loss_keypoint": LossSum(loss, divided_by)}, {"keypoint/num_labelled": count})

    def select_regions(self, foreground: list[LabeledRegions]) -> list[LabeledRegions]:
        """The training regions: those that contain a labelled keypoint of their object."""
        return with_visible_keypoints(foreground)

    @torch.no_grad()
    def keypoint_targets(self, foreground: LabeledRegions) -> Tensor:
        """The heatmap cell of each keypoint of the matched objects: (R, J) int64, `NO_CELL` outside the region."""
        if len(foreground) == 0:
            return torch.zeros((0, self.num_keypoints), dtype=torch.int64, device=foreground.boxes.device)
        keypoints = matched_keypoints(foreground)
        if keypoints.shape[1] != self.num_keypoints:
            raise UserError(
                f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {self.num_keypoints}, but the objects of the training data "
                f"have {keypoints.shape[1]} keypoints: set it to {keypoints.shape[1]}."
            )
        return heatmap_cells(keypoints, foreground.boxes, self.output_side)

    def predict(self, pooled: Tensor, detections: list[Detections]) -> list[Detections]:
        """The detections with keypoints.

        Args:
            pooled: (sum of R_i, C, S, S).
            detections: R_i of each image.
        """
        keypoints = decode_heatmaps(self(pooled), torch.cat([table.boxes for table in detections]))
        parts = keypoints.split([len(table) for table in detections])
        return [replace(table, keypoints=part) for table, part in zip(detections, parts, strict=True)]


def matched_keypoints(foreground: LabeledRegions) -> Tensor:
    """The keypoints of the object that each region is matched to: (R, J, 3) x, y in pixels, and visibility.

    Args:
        foreground: (R,) foreground regions of one image.

    Raises:
        UserError: the targets have no keypoints.
    """
    keypoints = foreground.targets.keypoints
    if keypoints is None:
        raise UserError("The training data has no keypoints. Use data with keypoints, or set MODEL.KEYPOINT_ON False.")
    return keypoints[foreground.matches]


@torch.no_grad()
def with_visible_keypoints(foreground: list[LabeledRegions]) -> list[LabeledRegions]:
    """The regions of each image that contain a labelled keypoint of their object; the others have no loss.

    Args:
        foreground: foreground regions of each image.
    """
    present = [table for table in foreground if len(table)]
    rows = iter(rows_where([_contains_keypoint(table) for table in present]))
    return [table[next(rows)] if len(table) else table for table in foreground]


def _contains_keypoint(foreground: LabeledRegions) -> Tensor:
    keypoints, boxes = matched_keypoints(foreground), foreground.boxes[:, None]
    is_inside = ((keypoints[..., :2] >= boxes[..., :2]) & (keypoints[..., :2] <= boxes[..., 2:])).all(dim=-1)
    return (is_inside & (keypoints[..., 2] > 0)).any(dim=1)


@KEYPOINT_HEADS.register("KRCNNConvDeconvUpsampleHead")
def build_krcnn_conv_deconv_upsample_head(cfg: CfgNode, input_spec: FeatureSpec) -> KRCNNConvDeconvUpsampleHead:
    """The keypoint head of `MODEL.ROI_KEYPOINT_HEAD`.

    Args:
        cfg: the whole config.
        input_spec: channels and side of the pooled maps.
    """
    head, heads = cfg.MODEL.ROI_KEYPOINT_HEAD, cfg.MODEL.ROI_HEADS
    # The number if each image had all foreground regions that are sampled at most, each with all keypoints.
    most = head.NUM_KEYPOINTS * heads.BATCH_SIZE_PER_IMAGE * heads.POSITIVE_FRACTION
    return KRCNNConvDeconvUpsampleHead(
        input_spec,
        num_keypoints=head.NUM_KEYPOINTS,
        conv_channels=head.CONV_DIMS,
        loss_weight=head.LOSS_WEIGHT,
        keypoints_per_image=None if head.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS else most,
    )
