"""What became of every box on its way through a detector: reports of the stages, and a recorder that keeps them.

    recording = Recording()
    detections = model.predict(samples, recorder=recording)
    for report in recording.reports: print(report.stage, report.image, report.counts())

The stages compute the same without a recorder; what the reports add is computed for a recorder alone.
"""

import enum
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from mrcnn_zoo.modeling.contracts import Candidates
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.structures import Detections, ImageSize


class Fate(enum.IntEnum):
    """Whether a stage keeps a box, or why it does not."""

    KEPT = 0
    NOT_FINITE = 1  # a prediction is infinite or not a number
    BELOW_THRESHOLD = 2  # the score is not above the score threshold
    NOT_IN_TOP_K = 3  # others on its level have better scores
    TOO_SMALL = 4  # a side is not above the least size
    SUPPRESSED = 5  # by the suppression, most often for another box
    BEYOND_LIMIT = 6  # there are more boxes than an image may have


@dataclass(frozen=True)
class StageReport:
    """What one stage has done with its boxes of one image.

    A box that a stage scores for several classes has a row for every class above the threshold, or one for its best
    class where none is.
    """

    stage: str  # e.g. "proposals", "boxes"
    image: int  # row of the batch
    image_size: ImageSize  # (height, width) of the pixels that the boxes are in
    boxes: Tensor  # (R, 4) pixels, as the stage would hand them on
    scores: Tensor  # (R,) what the stage ranks by
    classes: Tensor  # (R,) int64 in [0, K); of proposals the pyramid level
    sources: Tensor  # (R,) int64 the anchor, or the row of what the stage before has kept, that each row comes from
    fates: Tensor  # (R,) int8, a `Fate` each
    # (R,) int64 row of the kept box that suppressed this one; -1 for other fates, and where none that is kept overlaps
    # it: scores below SOFT_NMS_MIN_SCORE, or what a learned suppression drops on its own.
    suppressed_by: Tensor
    kept: Tensor  # (S,) int64 rows that stay, in the order in which they are handed on

    def counts(self) -> dict[str, int]:
        """How many rows have each fate, by its name; fates of no row are left out."""
        found = torch.bincount(self.fates.long(), minlength=len(Fate)).tolist()
        return {fate.name.lower(): found[fate] for fate in Fate if found[fate]}


class Recorder(Protocol):
    """Takes the reports of the stages; see `predict` of a detector."""

    def add(self, report: StageReport) -> None:
        """Take the report of one stage on one image, in the order of the stages."""
        ...


@dataclass
class Recording:
    """A recorder that keeps all reports."""

    reports: list[StageReport] = field(default_factory=list)

    def add(self, report: StageReport) -> None:
        """Keep the report."""
        self.reports.append(report)

    def of_image(self, image: int) -> dict[str, StageReport]:
        """The reports on one image of the batch, by stage."""
        return {report.stage: report for report in self.reports if report.image == image}


def recorded(method: Callable[..., Any], *args: Any, recorder: Recorder | None) -> Any:
    """Call a component with the recorder; one that takes none is called without, and has no report."""
    if recorder is None or "recorder" not in inspect.signature(method).parameters:
        return method(*args)
    return method(*args, recorder=recorder)


@dataclass(frozen=True)
class Selected:
    """Which of the boxes of one image a selection has compared, and which it has kept."""

    rows: Tensor  # (T,) int64 rows of all boxes that came to the suppression
    kept: Tensor  # (S,) int64 in [0, T), best first, before the limit
    suppressors: Tensor  # (T,) int64 in [0, T), or -1: which kept one stands for each
    limit: int | None  # how many of the kept stay


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
    """Report a stage that compares boxes and keeps the best.

    Args:
        recorder: gets the report.
        stage: its name.
        image: row of the batch.
        image_size: (height, width).
        boxes: (R, 4) pixels.
        scores: (R,).
        classes: (R,) int64.
        sources: (R,) int64.
        reasons: (R,) int8, why each row did not come to the suppression; those that did are overwritten.
        selected: the others.
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
    """Report a stage that moves or rescores boxes, on each image: all stay, or all but empty ones.

    Args:
        recorder: gets the reports.
        detections: of each image, before any is dropped.
        stage: its name.
        orders: (R_i,) int64 rows in the order in which they are handed on; None keeps theirs.
        drops_empty: whether boxes without width or height go.
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
            boxes=clip_boxes_to_image(boxes, of_image.image_size) if of_image.clips else boxes,
            scores=of_image.scores[sources, classes],
            classes=classes,
            sources=sources,
            reasons=reasons,
            selected=replace(selected[image], rows=torch.searchsorted(above, places[image] - first * num_classes)),
        )
        first += len(of_image.scores)
