"""The sampled foreground regions, and the feature maps that regions are pooled from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.contracts import Features
from mrcnn_zoo.ops.rows import rows_of_all, rows_where
from mrcnn_zoo.structures import Detections, FeatureSpec, LabeledRegions, Proposals


def boxes_of(tables: Sequence[Proposals] | Sequence[LabeledRegions] | Sequence[Detections]) -> list[Tensor]:
    """The boxes of each image."""
    return [table.boxes for table in tables]


def contiguous_features(features: Features, names: Iterable[str]) -> dict[str, Tensor]:
    """The maps, the named ones contiguous as pooling reads them, so that no pooler has to copy them again."""
    return {**features, **{name: features[name].contiguous() for name in names}}


def named_specs(
    specs: Mapping[str, FeatureSpec], in_features: Sequence[str], *, key: str = "MODEL.ROI_HEADS.IN_FEATURES"
) -> dict[str, FeatureSpec]:
    """Those maps of the backbone that the key lists, in its order.

    Raises:
        UserError: the list is empty or names a map that the backbone does not return.
    """
    maps = {name: specs[name] for name in in_features if name in specs}
    if not maps or len(maps) < len(in_features):
        raise UserError(f"{key} = {list(in_features)} should name maps of the backbone: {', '.join(specs)}.")
    return maps


def is_foreground(classes: Tensor, num_classes: int) -> Tensor:
    """Whether each region's class is an object's, neither background nor ignored: (R,) int64 -> (R,) bool."""
    return (classes >= 0) & (classes < num_classes)


def foreground_only(regions: Sequence[LabeledRegions], num_classes: int) -> list[LabeledRegions]:
    """The foreground of each image. Only there may `matches` be followed: an image may have no ground truth at all."""
    return foreground_and_rows(regions, num_classes)[0]


def foreground_and_rows(regions: Sequence[LabeledRegions], num_classes: int) -> tuple[list[LabeledRegions], Tensor]:
    """The foreground of each image, and its rows counted through the regions of all images: (sum of R_i,) int64."""
    counts = [table.num_foreground for table in regions if table.num_foreground is not None]
    if len(counts) == len(regions):
        rows = [torch.arange(count, device=table.boxes.device) for count, table in zip(counts, regions, strict=True)]
        tables = [table[:count] for count, table in zip(counts, regions, strict=True)]
    else:
        rows = rows_where([is_foreground(table.classes, num_classes) for table in regions])
        tables = [table[image_rows] for image_rows, table in zip(rows, regions, strict=True)]
    return [replace(table, num_foreground=len(table)) for table in tables], rows_of_all(rows, [*map(len, regions)])


def matched_boxes(foreground: list[LabeledRegions]) -> Tensor:
    """The ground-truth boxes of foreground regions, image after image: (sum of R_i, 4) pixels."""
    return torch.cat([table.targets.boxes[table.matches] for table in foreground])
