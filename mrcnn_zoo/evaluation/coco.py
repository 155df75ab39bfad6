"""COCO's box, mask and keypoint AP of the detections of a whole dataset."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.rules import is_classifier
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.distributed.processes import gather_on_main_process, results_of_main_process
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.evaluation.ap_intervals import Bootstrap, image_groups, interval_results
from mrcnn_zoo.evaluation.backends import KEYPOINTS, Backend, Curves, Matches, areas_of, build_backend
from mrcnn_zoo.evaluation.class_parts import curves_by_parts
from mrcnn_zoo.evaluation.classification import ClassificationEvaluator, build_classification_evaluator
from mrcnn_zoo.evaluation.funnel.recall_funnel import PROPOSAL_NETWORK, build_recall_funnel
from mrcnn_zoo.evaluation.ground_truth import BBOX, SEGM, complete_ground_truth, has_masks, new_images
from mrcnn_zoo.evaluation.metrics.contract import (
    Evaluated,
    GathersParts,
    Metric,
    NamesResults,
    build_metrics,
    check_metrics,
    measure,
    warn_of_omitted,
)
from mrcnn_zoo.evaluation.operating_points import MATCH_IOU, THRESHOLDS_FILE, best_point, find_thresholds
from mrcnn_zoo.evaluation.proposals import ProposalEvaluator, build_proposal_evaluator
from mrcnn_zoo.evaluation.result_rows import ROWS_FILE, PackedRows, Row, RowsOfImages, rows_of_detections, write_results
from mrcnn_zoo.evaluation.tables import (
    Intervals,
    Results,
    category_table,
    coco_metric_names,
    coco_metrics,
    footnote,
    markdown_report,
    summary_table,
)
from mrcnn_zoo.ops.memory import garbage_collection_paused
from mrcnn_zoo.output_files import nan_as_null, write_arrays, write_json, write_text
from mrcnn_zoo.registries import EVALUATORS
from mrcnn_zoo.structures import Detections, Sample

STANDARD_LIMITS = (1, 10)  # AR1 and AR10
STANDARD_MAXIMUM = 100  # maximum number of detections per image on COCO's leaderboard
KEYPOINT_MAXIMUM = 20  # of the keypoint task, independent of the number of detections
COCO_KEYPOINTS = 17  # of persons; the libraries have their sigmas
DEFAULT_SIGMA = 0.05  # of other keypoints; those of COCO are between 0.025 and 0.107

logger = logging.getLogger(__name__)


class CocoEvaluator:
    """COCO's AP of boxes, masks and keypoints; masks are stored run-length encoded.

    Each process collects the detections of its images; `evaluate` gathers them.

    Args:
        dataset: the ground truth.
        backend: computes precision and recall; one of AP_BACKENDS.
        tasks: of "bbox", "segm" and "keypoints".
        max_detections: maximum number per image, in descending order of score; 20 for keypoints.
        sigmas: of each keypoint, see TEST.KEYPOINT_OKS_SIGMAS; empty for COCO's 17.
        metrics: beside COCO's, by name; see `mrcnn_zoo.evaluation.metrics.contract`.
        bootstrap: computes intervals of AP; None for none.
        notes: of what is not measured, logged by `check_dataset`.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        backend: Backend,
        tasks: Sequence[str] = (BBOX, SEGM),
        max_detections: int = STANDARD_MAXIMUM,
        sigmas: Sequence[float] = (),
        metrics: Mapping[str, Metric] | None = None,
        bootstrap: Bootstrap | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self._dataset = dataset
        self._backend = backend
        self._tasks = tuple(tasks)
        self._sigmas = tuple(sigmas)
        self._limits = sorted({*(limit for limit in STANDARD_LIMITS if limit < max_detections), max_detections})
        self.metrics = dict(metrics or {})
        self._bootstrap = bootstrap or Bootstrap()
        self._notes = tuple(notes)
        self._image_ids = {record.image_id for record in dataset.records}
        self._rows: dict[int | str, PackedRows] = {}
        self._previous: Results = {}
        self.score_thresholds: dict[str, float] = {}  # by class name, see `find_thresholds`; set by `evaluate`

    @property
    def max_detections(self) -> int:
        """Maximum number of detections per image and class that count for boxes and masks."""
        return self._limits[-1]

    def show_changes_to(self, previous: Results) -> None:
        """Show the change of AP in the logged table.

        Args:
            previous: results of an earlier evaluation.
        """
        self._previous = previous

    def metric_names(self) -> list[str]:
        """Names of the results of `evaluate`, such as "segm/AP"."""
        names = [
            f"{task}/{name}"
            for task in self._tasks
            for name in coco_metric_names(
                areas=areas_of(task), limits=self._limits_of(task), class_names=self._dataset.class_names
            )
        ]
        others = (metric for metric in self.metrics.values() if isinstance(metric, NamesResults))
        return names + [name for metric in others for name in metric.names(self._tasks)]

    def check_dataset(self) -> None:
        """Warn of what is not measured, once, before the first evaluation.

        Raises:
            UserError: a metric cannot measure the dataset.
        """
        for note in self._notes:
            logger.warning("%s", note)
        check_metrics(self.metrics, self._dataset)
        warn_of_omitted(self.metrics, self._tasks, self._dataset.name)

    def process(self, samples: Sequence[Sample], detections: Sequence[Detections]) -> None:
        """Add the detections of some images; images that were added before are ignored.

        Args:
            samples: N images of the dataset.
            detections: per image, in pixels of the original image.

        Raises:
            ValueError: an image is not in the dataset.
            UserError: a class is not in the dataset, or masks or keypoints are missing.
        """
        images = new_images(samples, detections, self._dataset, known=self._image_ids, added=self._rows)
        for sample, found in images:
            self._check_classes(found)
            rows = rows_of_detections(
                found, sample.image_id, category_ids=self._dataset.category_ids, tasks=self._tasks
            )
            self.add_rows(sample.image_id, rows)

    def add_rows(self, image_id: int | str, rows: Sequence[Row]) -> None:
        """Add the rows of an image of a COCO results file.

        Args:
            image_id: of the dataset.
            rows: with the columns of all tasks.
        """
        self._rows[image_id] = PackedRows.of(rows)

    @garbage_collection_paused()
    def evaluate(self, output_dir: str | Path | None = None) -> Results:
        """Metrics by task in percent, on every process; process 0 logs tables and writes files.

        Args:
            output_dir: folder of `inference/`; None writes no files.
        """
        parts = gather_on_main_process(self._rows)
        for metric in self.metrics.values():
            if isinstance(metric, GathersParts):
                metric.gather()
        folder = None if output_dir is None else Path(output_dir) / "inference"
        results, self.score_thresholds = results_of_main_process(lambda: self._measure(parts, folder))
        return results

    def _check_classes(self, found: Detections) -> None:
        highest = max(found.classes.tolist(), default=0)
        if highest >= len(self._dataset.class_names):
            raise UserError(
                f"The model predicts class {highest}, but {self._dataset.name} has "
                f"{counted(len(self._dataset.class_names), 'class')}. Evaluate it on a dataset with its classes; "
                "a model with more classes needs class names, by which they are matched."
            )

    def _measure(
        self, parts: Sequence[dict[int | str, PackedRows]], folder: Path | None
    ) -> tuple[Results, dict[str, float]]:
        by_image = {image_id: packed for part in reversed(parts) for image_id, packed in part.items()}
        evaluated_ids = [record.image_id for record in self._dataset.records if record.image_id in by_image]
        rows = RowsOfImages({image_id: by_image[image_id] for image_id in evaluated_ids})
        self._warn_of_missing(by_image, rows)
        if folder is not None:
            write_results(folder, rows)
        evaluated = Evaluated(
            complete_ground_truth(self._dataset), rows, self._tasks, self._dataset.name, self._limits[-1]
        )
        curves = {task: self._curves(evaluated, task) for task in self._tasks}
        names, ids = self._dataset.class_names, self._dataset.category_ids
        results = {task: coco_metrics(curve, names, ids) for task, curve in curves.items()}
        intervals = self._intervals(evaluated, folder)
        table = summary_table(results, previous=self._previous, intervals=intervals)
        logger.info("%s: results in %%\n%s", self._dataset.name, table)
        categories = category_table(results, intervals=intervals) + footnote(results)
        logger.info("%s: AP of each category\n%s", self._dataset.name, categories)
        evaluated = replace(evaluated, curves=curves, annotation_file=self._dataset.annotation_file)
        thresholds = find_thresholds(evaluated.matches)
        self._log_best_point(evaluated)
        others, texts = measure(self.metrics, evaluated, folder)
        if folder is not None:
            page = [markdown_report(self._dataset.name, results, intervals=intervals).rstrip(), *texts]
            content = nan_as_null(results | others | interval_results(intervals))
            write_json(folder / "results.json", content, indent=2)
            write_text(folder / "results.md", "\n\n".join(page) + "\n")
            write_arrays(folder / "precision_recall.npz", self._precision_arrays(curves))
            write_json(folder / THRESHOLDS_FILE, thresholds, indent=2)
        return results | others, thresholds

    def _log_best_point(self, evaluated: Evaluated) -> None:
        point = best_point(Matches.joined(list(evaluated.matches.values())))
        if not math.isnan(point.threshold):
            text = "%s: the highest F1 (%s, IoU %g) is %.2f, of detections with scores from %.3f"
            logger.info(text, self._dataset.name, evaluated.mask_task, MATCH_IOU, 100 * point.f1, point.threshold)

    def _intervals(self, evaluated: Evaluated, folder: Path | None) -> Intervals:
        rows_file = None if folder is None else folder / ROWS_FILE
        return self._bootstrap.intervals(
            evaluated, sigmas=self._sigmas, keypoint_limit=KEYPOINT_MAXIMUM, rows_file=rows_file
        )

    def _curves(self, evaluated: Evaluated, task: str) -> Curves:
        sigmas = self._sigmas if task == KEYPOINTS else ()
        return curves_by_parts(self._backend, evaluated, task, self._limits_of(task), sigmas=sigmas)

    def _limits_of(self, task: str) -> list[int]:
        return [KEYPOINT_MAXIMUM] if task == KEYPOINTS else self._limits

    def _precision_arrays(self, curves: dict[str, Curves]) -> dict[str, np.ndarray]:
        order = np.argsort(np.argsort(self._dataset.category_ids))
        arrays = {task: curve.precision[:, :, order, 0, -1].astype(np.float32) for task, curve in curves.items()}
        return arrays | {"class_names": np.array(self._dataset.class_names)}

    def _warn_of_missing(self, by_image: Mapping[int | str, PackedRows], rows: Sequence[Row]) -> None:
        name = self._dataset.name
        unseen = len(self._image_ids - by_image.keys())
        if unseen:
            logger.warning(
                "%s: %s not given to the model; they count as images without detections.",
                name,
                counted(unseen, "image was", "images were"),
            )
        if not rows:
            logger.warning("%s: the model detected nothing in %s.", name, counted(len(self._dataset), "image"))
        if not any(record.instances for record in self._dataset.records):
            logger.warning("%s has no annotations, so nothing can be measured.", name)


