"""The contract of metrics of EVAL.METRICS: their arguments and their results."""

import importlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.backends import Curves, Matches, detection_set, with_positive_ids
from mrcnn_zoo.evaluation.ground_truth import BBOX, SEGM, ground_truth_of_task
from mrcnn_zoo.evaluation.operating_points import match_detections
from mrcnn_zoo.evaluation.result_rows import Row, has_mask_scores
from mrcnn_zoo.evaluation.tables import Results
from mrcnn_zoo.output_files import write_atomically
from mrcnn_zoo.registries import METRICS

EXTRA = 'pip install "mrcnn_zoo[eval]"'  # hotcoco and faster-coco-eval

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """The ground truth and the detections of a whole dataset, on the main process.

    Args:
        ground_truth: a COCO dataset. Images have `file_name`; categories are in the order of the classes; annotations
            have `bbox`, `area`, `iscrowd`, and where the object has them `segmentation` (compressed RLE) and
            `keypoints`.
        rows: detections of all images; see `mrcnn_zoo.evaluation.result_rows.Row`.
        tasks: evaluated ones of "bbox", "segm" and "keypoints".
        dataset_name: for messages and headings.
        max_detections: maximum number per image, in descending order of score.
        curves: precision and recall by task, as COCO's AP was computed from.
        annotation_file: the COCO JSON, if there is one; it may have fields that the ground truth lacks.
    """

    ground_truth: dict[str, Any]
    rows: Sequence[Row]
    tasks: tuple[str, ...]
    dataset_name: str
    max_detections: int = 100
    curves: Mapping[str, Curves] = field(default_factory=dict)
    annotation_file: str = ""

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """By class index."""
        return tuple(category["name"] for category in self.ground_truth["categories"])

    @cached_property
    def category_ids(self) -> tuple[int, ...]:
        """By class index; the libraries return values by class in ascending order of the ids."""
        return tuple(category["id"] for category in self.ground_truth["categories"])

    @property
    def mask_task(self) -> str:
        """The task of metrics that have one: "segm" if masks are evaluated, else "bbox"."""
        return SEGM if SEGM in self.tasks else BBOX

    def ground_truth_of(self, task: str) -> dict[str, Any]:
        """The ground truth as the COCO evaluation of a task takes it.

        Args:
            task: one of `tasks`.
        """
        return ground_truth_of_task(self.ground_truth, task)

    def detections_of(self, task: str) -> dict[str, Any]:
        """The detections as a COCO dataset with scores; masks are ranked by their own scores where they have them.

        Args:
            task: one of `tasks`.
        """
        return detection_set(self.rows, self.ground_truth, task)

    @cached_property
    def matches(self) -> dict[str, Matches]:
        """Detections matched to the objects of their class at IoU 0.5, by class name, for `mask_task`.

        They are ranked by their score, also where masks have scores of their own: `predict --threshold` compares it.
        """
        curves = self.curves.get(self.mask_task)
        by_id = None if curves is None or self._has_mask_scores else curves.matches
        by_id = self._matched_again() if by_id is None else by_id
        return {name: by_id[number] for name, number in zip(self.class_names, self.category_ids, strict=True)}

    @property
    def _has_mask_scores(self) -> bool:
        return self.mask_task == SEGM and has_mask_scores(self.rows)

    def _matched_again(self) -> Mapping[int, Matches]:
        rows = [{name: value for name, value in row.items() if name != "mask_score"} for row in self.rows]
        return match_detections(
            self.ground_truth_of(self.mask_task),
            replace(self, rows=rows).detections_of(self.mask_task),
            self.mask_task,
            max_detections=self.max_detections,
        )


@dataclass(frozen=True)
class MetricReport:
    """What a metric returns.

    Args:
        results: metrics by group, such as {"tide_segm": {"Loc": 2.4}}. Groups join the results of the run beside "bbox"
            and "segm", so that SOLVER.BEST_METRIC and sweeps can name them; without "/", and unique to the metric.
            Metrics of single classes are named "<metric>-<class>".
        text: Markdown for the log and results.md, beginning with a heading "## ...".
        files: content by file name, written to inference/.
        details: Markdown that follows `text` in results.md and is not logged.
    """

    results: Results = field(default_factory=dict)
    text: str = ""
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    details: str = ""


class Metric(Protocol):
    """Computes numbers, tables and files from all detections of a dataset."""

    def __call__(self, evaluated: Evaluated) -> MetricReport:
        """Measure; called on the main process alone, after COCO's AP.

        Args:
            evaluated: ground truth and detections; not modified.
        """
        ...


