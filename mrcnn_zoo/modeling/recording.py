"""Reports of what each stage of a detector does with each box, and a recorder of these reports.

    recording = Recording()
    detections = model.predict(samples, recorder=recording)
    for report in recording.reports: print(report.stage, report.image, report.counts())

A recorder does not change the results; the contents of reports are computed only if there is a recorder.
"""

import enum
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from mrcnn_zoo.modeling.contracts import Candidates
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.structures import Detections, ImageSize


class Fate(enum.IntEnum):
    """Whether a stage keeps a box, or why it removes it."""

    KEPT = 0
    NOT_FINITE = 1  # a prediction is infinite or not a number
    BELOW_THRESHOLD = 2  # the score is not above the score threshold
    NOT_IN_TOP_K = 3  # not among the best scores of its level
    TOO_SMALL = 4  # a side is not above the minimum
    SUPPRESSED = 5  # by the suppression, usually as a duplicate of another box
    BEYOND_LIMIT = 6  # not among the best boxes that an image may have


@dataclass(frozen=True)
class StageReport:
    """What one stage does with its boxes of one image.

    A box with scores for several classes has a row per class above the threshold, or one row for its best class if
    there is none.
    """

    stage: str  # e.g. "proposals", "boxes"
    image: int  # row of the batch
    image_size: ImageSize  # (height, width) of the pixels that the boxes are in
    boxes: Tensor  # (R, 4) pixels, as the stage returns kept boxes
    scores: Tensor  # (R,) that the stage ranks by
    classes: Tensor  # (R,) int64 in [0, K); for proposals the pyramid level
    sources: Tensor  # (R,) int64 anchor, or row among the boxes kept by the previous stage
    fates: Tensor  # (R,) int8 values of `Fate`
    # (R,) int64 row of the kept box that suppresses each; -1 for other fates, and if no kept box overlaps it: scores
    # below SOFT_NMS_MIN_SCORE, or boxes removed by a learned suppression.
    suppressed_by: Tensor
    kept: Tensor  # (S,) int64 kept rows in the order of the result

    def counts(self) -> dict[str, int]:
        """The number of rows per fate by its name, without zeros."""
        found = torch.bincount(self.fates.long(), minlength=len(Fate)).tolist()
        return {fate.name.lower(): found[fate] for fate in Fate if found[fate]}


@dataclass(frozen=True)
class StageValues:
    """What one stage computes for one image, beside the boxes of a `StageReport`.

    "features": the maps of the backbone by name, (C, H, W) with padding; settings "strides" by name.
    "anchors": "boxes" (A, 4) and "levels" (A,) int64; the sources of "proposals", or of "boxes" without proposals.
    "class scores": "boxes" (B, 4) of the regions, "scores" (B, K); the sources of "boxes"; setting "score_threshold".
    "box pooling", "mask_head pooling", ...: "boxes" (R, 4) and "levels" (R,) int64, places in the settings "names" and
    "strides" of the pooled maps; settings "side" of a pooled map and "operation".
    """

    stage: str
    image: int  # row of the batch
    image_size: ImageSize  # (height, width) of the pixels that boxes are in
    values: Mapping[str, Tensor]
    settings: Mapping[str, Any] = field(default_factory=dict)


class Recorder(Protocol):
    """Receives the reports of all stages; an argument of `predict` of a detector."""

    def add(self, report: StageReport) -> None:
        """Receive the report of one stage on one image, in the order of the stages."""
        ...

    def add_values(self, values: StageValues) -> None:
        """Receive the values of one stage on one image."""
        ...


@dataclass
class Recording:
    """A recorder that keeps all reports and values."""

    reports: list[StageReport] = field(default_factory=list)
    values: list[StageValues] = field(default_factory=list)

    def add(self, report: StageReport) -> None:
        """Keep the report."""
        self.reports.append(report)

    def add_values(self, values: StageValues) -> None:
        """Keep the values."""
        self.values.append(values)

    def of_image(self, image: int) -> dict[str, StageReport]:
        """The reports on image number `image` of the batch, by stage."""
        return {report.stage: report for report in self.reports if report.image == image}

    def values_of_image(self, image: int) -> dict[str, StageValues]:
        """The values of image number `image` of the batch, by stage."""
        return {values.stage: values for values in self.values if values.image == image}


def recorded(method: Callable[..., Any], *args: Any, recorder: Recorder | None) -> Any:
    """The result of a component's method, called with the recorder if it has this parameter.

    Args:
        method: for example `predict`.
        args: positional arguments.
        recorder: passed on if not None.
    """
    if recorder is None or "recorder" not in inspect.signature(method).parameters:
        return method(*args)
    return method(*args, recorder=recorder)


def report_features(
    recorder: Recorder, features: Mapping[str, Tensor], strides: Mapping[str, int], image_sizes: Sequence[ImageSize]
) -> None:
    """Report the maps of the backbone.

    Args:
        recorder: gets the values "features".
        features: (N, C, H, W) by name.
        strides: by name.
        image_sizes: of each image, without padding.
    """
    for image, image_size in enumerate(image_sizes):
        maps = {name: tensor[image] for name, tensor in features.items()}
        recorder.add_values(StageValues("features", image, image_size, maps, {"strides": dict(strides)}))


def report_anchors(recorder: Recorder, anchors: Sequence[Tensor], image_sizes: Sequence[ImageSize]) -> None:
    """Report the anchors, which are equal for all images.

    Args:
        recorder: gets the values "anchors".
        anchors: (A_i, 4) of each level.
        image_sizes: of each image.
    """
    levels = torch.cat([torch.full_like(level[:, 0], place).long() for place, level in enumerate(anchors)])
    values = {"boxes": torch.cat(list(anchors)), "levels": levels}
    for image, image_size in enumerate(image_sizes):
        recorder.add_values(StageValues("anchors", image, image_size, values))


