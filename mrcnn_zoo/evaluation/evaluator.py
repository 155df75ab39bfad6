"""Evaluation of a model on datasets."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from torch import nn

from mrcnn_zoo.config import CfgNode, changed_config
from mrcnn_zoo.data import EvalLoader, build_eval_loader
from mrcnn_zoo.data.paths import folder_name
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.distributed.processes import gather_on_main_process, is_main_process, rank, world_size
from mrcnn_zoo.errors import counted
from mrcnn_zoo.evaluation.class_mapping import ClassMappedDetector, predicts_classes, with_classes_of
from mrcnn_zoo.evaluation.funnel.recall_funnel import funnel_of
from mrcnn_zoo.evaluation.limits import DetectionTally, Topic, build_evaluation_tally, log_notes
from mrcnn_zoo.evaluation.preflight import build_reported_topics, evaluated_part, prepare_evaluation
from mrcnn_zoo.evaluation.stage_times import StageTimer
from mrcnn_zoo.evaluation.tables import Results, verify_expected_results
from mrcnn_zoo.inference.given_boxes import build_boxes_of_dataset, build_given_box_detector
from mrcnn_zoo.inference.image_detector import inference
from mrcnn_zoo.inference.tta import build_augmented_detector
from mrcnn_zoo.progress import ProgressLine, duration, has_terminal, show_progress
from mrcnn_zoo.registries import EVALUATORS
from mrcnn_zoo.structures import Detections, Sample

SECONDS_BETWEEN_LINES = 30.0  # of progress in a log file; terminals show a bar

logger = logging.getLogger(__name__)

Images = TypeVar("Images", bound=Sized)


class Evaluator(Protocol):
    """Computes metrics of detections on a dataset."""

    def process(self, samples: list[Sample], detections: list[Detections]) -> None:
        """Add the detections of some images.

        Args:
            samples: N images.
            detections: per image, in pixels of the original image.
        """
        ...

    def evaluate(self, output_dir: str | Path | None = None) -> Results:
        """Metrics by task, equal on all processes.

        Args:
            output_dir: folder of `inference/`; None writes no files.
        """
        ...


@runtime_checkable
class ShowsChanges(Protocol):
    """An evaluator that can log the change of its metrics."""

    def show_changes_to(self, previous: Results) -> None:
        """Log the change to an earlier evaluation.

        Args:
            previous: results of the earlier evaluation.
        """
        ...


@runtime_checkable
class FindsThresholds(Protocol):
    """An evaluator that finds the score threshold of highest F1 per class."""

    score_thresholds: dict[str, float]  # by class name; set by `evaluate`, empty where there is none


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation finds: metrics by task, and the best score threshold by class name, if there is one."""

    results: Results
    score_thresholds: dict[str, float] = field(default_factory=dict)


def evaluate(model: nn.Module, dataset: Dataset, cfg: CfgNode, *, output_dir: str | Path | None = None) -> Results:
    """The results of `run_evaluation`.

    Args:
        model: see `run_evaluation`.
        dataset: with annotations.
        cfg: of the model and its evaluation.
        output_dir: see `run_evaluation`.

    Returns:
        {"bbox": {"AP": ..., "AP50": ..., ...}, "segm": {...}} in percent, on every process.
    """
    return run_evaluation(model, dataset, cfg, output_dir=output_dir).results


