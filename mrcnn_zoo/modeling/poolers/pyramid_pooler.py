"""Pools each region from the pyramid level of its size."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.contracts import Features
from mrcnn_zoo.modeling.recording import Recorder, StageValues
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.ops.roi_pooling import with_image_rows
from mrcnn_zoo.ops.rows import WITHOUT_STATIC_NONZERO, rows_where
from mrcnn_zoo.registries import POOLING_OPERATIONS
from mrcnn_zoo.structures import FeatureSpec, ImageSize


@dataclass(frozen=True)
class LevelAssignment:
    """The pyramid level of a box by its area.

    Source: Lin et al. 2017 (FPN), eq. 1. The canonical box has the size of the ImageNet training images of backbones
    and is pooled from the map of stride 16.

    Args:
        canonical_level: log2 of the stride of the map for boxes of the canonical side.
        canonical_box_side: pixels; boxes of twice this side are one level higher.
    """

    canonical_level: int = 4
    canonical_box_side: float = 224.0

    def __call__(self, boxes: Tensor, finest: int, coarsest: int) -> Tensor:
        """The level of each box.

        Args:
            boxes: (R, 4) pixels.
            finest: smallest level.
            coarsest: largest level.

        Returns:
            (R,) int64 in [finest, coarsest], log2 of the stride.
        """
        sides = box_ops.area(boxes).sqrt()
        # The level of an empty box is minus infinity, which is clamped to the finest.
        levels = torch.floor(self.canonical_level + torch.log2(sides / self.canonical_box_side))
        return levels.clamp(finest, coarsest).long()


class PyramidPooler(nn.Module):
    """Pools a map of fixed size per region of a batch.

    Args:
        operations: pooling operation of each level, finest first.
        names: the feature map of each level.
        side: S, rows and columns of a pooled map.
        finest_level: log2 of the stride of the first level; each further level has twice the stride.
        assignment: chooses the level of each box.
    """

    def __init__(
        self,
        operations: Sequence[nn.Module],
        *,
        names: Sequence[str],
        side: int,
        finest_level: int,
        assignment: LevelAssignment,
    ) -> None:
        super().__init__()
        self.operations = nn.ModuleList(operations)
        self.names = tuple(names)
        self.side = side
        self.finest_level = finest_level
        self.assignment = assignment

    def forward(self, features: Features, boxes: list[Tensor], rows: Sequence[Tensor] | None = None) -> Tensor:
        """Pool the regions of all images.

        Args:
            features: at least the maps in `names`, each (N, C, H, W).
            boxes: N of (R_i, 4), image pixels.
            rows: where each of `level_masks` is True, if known; saves a host synchronisation.

        Returns:
            (sum of R_i, C, S, S) in the order of the boxes, image by image.
        """
        regions = with_image_rows([_finite(image_boxes) for image_boxes in boxes])
        maps = [features[name] for name in self.names]
        if len(maps) == 1:
            return self.operations[0](maps[0], regions)
        if rows is None:
            masks = self._masks(regions)
            if self._can_pool_all(regions):
                return self._pool_all(maps, regions, masks)
            rows = rows_where(masks)
        pooled = [operation(maps[i], regions[rows[i]]) for i, operation in enumerate(self.operations)]
        # One index_select restores the order; writing into an empty result would copy the gradient once per level.
        order = self._order(rows, regions)
        if pooled[0].requires_grad:
            return torch.cat(pooled).index_select(0, order)
        # Channels last, as the maps are: index_select returns its result in the order of the dimensions.
        by_cell = torch.cat([maps.permute(0, 2, 3, 1) for maps in pooled]).index_select(0, order)
        return by_cell.permute(0, 3, 1, 2)

    def _order(self, rows: Sequence[Tensor], regions: Tensor) -> Tensor:
        """The place of each region among the concatenated rows of the levels."""
        if not torch.compiler.is_compiling():
            return torch.cat(list(rows)).argsort()
        # Computed from the levels, whose number is fixed in an exported program; that of the rows of a level is not.
        levels, count = self.levels_of(regions[:, 1:]), regions.shape[0]
        return (levels * count + torch.arange(count, device=levels.device)).argsort().argsort()

    def level_masks(self, boxes: Sequence[Tensor]) -> list[Tensor]:
        """Whether each box is pooled from each level; none if there is one level only.

        Args:
            boxes: N of (R_i, 4), image pixels.

        Returns:
            (sum of R_i,) bool per level.
        """
        if len(self.names) == 1:
            return []
        return self._masks(with_image_rows([_finite(image_boxes) for image_boxes in boxes]))

    def _masks(self, regions: Tensor) -> list[Tensor]:
        levels = self.levels_of(regions[:, 1:])
        return [levels == i for i in range(len(self.names))]

    def _can_pool_all(self, regions: Tensor) -> bool:
        # In training, where regions are many, memory traffic takes longer than the synchronisation.
        on_accelerator = regions.device.type not in WITHOUT_STATIC_NONZERO
        skips_empty = all(getattr(operation, "skips_empty", False) for operation in self.operations)
        return on_accelerator and skips_empty and not torch.is_grad_enabled()

    def _pool_all(self, maps: Sequence[Tensor], regions: Tensor, masks: Sequence[Tensor]) -> Tensor:
        """Without host synchronisation: every level pools all regions, those of other levels as empty ones, into 0."""
        first, *others = (
            operation(feature_map, regions * mask[:, None])
            for operation, feature_map, mask in zip(self.operations, maps, masks, strict=True)
        )
        for pooled in others:
            first += pooled
        return first

    def levels_of(self, boxes: Tensor) -> Tensor:
        """The map that each box is pooled from: (R, 4) finite pixels -> (R,) int64 places in `names`."""
        coarsest = self.finest_level + len(self.names) - 1
        return self.assignment(boxes, self.finest_level, coarsest) - self.finest_level

    def report(self, recorder: Recorder, stage: str, boxes: Sequence[Tensor], image_sizes: Sequence[ImageSize]) -> None:
        """Report which maps the boxes are pooled from; see `StageValues`.

        Args:
            recorder: gets the values.
            stage: e.g. "box pooling".
            boxes: N of (R_i, 4), image pixels.
            image_sizes: (height, width) of each image.
        """
        strides = [2 ** (self.finest_level + place) for place in range(len(self.names))]
        settings = {"names": self.names, "strides": strides, "side": self.side, "operation": repr(self.operations[0])}
        for image, (table, image_size) in enumerate(zip(boxes, image_sizes, strict=True)):
            values = {"boxes": table, "levels": self.levels_of(_finite(table))}
            recorder.add_values(StageValues(stage, image, image_size, values, settings))


def _finite(boxes: Tensor) -> Tensor:
    # A NaN box has no level, and its samples would be outside the memory of the map. The losses show the divergence.
    return torch.where(boxes.isfinite(), boxes, 0.0)


def build_pyramid_pooler(
    pooling: str,
    specs: Mapping[str, FeatureSpec],
    *,
    side: int,
    sampling_ratio: int,
    assignment: LevelAssignment | None = None,
    key: str = "",
) -> PyramidPooler:
    """A pooler over feature maps.

    Args:
        pooling: registered name of the operation.
        specs: the maps to pool from, finest first.
        side: S, rows and columns of a pooled map.
        sampling_ratio: of the operation.
        assignment: level of each box; by default that of the FPN paper.
        key: config key of `pooling`, for messages.

    Raises:
        UserError: the strides do not double from level to level.
    """
    strides = [spec.stride for spec in specs.values()]
    finest_level = int(math.log2(strides[0]))
    if strides != [2 ** (finest_level + i) for i in range(len(strides))]:
        raise UserError(
            f"regions cannot be pooled from {', '.join(specs)} with strides {strides}: "
            f"list levels whose strides double, finest first, in MODEL.ROI_HEADS.IN_FEATURES"
        )
    build = POOLING_OPERATIONS.get(pooling, key=key)
    operations = [build(side, 1.0 / stride, sampling_ratio) for stride in strides]
    return PyramidPooler(
        operations, names=tuple(specs), side=side, finest_level=finest_level, assignment=assignment or LevelAssignment()
    )


def select_specs(
    specs: Mapping[str, FeatureSpec], in_features: Sequence[str], *, key: str = "MODEL.ROI_HEADS.IN_FEATURES"
) -> dict[str, FeatureSpec]:
    """The maps that a config key lists, in its order.

    Args:
        specs: all maps of the backbone by name.
        in_features: names in the config.
        key: of these names, for the message.

    Raises:
        UserError: the list is empty or names a map that the backbone does not return.
    """
    maps = {name: specs[name] for name in in_features if name in specs}
    if not maps or len(maps) < len(in_features):
        raise UserError(f"{key} = {list(in_features)} should name maps of the backbone: {', '.join(specs)}.")
    return maps


def build_head_pooler(cfg: CfgNode, section: str, specs: Mapping[str, FeatureSpec]) -> PyramidPooler:
    """The pooler of one head, over the maps in `MODEL.ROI_HEADS.IN_FEATURES`.

    Args:
        cfg: the whole config.
        section: of the head in `MODEL`: ROI_BOX_HEAD, ROI_MASK_HEAD, ROI_KEYPOINT_HEAD or ROI_MASKIOU_HEAD.
        specs: all maps of the backbone by name.

    Raises:
        UserError: a canonical side that is not above 0.
    """
    head, regions = cfg.MODEL[section], cfg.MODEL.ROI_HEADS
    if regions.CANONICAL_BOX_SIDE <= 0:
        raise UserError(
            f"MODEL.ROI_HEADS.CANONICAL_BOX_SIDE = {regions.CANONICAL_BOX_SIDE} should be a side in pixels, above 0."
        )
    return build_pyramid_pooler(
        head.POOLER_TYPE,
        select_specs(specs, regions.IN_FEATURES),
        side=head.POOLER_RESOLUTION,
        sampling_ratio=head.POOLER_SAMPLING_RATIO,
        assignment=LevelAssignment(regions.CANONICAL_LEVEL, regions.CANONICAL_BOX_SIDE),
        key=f"MODEL.{section}.POOLER_TYPE",
    )
