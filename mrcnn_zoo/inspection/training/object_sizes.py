"""Sizes of the objects in the network's input beside strides, anchor sizes and receptive fields of the feature maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from tabulate import tabulate
from torch import nn

from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.data.transforms import AffineTransform, Augmentation
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inspection.figures import finish, new_figure
from mrcnn_zoo.inspection.model.receptive_fields import receptive_fields
from mrcnn_zoo.inspection.training.assigned_anchors import find_anchored_stage, group_anchors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS_PER_DOUBLING = 4


@dataclass(frozen=True)
class LevelScale:
    """The lengths of one feature map, in pixels of the network's input."""

    name: str
    stride: int
    anchor_sizes: tuple[float, ...]  # square roots of the areas; empty for maps without anchors
    receptive_field: int | None  # side; None if it is the whole image or not known


def object_sizes(dataset: Dataset, augmentations: Sequence[Augmentation], *, seed: int = 0) -> NDArray[np.float64]:
    """Square roots of the areas of the boxes of all objects after resizing and augmentation; no image is read.

    Args:
        dataset: with annotations; crowds do not count.
        augmentations: of the network's input, in their order.
        seed: of random augmentations.

    Returns:
        (O,) pixels; objects outside a crop are left out.
    """
    found = [
        _sizes_in(record, augmentations, np.random.default_rng((seed, row)))
        for row, record in enumerate(dataset.records)
    ]
    return np.concatenate([np.zeros(0), *found])


def _sizes_in(
    record: ImageRecord, augmentations: Sequence[Augmentation], rng: np.random.Generator
) -> NDArray[np.float64]:
    boxes = np.array([item.box for item in record.instances if not item.is_crowd], dtype=np.float64).reshape(-1, 4)
    affine = AffineTransform.identity(record.image_size)
    for augmentation in augmentations:
        shape = torch.empty((3, *affine.size), device="meta")
        affine = affine.then(augmentation.get_transform(shape, rng).affine)
    boxes = affine.clip_boxes(affine.map_boxes(boxes))
    areas = (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1)
    return np.sqrt(areas[areas > 0])


def level_scales(model: nn.Module, channels: int) -> list[LevelScale]:
    """The feature maps with anchors, or all maps of the backbone where there are no anchors.

    Args:
        model: a detector.
        channels: of its input.
    """
    try:
        stage = find_anchored_stage(model, purpose="sizes")
    except UserError:
        backbone: Any = model.backbone
        fields = receptive_fields(backbone, channels)
        return [LevelScale(name, spec.stride, (), fields.get(name)) for name, spec in backbone.output_specs.items()]
    backbone = stage.backbone
    fields = receptive_fields(backbone, channels)
    specs = {name: backbone.output_specs[name] for name in stage.in_features}
    cells = [torch.zeros((1, 1, 8, 8)) for _ in specs]  # of any size: anchors of a cell are the same everywhere
    sizes: dict[str, tuple[float, ...]] = {}
    for name, group in group_anchors(stage, cells):
        sizes[name] = tuple(sorted({*sizes.get(name, ()), *group.sizes}))
    return [LevelScale(name, spec.stride, sizes[name], fields.get(name)) for name, spec in specs.items()]


def size_table(sizes: NDArray[np.float64], levels: Sequence[LevelScale]) -> str:
    """Lengths of each map, and the number of objects whose size is nearest to one of its anchors.

    Args:
        sizes: (O,) pixels.
        levels: from fine to coarse.
    """
    counts = nearest_counts(sizes, levels)
    rows = [
        [
            level.name,
            level.stride,
            ", ".join(f"{size:.3g}" for size in level.anchor_sizes) or "none",
            "whole image or unknown" if level.receptive_field is None else level.receptive_field,
            count if level.anchor_sizes else "",
        ]
        for level, count in zip(levels, counts, strict=True)
    ]
    text = tabulate(rows, headers=("map", "stride", "anchor sizes", "receptive field", "objects nearest in size"))
    finest = min(level.stride for level in levels)
    smaller = int((sizes < finest).sum())
    return f"{text}\n{smaller} of {len(sizes)} objects are smaller than the finest stride, {finest} pixels"


def nearest_counts(sizes: NDArray[np.float64], levels: Sequence[LevelScale]) -> list[int]:
    """For each map the objects whose size is nearest to one of its anchor sizes, by ratio.

    Args:
        sizes: (O,) pixels.
        levels: from fine to coarse; of equal distances the first counts.
    """
    owners = [place for place, level in enumerate(levels) for _ in level.anchor_sizes]
    if not owners or not len(sizes):
        return [0] * len(levels)
    anchors = np.log([size for level in levels for size in level.anchor_sizes])
    nearest = np.abs(np.log(sizes)[:, None] - anchors).argmin(axis=1)
    return np.bincount(np.array(owners)[nearest], minlength=len(levels)).tolist()


def size_figure(sizes: NDArray[np.float64], levels: Sequence[LevelScale], *, title: str) -> "Figure":
    """A histogram of object sizes above strides, anchor sizes and receptive fields, on one axis.

    Args:
        sizes: (O,) pixels.
        levels: from fine to coarse.
        title: above the plots.
    """
    figure = new_figure(columns=1, side=5 + 0.35 * len(levels))
    figure.set_figwidth(9)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 0.4 + 0.45 * len(levels)])
    lengths = [level.stride for level in levels] + [level.receptive_field or 0 for level in levels]
    lengths += [int(size) for level in levels for size in level.anchor_sizes]
    low = min([*(length for length in lengths if length), *sizes]) / 1.3
    high = max([*lengths, *sizes]) * 1.3
    count = max(1, round(np.log2(high / low) * BINS_PER_DOUBLING))
    top.hist(sizes, bins=np.geomspace(low, high, count + 1).tolist(), color="0.75", edgecolor="0.45")
    finish(top, title=title, y_label="objects", x_label="")
    for place, level in enumerate(levels):
        _draw_level(top, bottom, place, level)
    bottom.set_xscale("log", base=2)
    bottom.set(xlim=(low, high), ylim=(len(levels) - 0.5, -0.5))
    bottom.set_yticks(range(len(levels)), [level.name for level in levels])
    bottom.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    finish(bottom, title="", y_label="feature map", x_label="square root of the area of the box, pixels of the input")
    handles = [
        bottom.plot([], [], color="0.3", linestyle="", marker=marker, label=text)[0]
        for marker, text in (("|", "stride"), ("s", "anchor size"), (">", "receptive field"))
    ]
    bottom.legend(handles=handles, fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.35))
    return figure


def _draw_level(top: Any, bottom: Any, place: int, level: LevelScale) -> None:
    color = f"C{place % 10}"
    ends = [level.stride, *level.anchor_sizes, *([level.receptive_field] if level.receptive_field else [])]
    bottom.plot([min(ends), max(ends)], [place, place], color=color, linewidth=1, alpha=0.5)
    bottom.plot([level.stride], [place], color=color, marker="|", markersize=14, markeredgewidth=2)
    bottom.plot(
        level.anchor_sizes, [place] * len(level.anchor_sizes), color=color, linestyle="", marker="s", markersize=7
    )
    top.axvline(level.stride, color=color, linestyle=":", linewidth=1)
    for size in level.anchor_sizes:
        top.axvline(size, color=color, linestyle="--", linewidth=1)
    if level.receptive_field:
        bottom.plot([level.receptive_field], [place], color=color, marker=">", markersize=9)
        top.axvline(level.receptive_field, color=color, linestyle="-", linewidth=1)
