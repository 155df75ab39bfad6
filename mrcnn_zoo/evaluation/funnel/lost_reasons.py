"""Why an object is lost at a stage: the reason, the box that it is about, and a sentence.

Nothing is computed again: fates, scores and suppressors are those that the stages report.
"""

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mrcnn_zoo.errors import counted
from mrcnn_zoo.modeling.recording import Fate, StageReport, StageValues
from mrcnn_zoo.ops import boxes as box_ops

ANCHORS, TOP_K, NMS, PROPOSALS = "anchors", "top-k", "nms", "proposals"  # names of stages
BOX_HEAD, SUPPRESSION, FINAL, FOUND = "box head", "suppression", "final", "found"
SHOWN_SIZES = 8  # of anchors, in sentences


class Reason(str, enum.Enum):
    """Why an object is lost."""

    FOUND = "found"
    NO_ANCHOR = "no anchor overlaps enough"
    NO_PROPOSAL = "no given proposal overlaps enough"
    NOT_FINITE = "not finite"
    TOO_SMALL = "box too small"
    CUT_BY_TOP_K = "cut by top-k"
    SUPPRESSED = "suppressed by a better box"
    BEYOND_PROPOSALS = "beyond the limit of proposals"
    MISCLASSIFIED = "misclassified"
    SCORED_TOO_LOW = "scored too low"
    TOO_LOOSE = "box too loose"
    BEYOND_DETECTIONS = "beyond the detection limit"
    TAKEN = "its detection is matched to another object"
    MASK_TOO_LOOSE = "mask below the IoU"


@dataclass(frozen=True)
class Loss:
    """Why one object is lost. Rows are those of the report of the stage, at "final" those of the detections."""

    reason: Reason
    sentence: str
    row: int = -1  # the box that is removed last
    score: float = math.nan  # of this box; for proposals the logit
    rank: int = -1  # of this box where a top-k or a limit removes it; 1 is the best
    predicted_class: int = -1  # of this box, in [0, K)
    rival: int = -1  # the box that suppresses it
    other_object: int = -1  # row of the targets that its detection is matched to


@dataclass(frozen=True)
class Stage:
    """The boxes of one image with which an object is alive after a stage."""

    name: str
    source: str  # key of the report or, for anchors and given proposals, of the values
    boxes: Tensor  # (R, 4) pixels of the resized image
    rows: Tensor | None = None  # (S,) int64 rows that count; None for all
    classes: Tensor | None = None  # (R,) int64 if the class must be that of the object


# Fates of boxes that reach the suppression, and others, in the order of the progress of a box.
PROGRESS = (Fate.NOT_FINITE, Fate.NOT_IN_TOP_K, Fate.TOO_SMALL, Fate.SUPPRESSED, Fate.BEYOND_LIMIT)
REASON_OF_FATE = {
    Fate.NOT_FINITE: Reason.NOT_FINITE,
    Fate.NOT_IN_TOP_K: Reason.CUT_BY_TOP_K,
    Fate.TOO_SMALL: Reason.TOO_SMALL,
    Fate.SUPPRESSED: Reason.SUPPRESSED,
}


