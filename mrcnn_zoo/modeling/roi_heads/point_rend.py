"""PointRend: coarse masks, refined at their most uncertain points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.layers.conv import Conv2d, add_linear_layers, kaiming_init_, relu_
from mrcnn_zoo.losses.classification import binary_cross_entropy
from mrcnn_zoo.losses.mask import MaskLoss
from mrcnn_zoo.modeling.contracts import Features, PointHead
from mrcnn_zoo.modeling.poolers import select_specs
from mrcnn_zoo.modeling.roi_heads.branch import RegionBranch
from mrcnn_zoo.modeling.roi_heads.mask_head import mask_targets, target_masks, with_masks
from mrcnn_zoo.modeling.roi_heads.point_head import PointFeatures, PointSampler, UncertainPointSampler
from mrcnn_zoo.ops.points import Subdivision, grid_points, points_on_image, sample_own
from mrcnn_zoo.ops.roi_pooling import with_image_rows
from mrcnn_zoo.registries import MASK_HEADS, MASK_LOSSES, POINT_HEADS
from mrcnn_zoo.structures import (
    BranchSpec,
    Detections,
    FeatureSpec,
    LabeledRegions,
    LossSum,
    TrainingOutput,
)

# Points that are predicted at a time: features of 256 channels are 256 MiB, and several times that in the point head.
MAX_POINTS = 1 << 18


class CoarseMaskHead(nn.Module):
    """Fully connected layers over a halved map, and one coarse map per class.

    Source: Kirillov et al. 2020 (PointRend), appendix, "Coarse mask head".

    Args:
        input_spec: channels and side of the regions' maps; the side is at least 2.
        num_maps: K, or 1 for class-agnostic masks.
        conv_channels: channels of the convolutions.
        fc_channels: outputs of each hidden layer.
        mask_side: M, rows and columns of a map.
    """

    def __init__(
        self,
        input_spec: FeatureSpec,
        *,
        num_maps: int,
        conv_channels: int,
        fc_channels: Sequence[int],
        mask_side: int,
    ) -> None:
        super().__init__()
        self.reduce_channel_dim_conv: nn.Module = nn.Identity()
        if input_spec.channels != conv_channels:
            self.reduce_channel_dim_conv = Conv2d(input_spec.channels, conv_channels, 1, activation=relu_)
            kaiming_init_(self.reduce_channel_dim_conv)
        self.reduce_spatial_dim_conv = Conv2d(conv_channels, conv_channels, 2, stride=2, activation=relu_)
        kaiming_init_(self.reduce_spatial_dim_conv)
        size = conv_channels * (input_spec.side // 2) ** 2
        self.fc_names, size = add_linear_layers(self, size, fc_channels)
        self.num_maps = num_maps
        self.mask_side = mask_side
        self.prediction = nn.Linear(size, num_maps * mask_side**2)
        nn.init.normal_(self.prediction.weight, std=0.001)
        nn.init.zeros_(self.prediction.bias)

    def forward(self, maps: Tensor) -> Tensor:
        """(R, C, S, S) -> (R, K, M, M) logits, float32."""
        vectors = self.reduce_spatial_dim_conv(self.reduce_channel_dim_conv(maps)).flatten(1)
        for name in self.fc_names:
            vectors = relu_(self.get_submodule(name)(vectors))
        return self.prediction(vectors).unflatten(1, (self.num_maps, self.mask_side, self.mask_side)).float()


@dataclass(frozen=True)
class PointRefinement:
    """Settings of the refinement beside the layers of the point head.

    Args:
        features: fine features of points.
        sampler: samples the training points.
        subdivision: chooses the points at inference.
    """

    features: PointFeatures
    sampler: PointSampler
    subdivision: Subdivision


class PointRendMaskHead(RegionBranch):
    """A coarse mask from features on a regular grid, and a point head that predicts single points from fine features.

    Source: Kirillov et al. 2020 (PointRend), section 4.

    Args:
        coarse_head: predicts the coarse masks.
        coarse_features: features of the grid points.
        grid_side: S, rows and columns of the grid over each region.
        loss: of the coarse mask, with `maps_compete` False.
        loss_weight: factor of the losses of the coarse mask and of the points.
        point_head: predicts points; None for coarse masks only.
        refinement: of the point head; None without one.
    """

    def __init__(
        self,
        coarse_head: CoarseMaskHead,
        *,
        coarse_features: PointFeatures,
        grid_side: int,
        loss: MaskLoss,
        loss_weight: float = 1.0,
        point_head: PointHead | None = None,
        refinement: PointRefinement | None = None,
    ) -> None:
        super().__init__()
        self.coarse_head = coarse_head
        self.coarse_features = coarse_features
        self.grid_side = grid_side
        self.loss = loss
        self.loss_weight = loss_weight
        self.point_head = point_head
        self.refinement = refinement

    def coarse_maps(self, features: Features, rois: Tensor) -> Tensor:
        """The coarse masks: maps of the backbone, (R, 5) image number and box -> (R, K, M, M) logits."""
        points = grid_points(self.grid_side, rois.device).expand(len(rois), -1, -1)
        values = self.coarse_features(features, rois, points)
        return self.coarse_head(values.unflatten(2, (self.grid_side, self.grid_side)))

    def losses(self, features: Features, regions: list[LabeledRegions]) -> tuple[list[LabeledRegions], TrainingOutput]:
        """`loss_mask` of the coarse masks and `loss_mask_point`, means over all pixels and over all points.

        Args:
            features: maps of the backbone.
            regions: foreground regions of each image.

        Raises:
            UserError: the targets have no masks.
        """
        features, rois = channels_last(features, self.map_names), with_image_rows([table.boxes for table in regions])
        classes = torch.cat([table.classes for table in regions])
        coarse = self.coarse_maps(features, rois)
        output = self.coarse_losses(of_class(coarse, classes), regions)
        if self.refinement is None:
            return regions, output
        points = self.refinement.sampler.sample(of_class(coarse.detach(), classes))
        logits = self.point_logits(features, rois, coarse, points, classes)
        targets = point_targets(regions, points)
        is_correct = (logits.detach() > 0) == (targets > 0.5)
        loss = LossSum(self.loss_weight * binary_cross_entropy(logits, targets), targets.numel())
        accuracy = is_correct.sum() / max(targets.numel(), 1)
        return regions, output | TrainingOutput({"loss_mask_point": loss}, {"point/accuracy": accuracy})

    def coarse_losses(self, logits: Tensor, regions: list[LabeledRegions]) -> TrainingOutput:
        """`loss_mask` and the pixel accuracy of the coarse masks.

        Args:
            logits: (sum of R_i, M, M) of each region's class.
            regions: R_i foreground regions of each image.
        """
        classes = torch.cat([table.classes for table in regions])
        targets = mask_targets(regions, logits.shape[-1])
        is_correct = (logits.detach() > 0) == targets
        loss = LossSum(self.loss_weight * self.loss(logits, targets, classes), targets.numel())
        return TrainingOutput({"loss_mask": loss}, {"mask/accuracy": is_correct.sum() / max(targets.numel(), 1)})

    def predict(self, features: Features, detections: list[Detections]) -> list[Detections]:
        """The detections with masks."""
        features, rois = channels_last(features, self.map_names), with_image_rows([table.boxes for table in detections])
        classes = torch.cat([table.classes for table in detections])
        coarse = self.coarse_maps(features, rois)
        if self.refinement is None:
            logits = of_class(coarse, classes)
        else:
            logits = self.refinement.subdivision(
                lambda points: self.point_logits(features, rois, coarse, points, classes), len(classes), classes.device
            )
        return with_masks(detections, logits.sigmoid())

    def point_logits(self, features: Features, rois: Tensor, coarse: Tensor, points: Tensor, classes: Tensor) -> Tensor:
        """The point head's logits of each region's class, `MAX_POINTS` at a time.

        Args:
            features: maps of the backbone.
            rois: (R, 5) image number and box in image pixels.
            coarse: (R, K, M, M) logits.
            points: (R, P, 2) in the unit square of each region.
            classes: (R,) int64 in [0, K).

        Returns:
            (R, P) float32.
        """
        assert self.point_head is not None
        assert self.refinement is not None
        parts = []
        size = max(1, MAX_POINTS // points.shape[1])
        columns = (column.split(size) for column in (rois, coarse, points, classes))
        for part_rois, part_coarse, part_points, part_classes in zip(*columns, strict=True):
            fine = self.refinement.features(features, part_rois, part_points)
            logits = self.point_head(fine, sample_own(part_coarse, part_points))
            parts.append(of_class(logits, part_classes).float())
        return torch.cat(parts)

    @property
    def map_names(self) -> tuple[str, ...]:
        """The maps of the backbone that the head samples."""
        fine = self.refinement.features.names if self.refinement is not None else ()
        return tuple(dict.fromkeys((*self.coarse_features.names, *fine)))


@torch.no_grad()
def point_targets(regions: list[LabeledRegions], points: Tensor) -> Tensor:
    """The matched ground-truth masks at points of the regions.

    Args:
        regions: R_i foreground regions of each image.
        points: (sum of R_i, P, 2) in the unit square of each region.

    Returns:
        (sum of R_i, P) in [0, 1].

    Raises:
        UserError: the targets have no masks.
    """
    parts = points.split([len(table) for table in regions])
    return torch.cat(
        [
            target_masks(table)[table.matches].sample_points(points_on_image(part, table.boxes))
            if len(table)
            else part[..., 0]
            for table, part in zip(regions, parts, strict=True)
        ]
    )


def of_class(maps: Tensor, classes: Tensor) -> Tensor:
    """The map of each region's class, or the only map if K is 1: (R, K, ...), (R,) int64 -> (R, ...)."""
    regions = torch.arange(len(maps), device=maps.device)
    return maps[regions, classes.clamp(max=maps.shape[1] - 1)]


