"""Whether the anchors of the model overlap the training objects, and anchors that overlap them better."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrcnn_zoo.doctor.examined import TRAIN, AnchorLevels, DoctorInput, Side
from mrcnn_zoo.doctor.finding import EXAMPLES_KEPT, Example, Finding, Severity, object_example, percent
from mrcnn_zoo.evaluation.funnel.anchor_fit import AnchorFit, best_anchor_overlaps, fit_anchors, levels_overlaps
from mrcnn_zoo.modeling.anchors.grid_anchors import GridAnchors
from mrcnn_zoo.modeling.contracts import AnchorGenerator
from mrcnn_zoo.structures import ImageSize

MAX_OBJECTS = 1000  # that are measured
MATCH_IOU, POSITIVE_IOU = 0.5, 0.7  # of a usable anchor, and of a positive one (Ren et al. 2015, section 3.1.2)
FITTED_IOUS = (0.5, 0.6, 0.7)
FEW, ENOUGH = 0.9, 0.95  # of the objects with a usable anchor: below, a warning; from it on, nothing is advised
NOTED_GAIN, LARGE_GAIN = 0.02, 0.05  # in the share that fitted anchors reach


@dataclass(frozen=True)
class MeasuredObjects:
    """Objects in pixels of the network's input.

    Args:
        side: their dataset.
        rows: (G,) of its `objects`.
        boxes: (G, 4).
        sizes: (height, width) of the input of each, G.
    """

    side: Side
    rows: NDArray[np.int64]
    boxes: Tensor
    sizes: Sequence[ImageSize]


def check_anchors(examined: DoctorInput) -> Iterator[Finding]:
    """The share of the objects whose best anchor reaches an IoU of 0.5 and 0.7, and that of fitted anchors.

    Args:
        examined: datasets and settings.
    """
    levels = examined.anchors
    if levels is None:
        yield Finding(Severity.SKIPPED, "anchors: the model has none, or cannot be built")
        return
    for side in examined.of_role(TRAIN) or examined.sides:
        measured = objects_to_measure(side)
        if not len(measured.boxes):
            yield Finding(Severity.SKIPPED, f"{side.name}, anchors: there are no objects")
            continue
        ious = anchor_ious(measured, levels.generator, levels)
        fit = best_fit(measured.boxes, levels)
        fitted = anchor_ious(measured, fitted_generator(fit, levels), levels)
        yield _finding(measured, ious, fitted, fit)


def best_fit(boxes: Tensor, levels: AnchorLevels) -> AnchorFit:
    """Fitted anchors; of those fitted for several IoUs the ones with the highest score, see `_score`.

    Args:
        boxes: (G, 4) pixels of the network's input, at least one.
        levels: with the strides, and the number of sizes and ratios.
    """
    fits = [
        fit_anchors(
            boxes,
            levels.strides,
            sizes_per_level=levels.sizes_per_level,
            num_ratios=levels.num_ratios,
            iou=iou,
            offset=levels.offset,
        )
        for iou in FITTED_IOUS
    ]
    return max(fits, key=lambda fit: _score(fit_ious(boxes, fit, levels)))


def fit_ious(boxes: Tensor, fit: AnchorFit, levels: AnchorLevels) -> Tensor:
    """(G,) IoU of the best anchor of a fit, on maps without an end.

    Args:
        boxes: (G, 4) pixels of the network's input.
        fit: sizes and ratios.
        levels: with the strides.
    """
    return levels_overlaps(boxes, fit.sizes, fit.ratios, strides=levels.strides, offset=levels.offset)


def _score(ious: Tensor) -> float:
    """The share at 0.7, and twice that at 0.5: an object without a usable anchor is the larger loss."""
    usable, positive = (float((ious >= least).float().mean()) for least in (MATCH_IOU, POSITIVE_IOU))
    return 2 * usable + positive


def _finding(measured: MeasuredObjects, ious: Tensor, fitted: Tensor, fit: AnchorFit) -> Finding:
    count = len(ious)
    reached, positive, possible, possible_positive = (
        int((values >= least).sum()) for values in (ious, fitted) for least in (MATCH_IOU, POSITIVE_IOU)
    )
    text = (
        f"{measured.side.name}: the best anchor reaches an IoU of {MATCH_IOU:g} for {percent(reached, count)} of "
        f"{count:,} objects, and {POSITIVE_IOU:g} for {percent(positive, count)}"
    )
    gain = (possible - reached) / count
    if reached >= ENOUGH * count or gain < NOTED_GAIN or _score(fitted) < _score(ious) + NOTED_GAIN:
        return Finding(Severity.FINE, text)
    is_severe = reached < FEW * count and gain >= LARGE_GAIN
    worst = torch.argsort(ious)[:EXAMPLES_KEPT].tolist()
    return Finding(
        Severity.WARNING if is_severe else Severity.NOTE,
        text,
        f"Objects without an anchor of {MATCH_IOU:g} are often missed. Fitted anchors reach "
        f"{MATCH_IOU:g} for {percent(possible, count)}, and {POSITIVE_IOU:g} for {percent(possible_positive, count)}. "
        "Trained weights have to be trained again for them:",
        count=count - reached,
        total=count,
        examples=tuple(_example(measured, place, float(ious[place])) for place in worst),
        paste=fit.yaml(),
    )


def _example(measured: MeasuredObjects, place: int, iou: float) -> Example:
    record, item = measured.side.item(int(measured.rows[place]))
    width, height = (measured.boxes[place, 2:] - measured.boxes[place, :2]).tolist()
    return object_example(record, [item], f"{width:.0f} x {height:.0f} pixels of the input, IoU {iou:.2f}")


def objects_to_measure(side: Side) -> MeasuredObjects:
    """Objects at equal distances in the order of their sizes.

    Args:
        side: a dataset.
    """
    boxes = side.input_boxes
    order = np.argsort((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), kind="stable")
    count = min(MAX_OBJECTS, len(order))
    rows = order[np.arange(count) * len(order) // max(count, 1)]
    sizes = []
    for image in side.objects.images[rows].tolist():
        height, width = side.dataset.records[image].image_size
        scale_y, scale_x = side.scale((height, width))
        sizes.append((round(height * scale_y), round(width * scale_x)))
    return MeasuredObjects(side, rows, torch.from_numpy(boxes[rows].astype(np.float32)), sizes)


def anchor_ious(measured: MeasuredObjects, generator: AnchorGenerator, levels: AnchorLevels) -> Tensor:
    """(G,) IoU of the best anchor with each object, on the feature maps of its image.

    Args:
        measured: G objects.
        generator: of the anchors.
        levels: strides of the maps, and to what the input is padded.
    """
    groups: defaultdict[tuple[ImageSize, ...], list[int]] = defaultdict(list)
    for place, size in enumerate(measured.sizes):
        groups[levels.map_sizes(size)].append(place)
    ious = torch.zeros(len(measured.boxes))
    for map_sizes, places in groups.items():
        anchors = generator([torch.empty((1, 1, *size)) for size in map_sizes])
        ious[places] = best_anchor_overlaps(measured.boxes[places], anchors)[0]
    return ious


def fitted_generator(fit: AnchorFit, levels: AnchorLevels) -> GridAnchors:
    """The anchors of a fit on the levels of the model.

    Args:
        fit: sizes and ratios.
        levels: strides and offset.
    """
    ratios = [list(fit.ratios)] * len(levels.strides)
    return GridAnchors(fit.sizes, aspect_ratios=ratios, strides=levels.strides, offset=levels.offset)
