"""Tables of the instances of one image: columns of equal length, one row per instance."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from mrcnn_zoo.ops.masks import MaskWindow, tight_box
from mrcnn_zoo.ops.rows import rows_of_all, rows_where
from mrcnn_zoo.structures.masks import PredictedMasks, TargetMasks
from mrcnn_zoo.structures.summary import summary

ImageSize = tuple[int, int]  # (height, width) in pixels

UNKNOWN_CLASS = -1  # of a given box whose class the model predicts

NOT_A_COLUMN: dict[str, Any] = {"is_column": False}


@dataclass(repr=False)
class InstanceTable:
    """Columns of equal length of the instances of one image; `table[rows]` selects rows of all columns.

    Columns are declared fields of subclasses. A field with the metadata `NOT_A_COLUMN` belongs to the whole table, and
    row selection does not change it.

    Raises:
        ValueError: columns of different lengths, or boxes that are not (R, 4).
    """

    image_size: ImageSize = field(metadata=NOT_A_COLUMN)
    boxes: Tensor  # (R, 4) float32, x1 y1 x2 y2, pixels of `image_size`

    def __post_init__(self) -> None:
        if self.boxes.dim() != 2 or self.boxes.shape[1] != 4:
            raise ValueError(f"boxes must be (R, 4), got {tuple(self.boxes.shape)}")
        for name, column in self.columns().items():
            if len(column) != len(self.boxes):
                raise ValueError(
                    f"{type(self).__name__}.{name} has {len(column)} rows where boxes has {len(self.boxes)}"
                )

    def columns(self) -> dict[str, Any]:
        """The columns by name, without optional columns that are None."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.metadata.get("is_column", True)}
        return {name: value for name, value in values.items() if value is not None}

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        return summary(self)

    def __getitem__(self, rows: Tensor | slice) -> Self:
        return replace(self, **{name: column[rows] for name, column in self.columns().items()})

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The same table with all columns on `device`."""
        moved = {name: column.to(device, non_blocking=non_blocking) for name, column in self.columns().items()}
        return replace(self, **moved)


@dataclass(repr=False)
class Targets(InstanceTable):
    """Ground truth of one image."""

    classes: Tensor  # (R,) int64 in [0, K)
    masks: TargetMasks | None = None
    keypoints: Tensor | None = None  # (R, J, 3) float32: x, y in pixels, visibility 0, 1 or 2


@dataclass(repr=False)
class Proposals(InstanceTable):
    """Boxes that may contain an object, best first."""

    objectness: Tensor  # (R,) float32 logits


@dataclass(repr=False)
class LabeledRegions(InstanceTable):
    """Training regions, each with the row of its matched ground truth."""

    classes: Tensor  # (R,) int64: [0, K) foreground, K background, -1 ignored
    matches: Tensor  # (R,) int64 rows of `targets`; undefined for background
    targets: Targets = field(metadata=NOT_A_COLUMN)
    mask_probabilities: Tensor | None = None  # (R, M, M) in [0, 1], predicted for the region's class; has a gradient
    # Number of foreground regions if these are the first rows; saves a host synchronisation.
    num_foreground: int | None = field(default=None, metadata=NOT_A_COLUMN)
    foreground: Tensor | None = field(default=None, metadata=NOT_A_COLUMN)  # (P,) rows of the foreground, if known

    def __getitem__(self, rows: Tensor | slice) -> Self:
        return replace(super().__getitem__(rows), num_foreground=None, foreground=None)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The same regions and their targets on `device`."""
        moved = super().to(device, non_blocking=non_blocking)
        return replace(moved, targets=self.targets.to(device, non_blocking=non_blocking), foreground=None)


def is_foreground(classes: Tensor, num_classes: int) -> Tensor:
    """Whether each region shows an object, neither background nor ignored.

    Args:
        classes: (R,) int64 as in `LabeledRegions`.
        num_classes: K.

    Returns:
        (R,) bool.
    """
    return (classes >= 0) & (classes < num_classes)


def foreground_regions(regions: Sequence[LabeledRegions], num_classes: int) -> tuple[list[LabeledRegions], Tensor]:
    """The foreground regions of each image. `matches` is valid for these only: an image may have no ground truth.

    Args:
        regions: R_i of each image.
        num_classes: K.

    Returns:
        The tables, and the (P,) int64 rows of all their regions among the sum of R_i regions of all images.
    """
    counts = [table.num_foreground for table in regions if table.num_foreground is not None]
    if len(counts) == len(regions):
        rows = [torch.arange(count, device=table.boxes.device) for count, table in zip(counts, regions, strict=True)]
        tables = [table[:count] for count, table in zip(counts, regions, strict=True)]
    else:
        known = [table.foreground for table in regions if table.foreground is not None]
        is_known = len(known) == len(regions)
        rows = known if is_known else rows_where([is_foreground(table.classes, num_classes) for table in regions])
        tables = [table[image_rows] for image_rows, table in zip(rows, regions, strict=True)]
    return [replace(table, num_foreground=len(table)) for table in tables], rows_of_all(rows, [*map(len, regions)])


@dataclass(repr=False)
class Detections(InstanceTable):
    """Predicted instances of one image, best first."""

    scores: Tensor  # (R,) float32 in [0, 1]
    classes: Tensor  # (R,) int64 in [0, K)
    masks: PredictedMasks | None = None
    keypoints: Tensor | None = None  # (R, J, 3) float32: x, y in pixels, score
    mask_scores: Tensor | None = None  # (R,) float32: ranking of masks, if it is not `scores`
    tracks: Tensor | None = None  # (R,) int64: numbers of the objects over the frames of a video


def mask_windows(table: Targets | Detections) -> list[MaskWindow]:
    """The masks of a table without full-image bitmaps, where its kind of masks allows that.

    Args:
        table: R instances with masks.

    Returns:
        R windows, which may be larger than their masks; empty ones of empty masks.
    """
    assert table.masks is not None
    if hasattr(table.masks, "mask_windows"):
        windows: list[MaskWindow] = table.masks.mask_windows()
        return windows
    found = []
    for row in range(len(table)):
        bitmap = table.masks[row : row + 1].bitmaps()[0].numpy(force=True).astype(np.bool_)
        left, top, right, bottom = tight_box(bitmap) or (0, 0, 0, 0)
        found.append(MaskWindow(left, top, bitmap[top:bottom, left:right].copy()))
    return found


def object_windows(table: Targets | Detections) -> list[MaskWindow]:
    """The masks of a table, or its boxes as filled masks where it has none.

    Args:
        table: R instances.

    Returns:
        R windows inside the image.
    """
    if table.masks is not None:
        return mask_windows(table)
    height, width = table.image_size
    limits = torch.tensor([width, height, width, height])
    edges = table.boxes.detach().cpu().round().clamp(min=0).minimum(limits).long().tolist()
    # Broadcast values need no memory.
    return [MaskWindow(x1, y1, np.broadcast_to(np.True_, (y2 - y1, x2 - x1))) for x1, y1, x2, y2 in edges]