def channels_last(features: Features, names: Sequence[str]) -> dict[str, Tensor]:
    """The named maps in channels-last order, which point sampling reads without a copy."""
    return {name: features[name].contiguous(memory_format=torch.channels_last) for name in names}


@MASK_HEADS.register("PointRendMaskHead")
def build_point_rend_mask_head(cfg: CfgNode, spec: BranchSpec) -> PointRendMaskHead:
    """The coarse mask head of `MODEL.ROI_MASK_HEAD`, refined by the point head of `MODEL.POINT_HEAD`.

    Args:
        cfg: the whole config.
        spec: channels and side of the pooled maps, and all maps of the backbone.
    """
    head, loss = cfg.MODEL.ROI_MASK_HEAD, MASK_LOSSES.get(cfg.MODEL.ROI_MASK_HEAD.LOSS)()
    _check_settings(cfg, loss)
    coarse_maps = select_specs(spec.maps, head.IN_FEATURES, key="MODEL.ROI_MASK_HEAD.IN_FEATURES")
    num_coarse_maps = 1 if head.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES
    coarse_head = CoarseMaskHead(
        FeatureSpec(_num_channels(coarse_maps), side=head.POOLER_RESOLUTION),
        num_maps=num_coarse_maps,
        conv_channels=head.CONV_DIM,
        fc_channels=[head.FC_DIM] * head.NUM_FC,
        mask_side=head.OUTPUT_SIDE_RESOLUTION,
    )
    point_head = refinement = None
    if head.POINT_HEAD_ON:
        points = cfg.MODEL.POINT_HEAD
        fine_maps = select_specs(spec.maps, points.IN_FEATURES, key="MODEL.POINT_HEAD.IN_FEATURES")
        point_head = POINT_HEADS.get(points.NAME)(cfg, FeatureSpec(_num_channels(fine_maps)), num_coarse_maps)
        refinement = PointRefinement(
            _point_features(fine_maps),
            UncertainPointSampler(points.TRAIN_NUM_POINTS, points.OVERSAMPLE_RATIO, points.IMPORTANCE_SAMPLE_RATIO),
            Subdivision(head.OUTPUT_SIDE_RESOLUTION, points.SUBDIVISION_STEPS, points.SUBDIVISION_NUM_POINTS),
        )
    return PointRendMaskHead(
        coarse_head,
        coarse_features=_point_features(coarse_maps),
        grid_side=head.POOLER_RESOLUTION,
        loss=loss,
        loss_weight=head.LOSS_WEIGHT,
        point_head=point_head,
        refinement=refinement,
    )


def _point_features(maps: Mapping[str, FeatureSpec]) -> PointFeatures:
    return PointFeatures(tuple(maps), tuple(spec.stride for spec in maps.values()))


def _num_channels(maps: Mapping[str, FeatureSpec]) -> int:
    return sum(spec.channels for spec in maps.values())


def _check_settings(cfg: CfgNode, loss: MaskLoss) -> None:
    head = cfg.MODEL.ROI_MASK_HEAD
    if loss.maps_compete:
        raise UserError(
            f"PointRendMaskHead predicts each class independently, and the classes of MODEL.ROI_MASK_HEAD.LOSS = "
            f"{head.LOSS!r} compete. Use sigmoid or dice."
        )
    if head.POOLER_RESOLUTION < 2:
        raise UserError(
            f"MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = {head.POOLER_RESOLUTION} must be at least 2 for "
            "PointRendMaskHead, which halves the grid."
        )
