"""Checks before an evaluation: test sets, classes, evaluators, given boxes, and limits on the objects per image.

Training, `--eval-only` and `mrcnn-zoo evaluate` call `prepare_evaluation`.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.rules import class_count, class_count_key
from mrcnn_zoo.data import load_test
from mrcnn_zoo.data.classes import check_class_count, check_num_keypoints, listed, require_known_classes
from mrcnn_zoo.data.loading.proposals import build_proposal_mapper
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.evaluation.coco import PROPOSAL_NETWORK
from mrcnn_zoo.evaluation.funnel.recall_funnel import funnel_of
from mrcnn_zoo.evaluation.limits import Topic, build_data_notes, build_data_topics, build_limits, cut_objects_message
from mrcnn_zoo.inference.given_boxes import build_boxes_of_dataset, check_takes_boxes
from mrcnn_zoo.inference.tta import build_augmentation_notes
from mrcnn_zoo.registries import EVALUATORS

logger = logging.getLogger(__name__)


@runtime_checkable
class NamesMetrics(Protocol):
    """An evaluator that can list the names of its metrics in advance."""

    def metric_names(self) -> list[str]:
        """Names such as "segm/AP"."""
        ...


@runtime_checkable
class ChecksDataset(Protocol):
    """An evaluator that may be unable to measure a part of what is configured."""

    def check_dataset(self) -> None:
        """Warn of what is not measured.

        Raises:
            UserError: a metric of EVAL.METRICS cannot measure the dataset.
        """
        ...


def prepare_evaluation(cfg: CfgNode, class_names: Sequence[str] = (), *, model: str = "the model") -> list[Dataset]:
    """Load DATASETS.TEST and check all settings of the evaluation before the model is built.

    Args:
        cfg: of the model and its evaluation.
        class_names: of the model by class index; empty if unknown.
        model: name of the model in messages, e.g. the file of its weights.

    Raises:
        UserError: see `load_test_datasets`, `check_classes` and `check_evaluation`.
    """
    datasets = load_test_datasets(cfg)
    check_classes(cfg, datasets, class_names, model=model)
    check_evaluation(cfg, datasets)
    return datasets


def load_test_datasets(cfg: CfgNode) -> list[Dataset]:
    """Load all datasets of DATASETS.TEST, with DATASETS.FOLDS their held-out images.

    Raises:
        UserError: there are none, or one cannot be loaded.
    """
    if not cfg.DATASETS.TEST:
        raise UserError("DATASETS.TEST is empty: name the dataset to evaluate on, e.g. DATASETS.TEST digits_val.")
    return load_test(cfg)


def check_classes(
    cfg: CfgNode, datasets: Sequence[Dataset], class_names: Sequence[str], *, model: str = "the model"
) -> None:
    """Check that a model has the classes and keypoints of its test sets; log how classes are matched.

    Args:
        cfg: of the model; a ProposalNetwork has no classes, so only keypoints are checked.
        datasets: to be evaluated on.
        class_names: of the model by class index; if empty, classes are matched by index and their number must be equal.
        model: name of the model in messages.

    Raises:
        UserError: the number of classes or keypoints differs, or the model lacks classes of a test set.
    """
    for dataset in datasets:
        check_num_keypoints(cfg, dataset)
    if cfg.MODEL.META_ARCHITECTURE == PROPOSAL_NETWORK:
        return
    if not class_names:
        if class_count_key(cfg):
            _check_unnamed(datasets, count=class_count(cfg) or 0, key=class_count_key(cfg))
        return
    check_class_count(cfg, len(class_names), f"{model} was trained on", class_names)
    for dataset in datasets:
        require_known_classes(dataset, class_names)
        if tuple(class_names) == tuple(dataset.class_names):
            continue
        others = [name for name in dict.fromkeys(class_names) if name not in dataset.class_names]
        logger.info(
            "%s: the model's classes are mapped to the %d of the dataset by name%s",
            dataset.name,
            len(dataset.class_names),
            f"; detections of others ({listed(others)}) do not count" if others else "",
        )


def check_evaluation(cfg: CfgNode, datasets: Sequence[Dataset]) -> list[str]:
    """Build the evaluator of each test set, and log objects that limits of the model or the evaluation exclude.

    Args:
        cfg: of the model and its evaluation.
        datasets: to be evaluated on.

    Returns:
        Names of all metrics, such as "segm/AP", or "<dataset>/segm/AP" for several test sets; empty if the evaluator
        does not list them in advance.

    Raises:
        UserError: settings do not match a dataset, a dataset has no images, a metric cannot measure it, a backend is
            not installed, given boxes do not belong to a dataset, a proposal file is missing, or the evaluator has no
            recall funnel (EVAL.FUNNEL).
    """
    limits = build_limits(cfg)
    names: list[str] = []
    for dataset in datasets:
        part = evaluated_part(dataset, cfg)
        evaluator = EVALUATORS.get(cfg.EVAL.EVALUATOR)(cfg, part)
        if cfg.EVAL.FUNNEL:
            funnel_of(evaluator)
        prefix = f"{dataset.name}/" if len(datasets) > 1 else ""
        names += [prefix + name for name in (evaluator.metric_names() if isinstance(evaluator, NamesMetrics) else [])]
        if isinstance(evaluator, ChecksDataset):
            evaluator.check_dataset()
        if cfg.EVAL.GIVEN_BOXES:
            check_takes_boxes(cfg, option="EVAL.GIVEN_BOXES")
            build_boxes_of_dataset(cfg, part)
            logger.info("%s: masks are evaluated in given boxes (EVAL.GIVEN_BOXES %s)", part.name, cfg.EVAL.GIVEN_BOXES)
        if cfg.MODEL.LOAD_PROPOSALS:
            build_proposal_mapper(cfg, [dataset], part.records, is_training=False)
        if len(part) < len(dataset):
            logger.info("%s: TEST.NUM_IMAGES = %d of %d images are evaluated", dataset.name, len(part), len(dataset))
        cut = cut_objects_message(part, limits)
        for message in filter(None, (cut, *build_data_notes(cfg, part))):
            logger.warning("%s", message)
        for note in build_augmentation_notes(cfg, part) if cfg.TEST.AUG.ENABLED else ():
            logger.info("%s: %s", dataset.name, note)
    return names


def build_reported_topics(cfg: CfgNode, datasets: Iterable[Dataset]) -> set[Topic]:
    """Topics that `check_evaluation` has logged, which `evaluate` does not log again.

    Args:
        cfg: of the model and its evaluation.
        datasets: to be evaluated on.
    """
    return set().union(*(build_data_topics(cfg, evaluated_part(dataset, cfg)) for dataset in datasets))


def evaluated_part(dataset: Dataset, cfg: CfgNode) -> Dataset:
    """The first TEST.NUM_IMAGES images of the dataset, or all if it is 0.

    Args:
        dataset: of DATASETS.TEST.
        cfg: of the evaluation.

    Raises:
        UserError: the dataset has no images.
    """
    if not len(dataset):
        raise UserError(f"{dataset.name} has no images, so there is nothing to evaluate. Check its definition.")
    count = cfg.TEST.NUM_IMAGES
    return replace(dataset, records=dataset.records[:count]) if count > 0 else dataset


def _check_unnamed(datasets: Sequence[Dataset], *, count: int, key: str) -> None:
    for dataset in datasets:
        if count != len(dataset.class_names):
            raise UserError(
                f"the model has no class names, and {counted(count, 'class')} ({key}), but "
                f"dataset {dataset.name!r} has {counted(len(dataset.class_names), 'class')}: "
                f"{listed(dataset.class_names)}. Evaluate it on a dataset with the classes of the training data in the "
                "same order."
            )
    logger.warning(
        "the model has no class names: its classes are matched by their index, %s",
        "; ".join(f"0 is {dataset.class_names[0]!r} of {dataset.name}" for dataset in datasets),
    )
