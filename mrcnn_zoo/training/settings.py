"""Settings that would only fail in the middle of a run, checked before it begins."""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.rules import check_values
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.backends import IOU_THRESHOLDS, KEYPOINTS, Curves, areas_of
from mrcnn_zoo.evaluation.coco import (
    KEYPOINT_MAXIMUM,
    PROPOSAL_NETWORK,
    STANDARD_LIMITS,
    STANDARD_MAXIMUM,
    build_tasks,
)
from mrcnn_zoo.evaluation.proposals import BOX_PROPOSALS, recall_metrics
from mrcnn_zoo.evaluation.tables import coco_metrics
from mrcnn_zoo.registries import AP_BACKENDS, EVALUATORS, METRIC_WRITERS
from mrcnn_zoo.registry import did_you_mean
from mrcnn_zoo.training.hooks.best import AUTO
from mrcnn_zoo.training.hooks.evaluation import VALIDATION_TASK

LOSS_NAME = re.compile(r"loss_\w+")  # which of them there are, the model alone knows


def check_settings(cfg: CfgNode, *, is_training: bool) -> None:
    """Refuse numbers that no run can use, and names that nothing is registered under.

    Raises:
        UserError: with the key and its value.
    """
    check_values(cfg)
    EVALUATORS.get(cfg.EVAL.EVALUATOR)
    AP_BACKENDS.get(cfg.EVAL.BACKEND)
    if not is_training:
        return
    for name in cfg.WRITERS:
        METRIC_WRITERS.get(name)


def check_best_metric(cfg: CfgNode, test_datasets: Sequence[Dataset]) -> None:
    """Refuse a SOLVER.BEST_METRIC that no evaluation of this run will give, as far as that is known.

    Raises:
        UserError: with the nearest name.
    """
    wanted = cfg.SOLVER.BEST_METRIC
    # What an evaluator of the user's own measures is not known before it has done so.
    if wanted == AUTO or not test_datasets or cfg.EVAL.EVALUATOR != "coco":
        return
    known: list[str] = []
    for dataset in test_datasets:
        prefix = "" if len(test_datasets) == 1 else f"{dataset.name}/"
        losses = f"{prefix}{VALIDATION_TASK}/"
        if cfg.TEST.VAL_LOSS and wanted.startswith(losses) and LOSS_NAME.fullmatch(wanted.removeprefix(losses)):
            return
        known += [f"{prefix}{name}" for name in _names_of(cfg, dataset)]
    if wanted not in known:
        examples = ", ".join(name for name in known if "/AP-" not in name)
        raise UserError(
            f"SOLVER.BEST_METRIC = {wanted!r} is not among the results of the evaluations of this run: {examples}."
            f"{did_you_mean(wanted, known)}"
        )


def _names_of(cfg: CfgNode, dataset: Dataset) -> Iterable[str]:
    limit = cfg.TEST.DETECTIONS_PER_IMAGE if cfg.TEST.DETECTIONS_PER_IMAGE > 0 else STANDARD_MAXIMUM
    if cfg.MODEL.META_ARCHITECTURE == PROPOSAL_NETWORK:
        yield from (f"{BOX_PROPOSALS}/{name}" for name in recall_metrics([]))
    else:
        limits = sorted({*(few for few in STANDARD_LIMITS if few < limit), limit})
        for task in build_tasks(cfg, dataset):
            names = _coco_metric_names(dataset, task, [KEYPOINT_MAXIMUM] if task == KEYPOINTS else limits)
            yield from (f"{task}/{name}" for name in names)
    if cfg.TEST.VAL_LOSS:
        yield f"{VALIDATION_TASK}/total_loss"


def _coco_metric_names(dataset: Dataset, task: str, limits: Sequence[int]) -> list[str]:
    """Those of a measurement without any outcome."""
    sides = (len(dataset.class_names), len(areas_of(task)), len(limits))
    nothing = Curves(
        precision=np.full((len(IOU_THRESHOLDS), 1, *sides), -1.0),
        recall=np.full((len(IOU_THRESHOLDS), *sides), -1.0),
        limits=tuple(limits),
        areas=areas_of(task),
    )
    return list(coco_metrics(nothing, dataset.class_names, dataset.category_ids))