class LossExplainer:
    """Explains the losses of one image at stages before the last.

    Args:
        reports: of the image, by stage.
        values: of the image, by stage.
        stages: of `stages_of`.
        truth: (G, 4) objects in pixels of the resized image.
        classes: (G,) of the objects.
        iou: least overlap.
        class_names: of the model, for sentences; may be empty.
    """

    def __init__(
        self,
        reports: Mapping[str, StageReport],
        values: Mapping[str, StageValues],
        stages: Sequence[Stage],
        truth: Tensor,
        classes: Sequence[int],
        *,
        iou: float,
        class_names: Sequence[str] = (),
    ) -> None:
        self.reports = reports
        self.values = values
        self.stages = stages
        self.truth = truth
        self.classes = classes
        self.iou = iou
        self.class_names = class_names

    def explain(self, place: int, number: int, best: tuple[float, int]) -> Loss:
        """Why an object is lost.

        Args:
            place: of the stage at which it is lost, in `stages`.
            number: row of the object.
            best: its largest IoU with a box of this stage, and the row of the box.
        """
        stage = self.stages[place]
        if stage.name == ANCHORS:
            return self._no_anchor(number, best)
        if stage.name in (TOP_K, NMS, SUPPRESSION):
            return self._selection(stage, number)
        if stage.name == BOX_HEAD:
            return self._box_head(number)
        overlap, row = best
        if stage.name == PROPOSALS:
            text = f"The best of {counted(len(stage.boxes), 'given proposal')} overlaps it by {overlap:.2f}."
            return Loss(Reason.NO_PROPOSAL, text, row)
        text = f"After the refinement of this stage the best box overlaps it by {overlap:.2f} only."
        return Loss(Reason.TOO_LOOSE, text, row)

    def name_of(self, class_index: int) -> str:
        """The name of a class in sentences.

        Args:
            class_index: in [0, K).
        """
        is_known = 0 <= class_index < len(self.class_names)
        return self.class_names[class_index] if is_known else f"class {class_index}"

    def _no_anchor(self, number: int, best: tuple[float, int]) -> Loss:
        overlap, row = best
        sides = self.truth[number, 2:] - self.truth[number, :2]
        width, height = (round(side) for side in sides.tolist())
        sizes, ratios = anchor_shapes(self.values[ANCHORS].values["boxes"])
        text = (
            f"The best anchor overlaps it by {overlap:.2f}; anchors of {_listed('ratio', ratios)} and "
            f"{_listed('size', sizes)} do not cover a box of {width} x {height} pixels (in the resized image)."
        )
        return Loss(Reason.NO_ANCHOR, text, row)

    def _overlaps(self, report: StageReport, number: int) -> Tensor:
        """(R,) with the boxes as detections have them, inside the image."""
        return overlaps_of(report_boxes(report), self.truth[[number]])[:, 0]

    def _selection(self, stage: Stage, number: int) -> Loss:
        """Boxes that a top-k, a suppression or a limit removes; the reason is that of the box that is removed last."""
        report = self.reports[stage.source]
        overlaps = self._overlaps(report, number)
        is_near = overlaps >= self.iou
        if stage.name == SUPPRESSION:
            is_near &= (report.classes == self.classes[number]) & (report.fates != Fate.BELOW_THRESHOLD)
        elif stage.name == TOP_K:
            is_near |= (report.fates == Fate.NOT_FINITE) & self._is_source_near(report, number)
        if not is_near.any():
            row = int(overlaps.argmax())
            text = f"Anchors overlap it enough, but the best of their boxes overlaps it by {float(overlaps[row]):.2f}."
            return Loss(Reason.TOO_LOOSE, text, row, float(report.scores[row]))
        row, fate = _furthest(report, is_near)
        score, overlap = float(report.scores[row]), float(overlaps[row])
        box = f"Its box (IoU {overlap:.2f}, {_score(report, row)})"
        if fate == Fate.SUPPRESSED:
            return _suppressed(report, row, overlaps)
        if fate == Fate.BEYOND_LIMIT:
            is_proposal = stage.name == NMS
            reason = Reason.BEYOND_PROPOSALS if is_proposal else Reason.BEYOND_DETECTIONS
            rank = 1 + int((report.scores[_survivors(report)] > score).sum())
            text = (
                f"{box} passes the suppression, but as number {rank:,} it is not among the best "
                f"{counted(len(report.kept), 'proposal' if is_proposal else 'detection')} of the image."
            )
            return Loss(reason, text, row, score, rank)
        if fate == Fate.NOT_IN_TOP_K and stage.name == TOP_K:
            own_level = report.classes == report.classes[row]
            rank = 1 + int((report.scores[own_level] > score).sum())
            text = f"{box}, number {rank:,} of the {int(own_level.sum()):,} boxes of its level, is cut by the top-k."
            return Loss(Reason.CUT_BY_TOP_K, text, row, score, rank)
        text = {
            Fate.NOT_FINITE: "The predictions of its box are not finite.",
            Fate.TOO_SMALL: f"{box} has a side that is not above the least size.",
            Fate.NOT_IN_TOP_K: f"{box} is cut by the top-k of its level.",
        }[fate]
        return Loss(REASON_OF_FATE[fate], text, row, score)

    def _is_source_near(self, report: StageReport, number: int) -> Tensor:
        """(R,) bool: whether the anchor or region of each row overlaps the object enough."""
        place = next((key for key in ("class scores", ANCHORS) if key in self.values), None)
        if place is None or (place == "class scores") != (report.stage == "boxes"):
            place = ANCHORS if ANCHORS in self.values else None
        if place is None:
            return torch.zeros_like(report.fates, dtype=torch.bool)
        sources = self.values[place].values["boxes"]
        return overlaps_of(sources, self.truth[[number]])[report.sources, 0] >= self.iou

    def _box_head(self, number: int) -> Loss:
        report, own = self.reports["boxes"], self.classes[number]
        overlaps = self._overlaps(report, number)
        is_finite = report.fates != Fate.NOT_FINITE
        is_near = overlaps >= self.iou
        if not (is_near & is_finite).any():
            broken = (~is_finite & (is_near | self._is_source_near(report, number))).nonzero().flatten()
            if len(broken):
                return Loss(Reason.NOT_FINITE, "The predictions of its regions are not finite.", int(broken[0]))
            row = int(overlaps.argmax()) if len(overlaps) else -1
            overlap = float(overlaps[row]) if row >= 0 else 0.0
            text = f"Regions overlap it enough, but the best box predicted for them overlaps it by {overlap:.2f}."
            return Loss(Reason.TOO_LOOSE, text, row)
        is_near &= is_finite
        is_confident = is_near & (report.fates != Fate.BELOW_THRESHOLD)
        if is_confident.any():
            row = int(report.scores.masked_fill(~is_confident, -math.inf).argmax())
            score, taken = float(report.scores[row]), int(report.classes[row])
            text = (
                f"Its box (IoU {float(overlaps[row]):.2f}) has the class {self.name_of(taken)} with score {score:.2f}, "
                f"not {self.name_of(own)}."
            )
            return Loss(Reason.MISCLASSIFIED, text, row, score, predicted_class=taken)
        return self._scored_too_low(report, number, is_near, overlaps)

    def _scored_too_low(self, report: StageReport, number: int, is_near: Tensor, overlaps: Tensor) -> Loss:
        own, scores = self.classes[number], report.scores
        if "class scores" in self.values:
            scores = self.values["class scores"].values["scores"][report.sources, own]
        else:
            is_own = is_near & (report.classes == own)
            is_near = is_own if is_own.any() else is_near
        row = int(scores.masked_fill(~is_near, -math.inf).argmax())
        score, taken = float(scores[row]), int(report.classes[row])
        limit = self.values["class scores"].settings["score_threshold"] if "class scores" in self.values else None
        name = self.name_of(own if "class scores" in self.values else taken)
        text = f"Its box (IoU {float(overlaps[row]):.2f}) has the score {score:.3f} for {name}"
        text += f"; the threshold is {limit:g}." if limit is not None else ", below the threshold."
        return Loss(Reason.SCORED_TOO_LOW, text, row, score, predicted_class=taken)


