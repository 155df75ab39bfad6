"""The recall funnel of a dataset: how many objects each stage of the detector still has, and why the others are lost.

Each prediction of the evaluation is recorded and traced at once; its reports are dropped before the next images.
"""

import inspect
import json
from collections.abc import Sequence

import torch
from torch import nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.masks import instance_area, segmentation_rle
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.distributed.processes import gather_on_main_process
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.funnel.advice import ModelSettings, TracedObject, advise, build_model_settings
from mrcnn_zoo.evaluation.funnel.lost_objects import ObjectTrace, trace_objects
from mrcnn_zoo.evaluation.funnel.lost_reasons import ANCHORS, BOX_HEAD, FINAL, NMS, PROPOSALS, SUPPRESSION, TOP_K
from mrcnn_zoo.evaluation.funnel.tables import (
    SIZES,
    alive_counts,
    class_table,
    funnel_content,
    metric_name,
    reason_table,
    stage_table,
)
from mrcnn_zoo.evaluation.ground_truth import BBOX, SEGM, RleMasks
from mrcnn_zoo.evaluation.metrics.contract import Evaluated, MetricReport
from mrcnn_zoo.modeling.recording import Recording
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.structures import Detections, Sample, Targets

KEY = "EVAL.FUNNEL"
FILE = "recall_funnel.json"
IOU = 0.5
TASKS = (BBOX, SEGM)
FUNNEL = "funnel"  # its name among the metrics of an evaluator
WITH_ANCHORS = ("RPN", "SeparateRPN", "MultiBox")  # values of MODEL.PROPOSAL_GENERATOR.NAME
PROPOSAL_NETWORK = "ProposalNetwork"  # the MODEL.META_ARCHITECTURE without classes
RETINANET, CASCADE = "RetinaNet", "CascadeROIHeads"