@runtime_checkable
class NamesResults(Protocol):
    """A metric that can list its results in advance, so that SOLVER.BEST_METRIC can be checked before training."""

    def names(self, tasks: Sequence[str]) -> list[str]:
        """Names such as "f1_segm/F1".

        Args:
            tasks: that will be evaluated.
        """
        ...


@runtime_checkable
class GathersParts(Protocol):
    """A metric with parts on all processes, beside the rows of the detections."""

    def gather(self) -> None:
        """Collect the parts on the main process; called on every process before the metric is."""
        ...


@runtime_checkable
class ChecksDataset(Protocol):
    """A metric that cannot measure every dataset: it is refused before training and evaluation, not after."""

    def check(self, dataset: Dataset) -> None:
        """Check a dataset before anything is predicted.

        Args:
            dataset: to be evaluated on.

        Raises:
            UserError: the metric cannot measure it.
        """
        ...


def build_metrics(cfg: CfgNode) -> dict[str, Metric]:
    """The metrics of EVAL.METRICS by name.

    Raises:
        UnknownNameError: with the nearest name.
        UserError: the library of a metric is not installed.
    """
    return {name: METRICS.get(name)(cfg) for name in cfg.EVAL.METRICS}


def check_metrics(metrics: Mapping[str, Metric], dataset: Dataset) -> None:
    """Check that metrics can measure a dataset.

    Args:
        metrics: by name.
        dataset: to be evaluated on.

    Raises:
        UserError: one cannot.
    """
    for metric in metrics.values():
        if isinstance(metric, ChecksDataset):
            metric.check(dataset)


def warn_of_omitted(metrics: Mapping[str, Metric], tasks: Sequence[str], dataset_name: str) -> None:
    """Warn of metrics without results in these tasks.

    Args:
        metrics: by name.
        tasks: that will be evaluated.
        dataset_name: for the message.
    """
    omitted = [name for name, metric in metrics.items() if isinstance(metric, NamesResults) and not metric.names(tasks)]
    if omitted:
        text = "%s: EVAL.METRICS [%s] cannot be measured: no masks are evaluated, because model or data have none"
        logger.warning(text, dataset_name, ",".join(omitted))


def measure(metrics: Mapping[str, Metric], evaluated: Evaluated, folder: Path | None) -> tuple[Results, list[str]]:
    """Compute metrics, log their tables and write their files.

    Args:
        metrics: by name.
        evaluated: ground truth and detections.
        folder: of the files; None writes none.

    Returns:
        All results by group, and the Markdown of each metric.

    Raises:
        ValueError: two metrics have a group of the same name.
    """
    results: Results = {}
    texts = []
    for name, metric in metrics.items():
        report = metric(evaluated)
        taken = report.results.keys() & (results.keys() | set(evaluated.tasks))
        if taken:
            raise ValueError(f"metric {name!r} returns the group {min(taken)!r}, which exists already")
        results |= report.results
        texts += [text.strip() for text in (report.text, report.details) if text]
        if report.text:
            logger.info("%s: %s", evaluated.dataset_name, report.text.strip().lstrip("# ").replace("\n\n", "\n"))
        if folder is not None:
            for file_name, content in report.files.items():
                _write(folder / file_name, content)
    return results, texts


def _write(path: Path, content: str | bytes) -> None:
    data = content.encode("utf-8") if isinstance(content, str) else content
    write_atomically(path, lambda file: file.write(data))


def import_library(module: str, *, metric: str) -> ModuleType:
    """A library of the extra `eval`.

    Args:
        module: "hotcoco" or "faster_coco_eval".
        metric: that needs it, for the message.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"EVAL.METRICS has {metric!r}, which needs {module.replace('_', '-')}; it is not installed ({error}). "
            f"Install it with `{EXTRA}`, or leave out {metric!r}."
        ) from error


def evaluated_by_hotcoco(evaluated: Evaluated, task: str, *, metric: str) -> Any:
    """hotcoco's `COCOeval` after `evaluate()`.

    Args:
        evaluated: ground truth and detections.
        task: one of its tasks.
        metric: that needs it, for the message.

    Raises:
        UserError: hotcoco is not installed.
    """
    hotcoco = import_library("hotcoco", metric=metric)
    sets = with_positive_ids(evaluated.ground_truth_of(task), evaluated.detections_of(task))
    evaluation = hotcoco.COCOeval(*(hotcoco.COCO(content) for content in sets), task)
    evaluation.params.maxDets = [evaluated.max_detections]
    evaluation.evaluate()
    return evaluation