def report_boxes(report: StageReport) -> Tensor:
    """(R, 4) boxes of a report inside the image, as detections have them; RetinaNet clips at the end.

    Args:
        report: of any stage.
    """
    return box_ops.clip_to_image(report.boxes, report.image_size)


def overlaps_of(boxes: Tensor, truth: Tensor) -> Tensor:
    """IoU in [0, 1]; 0 for boxes that are not finite.

    Args:
        boxes: (R, 4).
        truth: (G, 4).

    Returns:
        (R, G).
    """
    return box_ops.iou(boxes.float(), truth).nan_to_num_(0.0)


def anchor_shapes(anchors: Tensor) -> tuple[list[float], list[float]]:
    """The sizes (square roots of the area) and ratios (height by width) of anchors, ascending.

    Args:
        anchors: (A, 4) pixels.
    """
    sides = torch.unique(((anchors[:, 2:] - anchors[:, :2]) * 64).round(), dim=0) / 64
    positive = [(width, height) for width, height in sides.tolist() if width > 0 and height > 0]
    sizes = {float(round(math.sqrt(width * height))) for width, height in positive}
    return sorted(sizes), sorted({round(height / width, 1) or round(height / width, 2) for width, height in positive})


def _listed(noun: str, values: Sequence[float]) -> str:
    shown = [f"{value:g}" for value in values]
    if len(shown) > SHOWN_SIZES:
        return f"{noun}s from {shown[0]} to {shown[-1]}"
    return f"{noun}{'s' if len(shown) > 1 else ''} {', '.join(shown)}"


def _score(report: StageReport, row: int) -> str:
    return f"{'objectness' if report.stage == 'proposals' else 'score'} {float(report.scores[row]):.2f}"


def _survivors(report: StageReport) -> Tensor:
    """(R,) bool: rows that pass the suppression, within the limit or beyond."""
    return (report.fates == Fate.KEPT) | (report.fates == Fate.BEYOND_LIMIT)


def _suppressed(report: StageReport, row: int, overlaps: Tensor) -> Loss:
    """A row that the suppression removes; overlaps are those of all rows with the object."""
    score, rival = float(report.scores[row]), int(report.suppressed_by[row])
    text = f"Its box (IoU {float(overlaps[row]):.2f}, {_score(report, row)}) is suppressed"
    if rival < 0:
        return Loss(Reason.SUPPRESSED, f"{text}; no kept box overlaps it.", row, score)
    between = float(box_ops.iou(report.boxes[[row]], report.boxes[[rival]]))
    text += (
        f" by a box ({_score(report, rival)}) that overlaps the box by {between:.2f}, but the object only by "
        f"{float(overlaps[rival]):.2f}."
    )
    return Loss(Reason.SUPPRESSED, text, row, score, rival=rival)


def _furthest(report: StageReport, is_near: Tensor) -> tuple[int, Fate]:
    """The row with the best score among those of the last fate."""
    for fate in reversed(PROGRESS):
        rows = (is_near & (report.fates == fate)).nonzero().flatten()
        if len(rows):
            return int(rows[report.scores[rows].nan_to_num(-math.inf).argmax()]), fate
    raise AssertionError("a kept box overlaps the object")