@EVALUATORS.register("coco")
def build_coco_evaluator(cfg: CfgNode, dataset: Dataset) -> CocoEvaluator | ProposalEvaluator | ClassificationEvaluator:
    """The evaluator "coco": AP of boxes, masks and keypoints.

    Of a ProposalNetwork it is "box_proposals", of a Classifier "classification".

    Args:
        cfg: of the model.
        dataset: to be evaluated on.
    """
    if cfg.MODEL.META_ARCHITECTURE == PROPOSAL_NETWORK:
        return build_proposal_evaluator(cfg, dataset)
    if is_classifier(cfg):
        return build_classification_evaluator(cfg, dataset)
    return build_evaluator_of_tasks(cfg, dataset, build_tasks(cfg, dataset), notes=_unmeasured(cfg, dataset))


def build_evaluator_of_tasks(
    cfg: CfgNode, dataset: Dataset, tasks: Sequence[str], *, notes: Sequence[str] = ()
) -> CocoEvaluator:
    """The COCO evaluator of some tasks, whatever model the detections come from.

    Args:
        cfg: of the evaluation.
        dataset: to be evaluated on.
        tasks: of "bbox", "segm" and "keypoints".
        notes: of what is not measured, logged by `check_dataset`.
    """
    limit = cfg.TEST.DETECTIONS_PER_IMAGE if cfg.TEST.DETECTIONS_PER_IMAGE > 0 else STANDARD_MAXIMUM
    sigmas, note = _sigmas(cfg, dataset) if KEYPOINTS in tasks else ((), "")
    return CocoEvaluator(
        dataset,
        backend=build_backend(cfg.EVAL.BACKEND),
        tasks=tasks,
        max_detections=limit,
        sigmas=sigmas,
        metrics=build_metrics(cfg) | build_recall_funnel(cfg, dataset, tasks=tasks, max_detections=limit),
        bootstrap=_build_bootstrap(cfg, dataset),
        notes=[*notes, *filter(None, [note])],
    )


