"""The minimum score of a detection: a number, or the best one per class from a checkpoint or a file."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrcnn_zoo.choices import BEST_THRESHOLD, DEFAULT_THRESHOLD, THRESHOLD_SUFFIX
from mrcnn_zoo.data.classes import listed
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference.trained import TrainedFile
from mrcnn_zoo.registry import did_you_mean
from mrcnn_zoo.structures import Detections

STORED = "score_thresholds"  # in checkpoints: dataset, iteration, by_class

ScoreThreshold = float | tuple[float, ...]  # of all classes, or by class index

logger = logging.getLogger(__name__)


def check_threshold(value: float | str | Path, *, option: str) -> float | str | Path:
    """Refuse what is neither a number in [0, 1], "best" nor a JSON file.

    Args:
        value: as given.
        option: its name, for messages.

    Raises:
        UserError: with the allowed values.
    """
    if isinstance(value, str | Path):
        if str(value) == BEST_THRESHOLD or str(value).endswith(THRESHOLD_SUFFIX):
            return value
        hint = did_you_mean(str(value), [BEST_THRESHOLD])
    elif isinstance(value, int | float) and 0 <= value <= 1:
        return value
    else:
        hint = ""
    raise UserError(
        f"{option} = {value!r} must be a number in [0, 1], {BEST_THRESHOLD!r} for the best score of each class in the "
        f"checkpoint, or the score_thresholds.json of an evaluation.{hint}"
    )


def resolve_threshold(value: float | str | Path, trained: TrainedFile, *, option: str) -> ScoreThreshold:
    """The number, or the best scores of the checkpoint or the file by class index.

    Args:
        value: see `check_threshold`.
        trained: the checkpoint.
        option: name of the value, for messages.

    Raises:
        UserError: the checkpoint or the file has no such scores, or none of a class of the model.
    """
    if not isinstance(value, str | Path):
        return float(value)
    if str(value) == BEST_THRESHOLD:
        by_class, source = _stored(trained, option=option), trained.file.source
    else:
        by_class, source = _read(Path(value).expanduser(), option=option), str(value)
    names = trained.class_names
    missing = [name for name in names if name not in by_class]
    if not set(names) & set(by_class):
        raise UserError(
            f"{option} {value}: {source} has score thresholds of {listed(list(by_class))}, but the classes of the "
            f"model are {listed(names)}. Give the file of an evaluation of this model, or a number."
        )
    if missing:
        logger.warning("%s has no score threshold of %s: %g is used", source, listed(missing), DEFAULT_THRESHOLD)
    values = tuple(by_class.get(name, DEFAULT_THRESHOLD) for name in names)
    logger.info("score thresholds: %s", ", ".join(f"{n} {v:.3f}" for n, v in zip(names, values, strict=True)))
    return values


def reaches(found: Detections, threshold: ScoreThreshold) -> Tensor:
    """(R,) bool: whether the score of each detection is at least the threshold of its class.

    Args:
        found: detections.
        threshold: of all classes, or by class index.
    """
    if isinstance(threshold, tuple):
        return found.scores >= torch.tensor(threshold, dtype=found.scores.dtype).to(found.scores.device)[found.classes]
    return found.scores >= threshold


def lowest(threshold: ScoreThreshold) -> float:
    """The lowest threshold of any class.

    Args:
        threshold: of all classes, or by class index.
    """
    return min(threshold) if isinstance(threshold, tuple) else threshold


def _stored(trained: TrainedFile, *, option: str) -> Mapping[str, float]:
    entry, meta = trained.file.meta.get(STORED), trained.file.meta
    if not isinstance(entry, Mapping) or not entry.get("by_class"):
        raise UserError(
            f"{option} {BEST_THRESHOLD}: {trained.file.source} has no score thresholds. Training keeps them in the "
            "checkpoints that follow an evaluation, model_best and model_final. Find them with `mrcnn-zoo evaluate "
            f"--weights {trained.file.source} --output results`, and give {option} "
            "results/inference/score_thresholds.json; or give a number."
        )
    if meta.get("iteration") != entry.get("iteration"):
        logger.warning(
            "%s: its score thresholds are of the evaluation after iteration %s, its weights of iteration %s",
            trained.file.source,
            entry.get("iteration"),
            meta.get("iteration"),
        )
    try:
        return _checked(entry["by_class"])
    except ValueError as error:
        raise UserError(
            f"{option} {BEST_THRESHOLD}: {trained.file.source} has malformed score thresholds: {error}."
        ) from error


def _read(path: Path, *, option: str) -> Mapping[str, float]:
    try:
        return _checked(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{option} {path}: cannot be read ({error}). It must be a JSON object {{class name: score}}, such as the "
            "score_thresholds.json that `mrcnn-zoo evaluate` writes to inference/."
        ) from error


def _checked(content: Any) -> Mapping[str, float]:
    if not isinstance(content, Mapping) or not content:
        raise ValueError("not an object of scores by class name")
    for name, score in content.items():
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
            raise ValueError(f"the score of {name!r} is {score!r}, not a number in [0, 1]")
    return {str(name): float(score) for name, score in content.items()}
