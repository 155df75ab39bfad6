"""The stage at which each object of an image is lost, and why.

    recording = Recording()
    (found,) = model.predict([sample], recorder=recording)
    for trace in trace_objects(recording.of_image(0), recording.values_of_image(0), found, targets):
        print(trace.stage, trace.reason.value, trace.sentence)

An object is alive after a stage if a box of the stage overlaps it enough. It is lost at the stage after the last one at
which it is alive: a box of IoU 0.45 that a later stage refines to 0.7 is not lost before. So the objects alive after
each stage only become fewer, and all losses and the found objects sum to the objects.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrcnn_zoo.evaluation.funnel.lost_reasons import (
    ANCHORS,
    BOX_HEAD,
    FINAL,
    FOUND,
    NMS,
    PROPOSALS,
    SUPPRESSION,
    TOP_K,
    Loss,
    LossExplainer,
    Reason,
    Stage,
    overlaps_of,
    report_boxes,
)
from mrcnn_zoo.evaluation.ground_truth import BBOX, SEGM
from mrcnn_zoo.evaluation.metrics.overlaps import overlap_matrix, score_of
from mrcnn_zoo.evaluation.result_rows import Row, rows_of_detections
from mrcnn_zoo.modeling.recording import Fate, StageReport, StageValues
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.structures import BoxedBitmaps, Detections, ImageSize, Targets

OBJECTS_AT_ONCE = 64  # with 268,569 anchors 70 MB of overlaps
MATCH_EPSILON = 1e-10  # pycocotools matches at min(IoU, 1 - 1e-10)


@dataclass(frozen=True)
class StageBest:
    """The best box of one stage for one object."""

    source: str  # key of the report or the values that have the box: "anchors", "proposals", "boxes", ... "detections"
    row: int  # there; -1 if no box overlaps the object
    iou: float  # with the object; of masks for "final" of "segm"


@dataclass(frozen=True)
class ObjectTrace:
    """The way of one object through the stages."""

    object: int  # row of the targets
    class_index: int
    stage: str  # at which it is lost, or FOUND
    reason: Reason
    sentence: str
    best: Mapping[str, StageBest]  # by stage, in the order of the stages
    loss: Loss | None = None  # None if found
    detection: int = -1  # row of the detections that finds it


def trace_objects(
    reports: Mapping[str, StageReport],
    values: Mapping[str, StageValues],
    detections: Detections,
    targets: Targets,
    *,
    iou: float = 0.5,
    task: str = BBOX,
    max_detections: int = 100,
    class_names: Sequence[str] = (),
) -> list[ObjectTrace]:
    """Trace all objects of one image.

    The last stage, "final", is COCO's matching with class, score and maximum number of detections. Crowds do not change
    which objects it matches, so targets have none. Proposal networks have no class; their last stage is "nms".

    Args:
        reports: of the image by stage, see `Recording.of_image`.
        values: of the image by stage, see `Recording.values_of_image`.
        detections: as `predict` returns them, in pixels of the original image.
        targets: G objects in pixels of the original image, without crowds; for "segm" with masks.
        iou: least overlap.
        task: "bbox" or "segm"; masks count at the last stage alone.
        max_detections: maximum number per class, in descending order of score, that COCO's matching uses.
        class_names: of the model, for sentences.

    Returns:
        G traces.

    Raises:
        ValueError: there are no reports, or no masks for "segm".
    """
    size = _size_of_boxes(reports, values)
    stages = stages_of(reports, values)
    if not stages:
        raise ValueError("no stage reports its boxes: call predict with a recorder")
    if not len(targets):
        return []
    device = stages[0].boxes.device
    (height, width), (own_height, own_width) = size, targets.image_size
    truth = box_ops.scale(targets.boxes.double(), x=width / own_width, y=height / own_height).float().to(device)
    classes = targets.classes.tolist()
    best = {stage.name: _best_boxes(stage, truth, targets.classes.to(device)) for stage in stages}
    explainer = LossExplainer(reports, values, stages, truth, classes, iou=iou, class_names=class_names)
    last = None
    if "boxes" in reports:
        last = FinalMatching.of(detections, targets, iou=iou, task=task, max_detections=max_detections)
    return [_trace(number, explainer, best, last) for number in range(len(targets))]


def _trace(
    number: int,
    explainer: LossExplainer,
    best: Mapping[str, tuple[list[float], list[int]]],
    last: "FinalMatching | None",
) -> ObjectTrace:
    stages = explainer.stages
    by_stage = {
        stage.name: StageBest(stage.source, best[stage.name][1][number], best[stage.name][0][number])
        for stage in stages
    }
    is_alive = [by_stage[stage.name].iou >= explainer.iou for stage in stages]
    detection = -1
    if last is not None:
        detection = int(last.matches[number])
        by_stage[FINAL] = last.best(number)
        is_alive.append(detection >= 0)
    place = max((place for place, alive in enumerate(is_alive) if alive), default=-1) + 1
    own = explainer.classes[number]
    if place == len(is_alive):
        text = "A proposal overlaps it enough." if last is None else last.found(number)
        return ObjectTrace(number, own, FOUND, Reason.FOUND, text, by_stage, None, detection)
    if place == len(stages):
        assert last is not None
        name, loss = FINAL, last.explain(number)
    else:
        name = stages[place].name
        loss = explainer.explain(place, number, (by_stage[name].iou, by_stage[name].row))
    return ObjectTrace(number, own, name, loss.reason, loss.sentence, by_stage, loss)


def _size_of_boxes(reports: Mapping[str, StageReport], values: Mapping[str, StageValues]) -> ImageSize:
    """The size of the resized image, whose pixels all boxes but those of "original size" are in."""
    sizes = [values[ANCHORS].image_size] if ANCHORS in values else []
    return [*sizes, *(report.image_size for report in reports.values()), (1, 1)][0]


def stages_of(reports: Mapping[str, StageReport], values: Mapping[str, StageValues]) -> list[Stage]:
    """The stages of one image before the last, in order; those that a detector does not have are left out.

    Args:
        reports: of the image by stage.
        values: of the image by stage.
    """
    stages = []
    if ANCHORS in values:
        stages.append(Stage(ANCHORS, ANCHORS, values[ANCHORS].values["boxes"]))
    if "proposals" in reports:
        report = reports["proposals"]
        boxes = report_boxes(report)
        is_in = (report.fates != Fate.NOT_IN_TOP_K) & (report.fates != Fate.NOT_FINITE)
        stages += [Stage(TOP_K, "proposals", boxes, is_in.nonzero().flatten())]
        stages += [Stage(NMS, "proposals", boxes, report.kept)]
    elif "box pooling" in values:
        stages.append(Stage(PROPOSALS, "box pooling", values["box pooling"].values["boxes"]))
    stages += [Stage(name, name, report.boxes) for name, report in reports.items() if name.startswith("boxes of stage")]
    if "boxes" in reports:
        report = reports["boxes"]
        boxes = report_boxes(report)
        is_in = (report.fates != Fate.BELOW_THRESHOLD) & (report.fates != Fate.NOT_FINITE)
        stages += [Stage(BOX_HEAD, "boxes", boxes, is_in.nonzero().flatten(), report.classes)]
        stages += [Stage(SUPPRESSION, "boxes", boxes, report.kept, report.classes)]
    return stages


def _best_boxes(stage: Stage, truth: Tensor, classes: Tensor) -> tuple[list[float], list[int]]:
    """The largest IoU of each object with a box that counts, and the row of the box, -1 if none overlaps."""
    rows = stage.rows
    boxes = stage.boxes if rows is None else stage.boxes[rows]
    box_classes = stage.classes if rows is None or stage.classes is None else stage.classes[rows]
    if not len(boxes):
        return [0.0] * len(truth), [-1] * len(truth)
    ious, places = [], []
    for part, own in zip(truth.split(OBJECTS_AT_ONCE), classes.split(OBJECTS_AT_ONCE), strict=True):
        overlaps = overlaps_of(boxes, part)
        if box_classes is not None:
            overlaps.masked_fill_(box_classes[:, None] != own, 0)
        best = overlaps.max(dim=0)
        ious.append(best.values)
        places.append(torch.where(best.values > 0, best.indices if rows is None else rows[best.indices], -1))
    return torch.cat(ious).tolist(), torch.cat(places).tolist()


@dataclass(frozen=True)
class FinalMatching:
    """COCO's matching of the detections of one image with its objects at one IoU.

    Source: pycocotools, `COCOeval.evaluateImg`: detections in descending order of score take the free object of their
    class with the highest IoU.
    """

    overlaps: NDArray[np.float64]  # (D, G), of the task
    box_overlaps: NDArray[np.float64]  # (D, G)
    same_class: NDArray[np.bool_]  # (D, G)
    scores: NDArray[np.float64]  # (D,)
    counts: NDArray[np.bool_]  # (D,) whether a detection is within the limit of its class
    matches: NDArray[np.int64]  # (G,) rows of detections, -1 where none
    iou: float
    task: str

    @classmethod
    def of(
        cls, detections: Detections, targets: Targets, *, iou: float, task: str, max_detections: int
    ) -> "FinalMatching":
        """Match; arguments as `trace_objects`."""
        rows = rows_of_detections(detections, 0, category_ids=range(2**31), tasks=(task,))
        objects = _annotations(targets, task)
        no_crowd = np.zeros(len(objects), dtype=bool)
        overlaps = overlap_matrix(rows, objects, task, no_crowd)
        boxes = overlaps if task == BBOX else overlap_matrix(rows, objects, BBOX, no_crowd)
        scores = np.array([score_of(row, task) for row in rows], dtype=np.float64)
        found, own = detections.classes.cpu().numpy(), targets.classes.cpu().numpy()
        order = np.argsort(-scores, kind="mergesort")
        counts = np.zeros(len(rows), dtype=bool)
        for class_index in np.unique(found):
            counts[order[found[order] == class_index][:max_detections]] = True
        same_class = np.equal(found[:, None], own[None])
        matches = np.full(len(objects), -1, dtype=np.int64)
        least = min(iou, 1 - MATCH_EPSILON)
        for row in order[counts[order]]:
            is_free = same_class[row] & (matches < 0) & (overlaps[row] >= least)
            if is_free.any():
                values = np.where(is_free, overlaps[row], -1.0)
                matches[len(values) - 1 - int(values[::-1].argmax())] = row  # of equal overlaps the last object
        return cls(overlaps, boxes, same_class, scores, counts, matches, iou, task)

    def best(self, number: int) -> StageBest:
        """The detection that finds an object, or the one of its class with the largest overlap.

        Args:
            number: row of the object.
        """
        row = int(self.matches[number])
        if row < 0 and len(self.overlaps):
            own = np.where(self.same_class[:, number], self.overlaps[:, number], 0.0)
            row = int(own.argmax()) if own.max() > 0 else -1
        return StageBest("detections", row, float(self.overlaps[row, number]) if row >= 0 else 0.0)

    def found(self, number: int) -> str:
        """A sentence on a found object.

        Args:
            number: row of the object.
        """
        row = int(self.matches[number])
        of_masks = "mask " if self.task == SEGM else ""
        return f"Found with score {self.scores[row]:.2f} and {of_masks}IoU {self.overlaps[row, number]:.2f}."

    def explain(self, number: int) -> Loss:
        """Why an object has no detection, though a kept box of its class overlaps it enough.

        Args:
            number: row of the object, which is not matched.
        """
        near = np.flatnonzero(self.same_class[:, number] & (self.overlaps[:, number] >= self.iou))
        if not len(near):
            return self._too_loose(number)
        row = int(near[self.scores[near].argmax()])
        score = float(self.scores[row])
        taken = near[self.counts[near]]
        if not len(taken):
            own = self.same_class[:, number]
            limit, rank = int((self.counts & own).sum()), 1 + int((self.scores[own] > score).sum())
            text = f"Its detection (score {score:.2f}) is number {rank} of its class; the evaluation counts {limit}."
            return Loss(Reason.BEYOND_DETECTIONS, text, row, score, rank)
        row = int(taken[self.scores[taken].argmax()])
        score, overlap = float(self.scores[row]), float(self.overlaps[row, number])
        other = int(np.flatnonzero(self.matches == row)[0])
        text = (
            f"Its detection (score {score:.2f}) overlaps it by {overlap:.2f}, but finds another object, which it "
            f"overlaps by {self.overlaps[row, other]:.2f}."
        )
        return Loss(Reason.TAKEN, text, row, score, other_object=other)

    def _too_loose(self, number: int) -> Loss:
        boxes = np.where(self.same_class[:, number], self.box_overlaps[:, number], 0.0)
        row = int(boxes.argmax()) if len(boxes) else -1
        if self.task == SEGM and row >= 0 and boxes[row] >= self.iou:
            near = np.flatnonzero(boxes >= self.iou)
            row = int(near[self.overlaps[near, number].argmax()])
            mask, box = self.overlaps[row, number], boxes[row]
            text = f"The mask of its detection overlaps it by {mask:.2f} only, while their boxes overlap by {box:.2f}."
            return Loss(Reason.MASK_TOO_LOOSE, text, row, float(self.scores[row]))
        overlap = boxes[row] if row >= 0 else 0.0
        return Loss(Reason.TOO_LOOSE, f"The best box of its class overlaps it by {overlap:.4f}.", row)


def _annotations(targets: Targets, task: str) -> list[Row]:
    """The objects as annotations of COCO, for overlaps."""
    corners = targets.boxes.detach().cpu().double().numpy()
    objects: list[dict[str, Any]] = [{"bbox": [x1, y1, x2 - x1, y2 - y1]} for x1, y1, x2, y2 in corners.tolist()]
    if task != SEGM:
        return objects
    if targets.masks is None:
        raise ValueError("masks are traced (task 'segm'), but the targets have none")
    encode = getattr(targets.masks, "rles", None)
    rles = encode() if encode is not None else BoxedBitmaps.from_full(targets.masks.bitmaps()).rles()
    return [item | {"segmentation": rle} for item, rle in zip(objects, rles, strict=True)]