def _build_bootstrap(cfg: CfgNode, dataset: Dataset) -> Bootstrap:
    resamples = cfg.EVAL.BOOTSTRAP
    return Bootstrap(resamples, image_groups(dataset, cfg.DATASETS.GROUP) if resamples else None)


def build_tasks(cfg: CfgNode, dataset: Dataset) -> tuple[str, ...]:
    """Evaluated tasks: boxes, and masks and keypoints if both the model and the dataset have them.

    Args:
        cfg: of the model.
        dataset: to be evaluated on.
    """
    tasks = [BBOX]
    if cfg.MODEL.MASK_ON and has_masks(dataset):
        tasks.append(SEGM)
    if cfg.MODEL.KEYPOINT_ON and dataset.keypoint_names:
        tasks.append(KEYPOINTS)
    return tuple(tasks)


def _unmeasured(cfg: CfgNode, dataset: Dataset) -> list[str]:
    lacking = {
        "masks": cfg.MODEL.MASK_ON and not has_masks(dataset),
        "keypoints": cfg.MODEL.KEYPOINT_ON and not dataset.keypoint_names,
    }
    return [
        f"{dataset.name} has no {what}: they are not evaluated." for what, is_absent in lacking.items() if is_absent
    ]


def _sigmas(cfg: CfgNode, dataset: Dataset) -> tuple[tuple[float, ...], str]:
    """Checked TEST.KEYPOINT_OKS_SIGMAS, empty for those of COCO, and a note where others are assumed."""
    sigmas, count = tuple(cfg.TEST.KEYPOINT_OKS_SIGMAS), len(dataset.keypoint_names)
    if not sigmas and count != COCO_KEYPOINTS:
        return (DEFAULT_SIGMA,) * count, (
            f"{dataset.name} has {count} keypoints, but TEST.KEYPOINT_OKS_SIGMAS is empty: {DEFAULT_SIGMA:g} is used "
            "for all."
        )
    if sigmas and (len(sigmas) != count or min(sigmas) <= 0):
        raise UserError(
            f"TEST.KEYPOINT_OKS_SIGMAS = {list(sigmas)} must be {count} positive numbers, one per keypoint of "
            f"{dataset.name}: {', '.join(dataset.keypoint_names)}."
        )
    return sigmas, ""
