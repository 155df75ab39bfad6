"""Ground truth of an X-ray page: each object with the detection that finds it, or the stage at which it is lost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from mrcnn_zoo.data.masks import segmentation_rle
from mrcnn_zoo.data.records import ImageRecord, InstanceRecord
from mrcnn_zoo.evaluation.funnel.lost_objects import ObjectTrace, trace_objects
from mrcnn_zoo.evaluation.funnel.lost_reasons import ANCHORS, FINAL, FOUND, NMS, PROPOSALS, SUPPRESSION, TOP_K, Reason
from mrcnn_zoo.evaluation.ground_truth import BBOX, SEGM, bitmaps_of_rles
from mrcnn_zoo.modeling.recording import Recording, StageReport
from mrcnn_zoo.ops.rle import Rle
from mrcnn_zoo.structures import Detections, Targets

# The step of the page that shows a stage of `trace_objects`.
STEPS = {
    ANCHORS: "anchors",
    TOP_K: "anchors",
    NMS: "nms",
    PROPOSALS: "levels",
    SUPPRESSION: "classnms",
    FINAL: "result",
}

STEPS_OF_REASONS = {Reason.MASK_TOO_LOOSE: "soft", Reason.CUT_BY_TOP_K: "anchors"}
MAX_DETECTIONS = 100  # of COCO


@dataclass(frozen=True)
class XrayObject:
    """An annotated object.

    Args:
        name: of its class.
        box: x1, y1, x2, y2 in pixels of the image file.
        mask: run lengths in pixels of the image file; None for an object without mask.
        is_crowd: whether it stands for several objects.
        state: "found", "lost", or "" where that is unknown.
        text: a sentence about it.
        step: of the page that shows why.
        detection: row of the detection that finds it, or -1.
        best: the largest IoU of each stage, by name.
        rows: of the reports, by stage, that the sentence is about.
    """

    name: str
    box: tuple[float, float, float, float]
    mask: Rle | None = None
    is_crowd: bool = False
    state: str = ""
    text: str = ""
    step: str = "result"
    detection: int = -1
    best: Mapping[str, float] = field(default_factory=dict)
    rows: Mapping[str, Sequence[int]] = field(default_factory=dict)


def xray_objects(
    record: ImageRecord,
    names: Sequence[str],
    recording: Recording,
    detections: Detections,
    model_names: Sequence[str],
    *,
    max_detections: int = MAX_DETECTIONS,
) -> list[XrayObject]:
    """The objects of an image with their traces; crowds and objects of classes that the model lacks have none.

    Args:
        record: with annotations.
        names: of its classes, by index.
        recording: of a prediction of this image alone.
        detections: its result.
        model_names: of the model's classes, by index.
        max_detections: per class, that count when detections are matched with objects; -1 for all.
    """
    masks = [_mask_of(item, record) for item in record.instances]
    is_proposal_network = "boxes" not in recording.of_image(0)
    indices = [0] * len(names) if is_proposal_network else matching_classes(names, model_names)
    objects = [
        XrayObject(names[item.class_index], item.box, mask, item.is_crowd, text=_untraced(item, indices))
        for item, mask in zip(record.instances, masks, strict=True)
    ]
    places = [place for place, item in enumerate(objects) if not item.text]
    classes = [indices[record.instances[place].class_index] for place in places]
    has_masks = detections.masks is not None and all(masks[place] is not None for place in places)
    targets = _targets(record, [objects[place] for place in places], classes, has_masks=has_masks)
    traces = trace_objects(
        recording.of_image(0),
        recording.values_of_image(0),
        detections,
        targets,
        task=SEGM if has_masks else BBOX,
        max_detections=max_detections if max_detections > 0 else len(detections),
        class_names=model_names,
    )
    for place, trace in zip(places, traces, strict=True):
        objects[place] = _traced(objects[place], trace, recording.of_image(0), detections, has_masks=has_masks)
    return objects


def matching_classes(names: Sequence[str], model_names: Sequence[str]) -> list[int]:
    """The class of the model with the same name, or -1; an only class is that of a model with an only class.

    Args:
        names: of the dataset's classes.
        model_names: of the model's classes, by index.
    """
    if len(names) == len(model_names) == 1:
        return [0]
    return [model_names.index(name) if name in model_names else -1 for name in names]


def _mask_of(item: InstanceRecord, record: ImageRecord) -> Rle | None:
    return None if item.segmentation is None else segmentation_rle(item.segmentation, record.image_size)


def _untraced(item: InstanceRecord, indices: Sequence[int]) -> str:
    if item.is_crowd:
        return "a crowd, which is not traced"
    return "" if indices[item.class_index] >= 0 else "the model has no class of this name"


def _targets(record: ImageRecord, objects: Sequence[XrayObject], classes: Sequence[int], *, has_masks: bool) -> Targets:
    """Targets in pixels of the image file."""
    return Targets(
        image_size=record.image_size,
        boxes=torch.tensor([item.box for item in objects], dtype=torch.float32).reshape(-1, 4),
        classes=torch.tensor(classes, dtype=torch.int64),
        masks=bitmaps_of_rles([item.mask for item in objects], record.image_size) if has_masks else None,
    )


def _traced(
    item: XrayObject,
    trace: ObjectTrace,
    reports: Mapping[str, StageReport],
    detections: Detections,
    *,
    has_masks: bool,
) -> XrayObject:
    best = {name: of_stage.iou for name, of_stage in trace.best.items()}
    traced = replace(item, best=best, rows=_rows_of(trace, reports))
    if trace.stage == FOUND and trace.detection < 0:  # of a proposal network
        return replace(traced, state=FOUND, text=trace.sentence)
    if trace.stage == FOUND:
        kind = "mask IoU" if has_masks else "IoU"
        score = float(detections.scores[trace.detection])
        text = f"found by detection #{trace.detection + 1} ({kind} {best[FINAL]:.2f}, score {score:.2f})"
        return replace(traced, state=FOUND, text=text, detection=trace.detection)
    step = STEPS.get(trace.stage, "boxes")
    if trace.reason in (Reason.MISCLASSIFIED, Reason.SCORED_TOO_LOW):
        step = "classes" if "proposals" in reports else "scores"
    elif trace.reason in STEPS_OF_REASONS:
        step = STEPS_OF_REASONS[trace.reason]
    text = f"lost at {trace.stage}: {trace.reason.value}. {trace.sentence}"
    return replace(traced, state="lost", text=text, step=step)


def _rows_of(trace: ObjectTrace, reports: Mapping[str, StageReport]) -> dict[str, list[int]]:
    """The rows of each report that the sentence is about; of other reports the best row for the object."""
    first, last = (list(reports.values())[place] for place in (0, -1))
    found: dict[str, list[int]] = {}
    for of_stage in trace.best.values():
        if of_stage.row < 0:
            continue
        if of_stage.source in reports:
            found[of_stage.source] = [of_stage.row]
        elif of_stage.source == ANCHORS:
            found[first.stage] = (first.sources == of_stage.row).nonzero().flatten().tolist()[:1]
        elif of_stage.source == "detections":
            found[last.stage] = [int(last.kept[of_stage.row])]
    loss: Any = trace.loss
    if loss is not None and loss.row >= 0:
        source = trace.best[trace.stage].source
        rows = [row for row in (loss.row, loss.rival) if row >= 0]
        if source in reports:
            found[source] = rows
        elif source == "detections":
            found[last.stage] = [int(last.kept[row]) for row in rows]
    return found