class RecallFunnel:
    """Traces the objects of all evaluated images; a metric of the evaluator that has it.

    Results: {"funnel_segm": {"anchors": ..., "top_k": ..., "final": ...}}, in percent of the objects; those of "final"
    are COCO's recall at IoU 0.5 with the objects of all classes counted alike.

    Args:
        dataset: the ground truth.
        tasks: "bbox", and "segm" if masks are evaluated.
        max_detections: maximum number per image and class that the evaluation counts.
        settings: of the model, for advice.
        stages: expected names of stages, for `names`.
        has_classes: False for proposals alone.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        tasks: Sequence[str],
        max_detections: int,
        settings: ModelSettings,
        stages: Sequence[str] = (),
        has_classes: bool = True,
    ) -> None:
        self._dataset = dataset
        self._tasks = tuple(task for task in tasks if task in TASKS)
        self._max_detections = max_detections
        self._settings = settings
        self._expected = tuple(stages)
        self._has_classes = has_classes
        self._records = {record.image_id: record for record in dataset.records}
        self._traced: dict[int | str, dict[str, list[TracedObject]]] = {}
        self._stages: dict[str, tuple[str, ...]] = {}
        self._strides: dict[str, int] = {}

    def predict(
        self, model: nn.Module, samples: list[Sample], mapping: Sequence[int] | None = None
    ) -> list[Detections]:
        """The detections of `model.predict`, of which all objects are traced.

        Args:
            model: a detector.
            samples: images of the dataset.
            mapping: class index of the dataset for each class of the model, see `class_mapping`; None if
                they are equal.

        Raises:
            UserError: the model has no recorder.
        """
        if "recorder" not in inspect.signature(model.predict).parameters:  # type: ignore[arg-type]
            raise UserError(
                f"{KEY} True needs a detector with `predict(samples, recorder)`, which {type(model).__name__} does not "
                f"have: set {KEY} False."
            )
        recording = Recording()
        found: list[Detections] = model.predict(samples, recorder=recording)  # type: ignore[operator]
        for image, (sample, table) in enumerate(zip(samples, found, strict=True)):
            if sample.image_id not in self._traced:
                self._traced[sample.image_id] = self._trace(recording, image, sample, table, mapping)
        return found

    def _trace(
        self, recording: Recording, image: int, sample: Sample, found: Detections, mapping: Sequence[int] | None
    ) -> dict[str, list[TracedObject]]:
        reports, values = recording.of_image(image), recording.values_of_image(image)
        if not reports:
            raise UserError(f"{KEY} True: no stage of the model reports its boxes. Set {KEY} False.")
        if "features" in values:
            self._strides = dict(values["features"].settings["strides"])
        record = self._records[sample.image_id]  # type: ignore[index]
        names = _names_of_model(self._dataset.class_names, mapping)
        traced = {}
        for task in self._tasks:
            objects, targets = _targets(record, task, mapping)
            traces = trace_objects(
                reports,
                values,
                found,
                targets,
                iou=IOU,
                task=task,
                max_detections=self._max_detections,
                class_names=names if self._has_classes else (),
            )
            if traces:
                self._stages[task] = tuple(traces[0].best)
            height, width = record.image_size
            scale = sample.image_size[1] / width, sample.image_size[0] / height
            traced[task] = [
                self._kept(record, item, trace, scale, names) for item, trace in zip(objects, traces, strict=True)
            ]
        return traced

    def _kept(
        self,
        record: ImageRecord,
        item: InstanceRecord,
        trace: ObjectTrace,
        scale: tuple[float, float],
        names: Sequence[str],
    ) -> TracedObject:
        area, loss = instance_area(item, record.image_size), trace.loss
        box = box_ops.scale(torch.tensor(item.box), x=scale[0], y=scale[1])
        predicted = -1 if loss is None else loss.predicted_class
        return TracedObject(
            image_id=record.image_id,
            annotation_id=item.annotation_id,
            class_name=self._dataset.class_names[item.class_index],
            size=next(name for name, largest in SIZES.items() if area <= largest),
            box=tuple(item.box),
            network_box=tuple(box.tolist()),
            stage=trace.stage,
            reason=trace.reason,
            sentence="" if loss is None else trace.sentence,
            ious=tuple(round(best.iou, 4) for best in trace.best.values()),
            predicted=names[predicted] if predicted >= 0 else "",
            score=float("nan") if loss is None else loss.score,
            rank=-1 if loss is None else loss.rank,
        )

    def gather(self) -> None:
        """Collect the traces of all processes on the main process."""
        for traced, stages, strides in reversed(gather_on_main_process((self._traced, self._stages, self._strides))):
            self._traced = self._traced | traced
            self._stages, self._strides = self._stages | stages, self._strides | strides

    def names(self, tasks: Sequence[str]) -> list[str]:
        """Names of the results.

        Args:
            tasks: that will be evaluated.
        """
        own = [task for task in self._tasks if task in tasks]
        return [f"funnel_{task}/{metric_name(stage)}" for task in own for stage in self._expected]

    def __call__(self, evaluated: Evaluated) -> MetricReport:  # noqa: ARG002
        """The tables, and a file with all objects.

        Args:
            evaluated: not used; objects are those that were traced.
        """
        results, texts, details, content = {}, [], [], {}
        for task in self._tasks:
            objects = self.objects(task)
            stages = self._stages.get(task, ())
            heading = f"## Recall funnel ({task}, IoU {IOU:g})"
            if not objects:
                texts.append(f"{heading}\n\nNo objects are annotated.")
                continue
            advice = advise(objects, self._settings, self._strides)
            counts = alive_counts(objects, stages)
            results[f"funnel_{task}"] = {
                metric_name(name): 100 * count / len(objects) for name, count in counts.items()
            }
            parts = [heading, stage_table(objects, stages), reason_table(objects, stages), advice]
            texts.append("\n\n".join(filter(None, parts)))
            if len(self._dataset.class_names) > 1:
                details.append(f"### Objects of each class after each stage ({task})\n\n{class_table(objects, stages)}")
            content[task] = funnel_content(objects, stages, counts, advice)
        images = {str(record.image_id): record.source.name for record in self._records.values()}
        text = json.dumps({"iou": IOU, "images": images, "tasks": content}) + "\n"
        return MetricReport(results, "\n\n".join(texts), {FILE: text}, "\n\n".join(details))

    def objects(self, task: str) -> list[TracedObject]:
        """All traced objects in the order of the dataset.

        Args:
            task: "bbox" or "segm".
        """
        images = [self._traced[i] for i in self._records if i in self._traced]
        return [item for image in images for item in image[task]]


def _names_of_model(names: Sequence[str], mapping: Sequence[int] | None) -> Sequence[str]:
    if mapping is None:
        return names
    return [names[row] if row >= 0 else f"class {index} of the model" for index, row in enumerate(mapping)]


def _targets(record: ImageRecord, task: str, mapping: Sequence[int] | None) -> tuple[list[InstanceRecord], Targets]:
    """The objects of an image that count in a task, with the model's classes; boxes as exact as COCO's."""
    objects = [
        item for item in record.instances if not item.is_crowd and (task == BBOX or item.segmentation is not None)
    ]
    classes = [item.class_index if mapping is None else list(mapping).index(item.class_index) for item in objects]
    masks = None
    if task == SEGM:
        encodings = [
            segmentation_rle(item.segmentation, record.image_size)  # type: ignore[arg-type]
            for item in objects
        ]
        masks = RleMasks(encodings, record.image_size)
    return objects, Targets(
        image_size=record.image_size,
        boxes=torch.tensor([item.box for item in objects], dtype=torch.float64).reshape(-1, 4),
        classes=torch.tensor(classes, dtype=torch.int64),
        masks=masks,  # type: ignore[arg-type]
    )


def funnel_of(evaluator: object) -> RecallFunnel:
    """The funnel of an evaluator that is built with EVAL.FUNNEL.

    Args:
        evaluator: of EVAL.EVALUATOR.

    Raises:
        UserError: the evaluator has none.
    """
    found = getattr(evaluator, "metrics", {}).get(FUNNEL)
    if not isinstance(found, RecallFunnel):
        raise UserError(
            f"{KEY} True needs an evaluation of detections by EVAL.EVALUATOR coco, but the {type(evaluator).__name__} "
            f"of this model has no recall funnel: set {KEY} False."
        )
    return found


def build_recall_funnel(
    cfg: CfgNode, dataset: Dataset, *, tasks: Sequence[str], max_detections: int
) -> dict[str, RecallFunnel]:
    """The funnel by its name among the metrics of an evaluator; empty unless EVAL.FUNNEL.

    Args:
        cfg: of the model and its evaluation.
        dataset: to be evaluated on.
        tasks: see `RecallFunnel`.
        max_detections: see `RecallFunnel`.

    Raises:
        UserError: detections are not those of one prediction per image.
    """
    if not cfg.EVAL.FUNNEL:
        return {}
    replacing = {"TEST.AUG.ENABLED": cfg.TEST.AUG.ENABLED, "EVAL.GIVEN_BOXES": cfg.EVAL.GIVEN_BOXES}
    for key, value in replacing.items():
        if value:
            raise UserError(
                f"{KEY} True traces the stages of one prediction per image, which {key} {value} replaces: set {key} "
                f"{type(value)()!r}, or {KEY} False."
            )
    funnel = RecallFunnel(
        dataset,
        tasks=tasks,
        max_detections=max_detections,
        settings=build_model_settings(cfg),
        stages=build_stage_names(cfg),
        has_classes=cfg.MODEL.META_ARCHITECTURE != PROPOSAL_NETWORK,
    )
    return {FUNNEL: funnel}


def build_stage_names(cfg: CfgNode) -> list[str]:
    """The stages of the model of a config, see `stages_of`."""
    model = cfg.MODEL
    if model.META_ARCHITECTURE == RETINANET:
        return [ANCHORS, BOX_HEAD, SUPPRESSION, FINAL]
    first = [ANCHORS, TOP_K, NMS] if model.PROPOSAL_GENERATOR.NAME in WITH_ANCHORS else [PROPOSALS]
    if model.META_ARCHITECTURE == PROPOSAL_NETWORK:
        return first
    cascade = len(model.ROI_BOX_CASCADE_HEAD.IOUS) - 1 if model.ROI_HEADS.NAME == CASCADE else 0
    return [*first, *(f"boxes of stage {stage}" for stage in range(cascade)), BOX_HEAD, SUPPRESSION, FINAL]