def run_evaluation(
    model: nn.Module,
    dataset: Dataset,
    cfg: CfgNode,
    *,
    output_dir: str | Path | None = None,
    logged: set[Topic] | None = None,
    previous: Results | None = None,
) -> Evaluation:
    """Evaluate a model on a dataset, or on its first TEST.NUM_IMAGES images.

    Args:
        model: with `predict(samples)` and the classes of the dataset, see `with_classes_of`; its training mode is
            restored.
        dataset: with annotations.
        cfg: of the model and its evaluation.
        output_dir: folder of `inference/`, with coco_instances_results.json, results.json, results.md,
            precision_recall.npz and score_thresholds.json; None writes no files.
        logged: see `log_notes`.
        previous: results of an earlier evaluation on the dataset; the table shows the change.

    Raises:
        UserError: the dataset is empty, or the backend or evaluator unknown.
    """
    dataset = evaluated_part(dataset, cfg)
    model = build_test_detector(cfg, model, dataset)
    evaluator: Evaluator = EVALUATORS.get(cfg.EVAL.EVALUATOR)(cfg, dataset)
    if previous and isinstance(evaluator, ShowsChanges):
        evaluator.show_changes_to(previous)
    loader = build_prediction_loader(cfg, dataset, model, rank=rank(), world_size=world_size())
    num_images = -(-len(dataset) // world_size())
    tally = build_evaluation_tally(cfg)
    # Limits apply to the detections of all classes, before those that the dataset does not have are removed.
    detector = model.detector if isinstance(model, ClassMappedDetector) else model
    mapping = model.mapping.tolist() if isinstance(model, ClassMappedDetector) else None
    funnel = funnel_of(evaluator) if cfg.EVAL.FUNNEL else None
    seconds = 0.0
    with inference(model), StageTimer(detector) as timer:
        for samples in timer.loaded(with_progress(loader, num_images, name=dataset.name)):
            start = time.perf_counter()
            if funnel is None:
                found = detector.predict(samples)  # type: ignore[operator]
            else:
                found = funnel.predict(detector, samples, mapping)
            measured = found if detector is model else model.mapped(found)  # type: ignore[operator]
            evaluator.process(samples, measured)
            seconds += time.perf_counter() - start
            # No limit of the model applies to given boxes.
            pairs = () if cfg.EVAL.GIVEN_BOXES else zip(samples, found, measured, strict=True)
            for sample, all_classes, own_classes in pairs:
                tally.add(sample.file_name or str(sample.image_id), all_classes, measured=own_classes)
    logger.info("%s: %s, %.3f s per image", dataset.name, counted(len(dataset), "image"), seconds / num_images)
    results = evaluator.evaluate(output_dir)
    if output_dir is not None and is_main_process():
        timer.save(Path(output_dir) / "inference", num_images)
    _log_reached_limits(tally, dataset.name, set() if logged is None else logged)
    return Evaluation(results, evaluator.score_thresholds if isinstance(evaluator, FindsThresholds) else {})


def _log_reached_limits(tally: DetectionTally, name: str, logged: set[Topic]) -> None:
    """Log limits that were reached on any process, on process 0."""
    first, *others = gather_on_main_process(tally) or [tally]
    for other in others:
        first.merge(other)
    if is_main_process():
        log_notes(first.notes(), logged=logged, dataset=name)


def build_test_detector(cfg: CfgNode, model: nn.Module, dataset: Dataset) -> nn.Module:
    """Wrap a model for evaluation: with the boxes of EVAL.GIVEN_BOXES and the views of TEST.AUG.

    Args:
        cfg: of the model.
        model: a detector, or a `ClassMappedDetector` of one.
        dataset: to be evaluated on.

    Raises:
        UserError: the given boxes do not belong to the dataset, or the model cannot predict in given boxes.
    """
    if cfg.EVAL.GIVEN_BOXES:
        return _build_given_box_detector(cfg, model, dataset)
    if isinstance(model, ClassMappedDetector):
        return ClassMappedDetector(build_augmented_detector(cfg, model.detector, dataset), model.mapping)
    return build_augmented_detector(cfg, model, dataset)


def _build_given_box_detector(cfg: CfgNode, model: nn.Module, dataset: Dataset) -> nn.Module:
    if not isinstance(model, ClassMappedDetector):
        return build_given_box_detector(cfg, model, build_boxes_of_dataset(cfg, dataset), dataset=dataset)
    mapping = model.mapping.tolist()
    class_rows = [mapping.index(row) for row in range(len(dataset.class_names))]
    box_source = build_boxes_of_dataset(cfg, dataset, class_rows)
    return ClassMappedDetector(
        build_given_box_detector(cfg, model.detector, box_source, dataset=dataset), model.mapping
    )


def build_prediction_loader(
    cfg: CfgNode, dataset: Dataset, model: nn.Module, *, rank: int = 0, world_size: int = 1
) -> EvalLoader:
    """The loader of a model: with targets or original image sizes if the model requires them.

    Args:
        cfg: of the model.
        dataset: to be evaluated on.
        model: may have `needs_targets` and `resizes_images`.
        rank: of this process.
        world_size: number of processes.
    """
    needs_targets = getattr(model, "needs_targets", False)
    if getattr(model, "resizes_images", False):
        cfg = changed_config(cfg, {"INPUT.MIN_SIZE_TEST": 0})
    return build_eval_loader(cfg, dataset, rank=rank, world_size=world_size, with_targets=needs_targets)


def evaluate_datasets(
    model: nn.Module,
    cfg: CfgNode,
    *,
    output_dir: str | Path | None = None,
    class_names: Sequence[str] = (),
    datasets: Sequence[Dataset] | None = None,
) -> Results | dict[str, Results]:
    """Evaluate on DATASETS.TEST and compare the results with TEST.EXPECTED_RESULTS.

    Args:
        model: see `evaluate`.
        cfg: of the model and its evaluation.
        output_dir: see `evaluate`; each of several datasets has a sub-folder.
        class_names: of the model, if known. Classes are matched by name; detections of classes that a dataset does not
            have do not count. Without names, the number of classes must be equal.
        datasets: those of DATASETS.TEST, see `prepare_evaluation`; loaded by default.

    Returns:
        The results of one dataset, or {dataset name: results} of several.

    Raises:
        UserError: there is no test set, or the model lacks classes of a test set.
        UnexpectedResultsError: results differ from TEST.EXPECTED_RESULTS by more than the tolerance.
    """
    names = list(cfg.DATASETS.TEST)
    if datasets is None:
        datasets = prepare_evaluation(cfg, class_names if predicts_classes(model) else ())
    results: dict[str, Results] = {}
    logged = build_reported_topics(cfg, datasets)
    for name, dataset in zip(names, datasets, strict=True):
        folder = output_dir if output_dir is None or len(names) == 1 else Path(output_dir) / folder_name(name)
        wrapped = with_classes_of(dataset, model, class_names)
        results[name] = run_evaluation(wrapped, dataset, cfg, output_dir=folder, logged=logged).results
    outcome = results[names[0]] if len(names) == 1 else results
    verify_expected_results(outcome, cfg.TEST.EXPECTED_RESULTS)
    return outcome


def with_progress(loader: Iterable[Images], num_images: int, *, name: str) -> Iterator[Images]:
    """Yield the batches; process 0 shows a progress bar on a terminal, and logs lines otherwise.

    Args:
        loader: batches of images, or anything else with their number as its length.
        num_images: of all batches.
        name: at the start of the line.
    """
    if not is_main_process():
        yield from loader
    elif has_terminal(sys.stderr):
        yield from _with_bar(loader, num_images, name=name)
    else:
        yield from _with_lines(loader, num_images, name=name)


def _with_bar(loader: Iterable[Images], num_images: int, *, name: str) -> Iterator[Images]:
    line = ProgressLine(name, total=num_images)
    start = time.monotonic()
    with show_progress(line) as display:
        for samples in loader:
            yield samples
            line.done += len(samples)
            each = (time.monotonic() - start) / line.done
            line.show({"eta": f"eta {duration(each * (num_images - line.done))}", "rate": f"{1 / each:.1f} img/s"})
            if display is not None:
                display.refresh()


def _with_lines(loader: Iterable[Images], num_images: int, *, name: str) -> Iterator[Images]:
    start = last = time.monotonic()
    done = 0
    for samples in loader:
        yield samples
        done += len(samples)
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last, each = now, (now - start) / done
            remaining = each * (num_images - done)
            logger.info("%s: %d of %d images, %.3f s per image, %.0f s to go", name, done, num_images, each, remaining)