@dataclass(frozen=True)
class Selected:
    """The boxes of one image that a suppression compares and keeps."""

    rows: Tensor  # (T,) int64 compared rows among all boxes
    kept: Tensor  # (S,) int64 in [0, T), best first, before the limit
    suppressors: Tensor  # (T,) int64 in [0, T) of the kept box that suppresses each, or -1
    limit: int | None  # largest number of kept boxes


def report_selection(
    recorder: Recorder,
    *,
    stage: str,
    image: int,
    image_size: ImageSize,
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    sources: Tensor,
    reasons: Tensor,
    selected: Selected,
) -> None:
    """Report a stage with a suppression.

    Args:
        recorder: gets the report.
        stage: see `StageReport`, also for the next six.
        image: number in the batch.
        image_size: (height, width).
        boxes: (R, 4) pixels.
        scores: (R,).
        classes: (R,) int64.
        sources: (R,) int64.
        reasons: (R,) int8 `Fate` of the rows that are not compared; the others are overwritten.
        selected: the compared and kept rows.
    """
    rows, kept = selected.rows, selected.kept
    fates = reasons.clone()
    fates[rows] = int(Fate.SUPPRESSED)
    fates[rows[kept]] = int(Fate.BEYOND_LIMIT)
    stay = rows[kept[: selected.limit]]
    fates[stay] = int(Fate.KEPT)
    by = torch.full_like(sources, -1)
    if len(rows):
        by[rows] = torch.where(selected.suppressors >= 0, rows[selected.suppressors.clamp(min=0)], -1)
    by = torch.where(fates == Fate.SUPPRESSED, by, -1)
    recorder.add(StageReport(stage, image, image_size, boxes, scores, classes, sources, fates, by, stay))


def report_all_kept(
    recorder: Recorder,
    detections: Sequence[Detections],
    *,
    stage: str,
    orders: Sequence[Tensor] | None = None,
    drops_empty: bool = False,
) -> None:
    """Report a stage that moves or rescores boxes and keeps all, or all that are not empty.

    Args:
        recorder: gets the reports.
        detections: of each image, before empty ones are removed.
        stage: name in the report.
        orders: (R_i,) int64 kept rows in the order of the result; None for the same order.
        drops_empty: whether empty boxes are removed.
    """
    for image, table in enumerate(detections):
        rows = torch.arange(len(table), device=table.boxes.device)
        fates = torch.zeros(len(table), dtype=torch.int8, device=table.boxes.device)
        if drops_empty:
            fates[~box_ops.is_nonempty(table.boxes)] = int(Fate.TOO_SMALL)
        kept = (fates == 0).nonzero().flatten() if orders is None else orders[image]
        recorder.add(
            StageReport(
                stage=stage,
                image=image,
                image_size=table.image_size,
                boxes=table.boxes,
                scores=table.scores,
                classes=table.classes,
                sources=rows,
                fates=fates,
                suppressed_by=torch.full_like(rows, -1),
                kept=kept,
            )
        )


@dataclass(frozen=True)
class ImageScores:
    """Class scores of all boxes of one image before the candidates are chosen, for `report_detections`."""

    image_size: ImageSize  # (height, width)
    scores: Tensor  # (B, K)
    is_above: Tensor  # (B, K) bool: above the score threshold
    is_finite: Tensor  # (B, K) bool, or (B, 1)
    decode: Callable[[Tensor, Tensor], Tensor]  # (T,) int64 boxes, (T,) int64 classes -> (T, 4) pixels, not clipped
    clips: bool = True  # whether boxes are clipped before the suppression


def report_detections(
    recorder: Recorder,
    images: Sequence[ImageScores],
    candidates: Candidates,
    excluded: Fate,
    selected: Sequence[Selected],
) -> None:
    """Report the stage "boxes", which makes detections of class scores.

    A box has a row per class above the threshold, or one row for its best class where none is.

    Args:
        recorder: gets the reports.
        images: scores and boxes of each image.
        candidates: the boxes that the suppression compares.
        excluded: why a score above the threshold gives no candidate.
        selected: the result of the suppression in each image.
    """
    assert candidates.sources is not None
    num_classes, first = candidates.num_classes, 0
    places = (candidates.sources * num_classes + candidates.classes).split(list(candidates.counts))
    for image, of_image in enumerate(images):
        above = of_image.is_above.flatten().nonzero().flatten()
        below = (~of_image.is_above.any(dim=1)).nonzero().flatten()
        best = of_image.scores[below].nan_to_num(nan=-torch.inf).argmax(dim=1) if len(below) else below
        rows = torch.cat((above, below * num_classes + best))
        sources, classes = rows // num_classes, rows % num_classes
        boxes = of_image.decode(sources, classes)
        reasons = torch.full(rows.shape, int(Fate.BELOW_THRESHOLD), dtype=torch.int8, device=rows.device)
        reasons[: len(above)] = int(excluded)
        is_finite = of_image.is_finite.expand_as(of_image.scores)[sources, classes] & boxes.isfinite().all(dim=1)
        reasons[~is_finite] = int(Fate.NOT_FINITE)
        report_selection(
            recorder,
            stage="boxes",
            image=image,
            image_size=of_image.image_size,
            boxes=box_ops.clip_to_image(boxes, of_image.image_size) if of_image.clips else boxes,
            scores=of_image.scores[sources, classes],
            classes=classes,
            sources=sources,
            reasons=reasons,
            selected=replace(selected[image], rows=torch.searchsorted(above, places[image] - first * num_classes)),
        )
        first += len(of_image.scores)
