"""Checks of a whole config: the value of each key, rules between keys, keys of unsupported parts."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mrcnn_zoo.config.defaults import ALL_KEYS, KEYS_BY_NAME
from mrcnn_zoo.config.folds import (
    FOLD,
    FOLDS,
    GROUP,
    TEST,
    fill_test_set,
    problem_of_fold,
    problem_of_group,
    problem_of_test_set,
)
from mrcnn_zoo.config.keys import COMMAND_LINE, DEFAULT, Key, Origin, is_number
from mrcnn_zoo.config.node import CfgNode
from mrcnn_zoo.config.own_data import TRAIN, fill_val_side, problem_of_foreign_test_set
from mrcnn_zoo.config.stage_list import problem_of_stage_list, problem_of_trained_parts
from mrcnn_zoo.errors import UserError

Choice = TypeVar("Choice")

CLASSIFIER = "Classifier"  # the MODEL.META_ARCHITECTURE of whole images

logger = logging.getLogger(__name__)


def class_count_key(config: CfgNode) -> str:
    """The key that holds the number of classes of the model; empty where none does."""
    detector = config.MODEL.META_ARCHITECTURE
    return next((key.name for key in ALL_KEYS if detector in key.counts_classes_of), "")


def class_count(config: CfgNode) -> int | None:
    """The number of classes of the model, the background not counted; None where no key holds it."""
    key = class_count_key(config)
    return config.value_of(key) if key else None


def section_of_boxes(config: CfgNode) -> str:
    """The section of MODEL with the thresholds and the suppression of the detector's boxes."""
    return "RETINANET" if config.MODEL.META_ARCHITECTURE == "RetinaNet" else "ROI_HEADS"


def is_classifier(config: CfgNode) -> bool:
    """Whether the model classifies whole images, of one object or none."""
    return config.MODEL.META_ARCHITECTURE == CLASSIFIER


def has_point_head(config: CfgNode) -> bool:
    """Whether the model has PointRend's point head."""
    mask_head = config.MODEL.ROI_MASK_HEAD
    return config.MODEL.MASK_ON and mask_head.NAME == "PointRendMaskHead" and mask_head.POINT_HEAD_ON


def choice_of(config: CfgNode, name: str, table: Mapping[Any, Choice]) -> Choice:
    """The entry of a builder's table that a key selects.

    Args:
        config: the root.
        name: dotted name of a key; its `choices` are the table's names.
        table: an entry per choice.

    Raises:
        UserError: another value, with the key, the choices and the nearest one.
    """
    key, value = KEYS_BY_NAME[name], config.value_of(name)
    assert set(table) == set(key.choices), f"{name} declares {key.choices}, its builder has {tuple(table)}"
    if value not in table:
        raise UserError(f"{_place(config.origin_of(name))}{name} = {value!r} {key.problem_of(value)}")
    return table[value]


def check_values(config: CfgNode) -> None:
    """Check every value against its key, then the keys that depend on each other.

    Raises:
        UserError: listing each key with its value, where it was set and what is allowed.
    """
    problems = list(_problems_of_keys(config)) or list(_problems_of_relations(config))
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        raise UserError("the config has invalid values:\n  " + "\n  ".join(problems))


def _problems_of_keys(config: CfgNode) -> Iterator[str]:
    for key in ALL_KEYS:
        value = None if key.is_open else config.value_of(key.name)
        problem = "" if key.is_open else key.problem_of(value)
        if problem:
            yield f"{_place(config.origin_of(key.name))}{key.name} = {value!r} {problem}"


def _place(*origins: Origin) -> str:
    places = dict.fromkeys(str(origin) for origin in origins if origin != DEFAULT)
    return f"{', '.join(places)}: " if places else ""


# --- rules between keys -----------------------------------------------------------------------------------------------

BOX_HEAD = "MODEL.ROI_BOX_HEAD"
LOSS_TYPE, SIGMOID, FEDERATED = f"{BOX_HEAD}.CLS_LOSS_TYPE", f"{BOX_HEAD}.USE_SIGMOID_CE", f"{BOX_HEAD}.USE_FED_LOSS"
CLASSES, POINT_CLASSES = "MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.POINT_HEAD.NUM_CLASSES"
EXPECTATION = (
    "[task, metric, value, tolerance], e.g. ['bbox', 'AP', 38.5, 0.2], after the dataset's name if there are several"
)


@dataclass(frozen=True)
class Relation:
    """A rule between several keys.

    Args:
        keys: dotted names.
        problem: the message about their values; empty for none.
        replaced: values of keys that give way to another of the keys with higher priority (`CfgNode.closeness_of`).
    """

    keys: tuple[str, ...]
    problem: Callable[[CfgNode], str]
    replaced: Mapping[str, Callable[[CfgNode], Any]] = field(default_factory=dict)


def settle_contradictions(config: CfgNode) -> None:
    """Replace values that contradict a key with higher priority, with a warning; at equal priority both stay.

    Lengths of training are resolved by `choose_length`, as some of them are compatible there.

    Args:
        config: mutable.
    """
    for relation in RELATIONS:
        closest = max(relation.keys, key=config.closeness_of)
        for name in sorted(relation.replaced, key=config.closeness_of):
            if not relation.problem(config) or config.closeness_of(name) == config.closeness_of(closest):
                break
            value = relation.replaced[name](config)
            if value != config.value_of(name):
                _replace(config, name, value, closest=closest)
    fill_test_set(config)
    fill_val_side(config)


def _replace(config: CfgNode, name: str, value: Any, *, closest: str) -> None:
    if config.origin_of(name) != DEFAULT:
        logger.warning(
            "%s = %s (%s) has no effect: %s = %s (%s) contradicts it and was set closer to the command line",
            name,
            config.value_of(name),
            config.origin_of(name),
            closest,
            config.value_of(closest),
            config.origin_of(closest),
        )
    section, _, leaf = name.rpartition(".")
    config.value_of(section)[leaf] = value


def _problems_of_relations(config: CfgNode) -> Iterator[str]:
    for relation in RELATIONS:
        problem = relation.problem(config)
        if problem:
            yield f"{_place(*map(config.origin_of, relation.keys))}{problem}"


def _classification(config: CfgNode) -> str:
    head = config.MODEL.ROI_BOX_HEAD
    of_type, of_sigmoid = config.closeness_of(LOSS_TYPE), config.closeness_of(SIGMOID)
    if head.USE_FED_LOSS and not head.USE_SIGMOID_CE:
        return f"{FEDERATED} needs {SIGMOID} True."
    if not head.USE_SIGMOID_CE:
        is_contradicted = of_sigmoid > of_type and head.CLS_LOSS_TYPE in ("sigmoid", "federated")
        return f"{LOSS_TYPE} = {head.CLS_LOSS_TYPE!r} contradicts {SIGMOID} False." if is_contradicted else ""
    by_switch = "federated" if head.USE_FED_LOSS else "sigmoid"
    is_unset = head.CLS_LOSS_TYPE == "softmax" and of_type <= max(of_sigmoid, config.closeness_of(FEDERATED))
    if by_switch == head.CLS_LOSS_TYPE or is_unset:
        return ""
    return (
        f"{LOSS_TYPE} = {head.CLS_LOSS_TYPE!r} contradicts {SIGMOID} or {FEDERATED}, which mean {by_switch!r}: leave "
        "these at False."
    )


def _classes_of_points(config: CfgNode) -> str:
    regions, points = config.MODEL.ROI_HEADS.NUM_CLASSES, config.MODEL.POINT_HEAD.NUM_CLASSES
    if regions == points or not has_point_head(config):
        return ""
    return f"{POINT_CLASSES} = {points} must be {CLASSES} = {regions} in PointRend."


def _pixel_statistics(config: CfgNode) -> str:
    mean, std = config.MODEL.PIXEL_MEAN, config.MODEL.PIXEL_STD
    if len(mean) == len(std):
        return ""
    return f"MODEL.PIXEL_MEAN has {len(mean)} values and MODEL.PIXEL_STD {len(std)}; give both one value per channel."


def _range_of_sizes(config: CfgNode) -> str:
    sizes = list(config.INPUT.MIN_SIZE_TRAIN)
    if config.INPUT.MIN_SIZE_TRAIN_SAMPLING != "range" or (len(sizes) == 2 and sizes[0] <= sizes[1]):
        return ""
    return (
        f"INPUT.MIN_SIZE_TRAIN = {sizes} must be the two ends of a range, the smaller first, where "
        "INPUT.MIN_SIZE_TRAIN_SAMPLING is 'range'."
    )


def _crop_size(config: CfgNode) -> str:
    kind, size = config.INPUT.CROP.TYPE, list(config.INPUT.CROP.SIZE)
    rule = ""
    if kind.startswith("relative") and max(size, default=0) > 1:
        rule = "must be shares up to 1"
    elif kind.startswith("absolute") and any(math.isfinite(side) and side != int(side) for side in size):
        rule = "must be whole pixels"
    elif kind == "absolute_range" and size != sorted(size):
        rule = "must be the smaller and the larger bound, in this order,"
    return f"INPUT.CROP.SIZE = {size} {rule} where INPUT.CROP.TYPE is {kind!r}." if rule else ""


def _final_learning_rate(config: CfgNode) -> str:
    solver = config.SOLVER
    if solver.LR_SCHEDULER_NAME != "WarmupCosineLR" or solver.BASE_LR_END <= solver.BASE_LR:
        return ""
    return f"SOLVER.BASE_LR_END = {solver.BASE_LR_END} must be at most SOLVER.BASE_LR = {solver.BASE_LR}."


def _augmented_classifier(config: CfgNode) -> str:
    if not is_classifier(config) or not config.TEST.AUG.ENABLED:
        return ""
    return "TEST.AUG merges boxes, and a Classifier has none: set TEST.AUG.ENABLED False."


def _nesterov_momentum(config: CfgNode) -> str:
    solver = config.SOLVER
    if not solver.NESTEROV or solver.OPTIMIZER != "SGD" or solver.MOMENTUM > 0:
        return ""
    return f"SOLVER.NESTEROV needs a momentum; SOLVER.MOMENTUM is {solver.MOMENTUM}."


def problem_of_expectation(row: Any) -> str:
    """The mistake in a row of TEST.EXPECTED_RESULTS; empty for none.

    Args:
        row: [dataset (optional), task, metric, value, tolerance].
    """
    is_row = isinstance(row, (list, tuple)) and len(row) in (4, 5)
    if not is_row or not all(isinstance(part, str) for part in row[:-2]):
        return f"a row is {EXPECTATION}"
    if not all(is_number(number) and math.isfinite(number) for number in row[-2:]):
        return f"its last two values must be finite numbers; a row is {EXPECTATION}"
    return "its tolerance, the last value, must be at least 0" if row[-1] < 0 else ""


def _expected_results(config: CfgNode) -> str:
    for row in config.TEST.EXPECTED_RESULTS:
        problem = problem_of_expectation(row)
        if problem:
            return f"TEST.EXPECTED_RESULTS has the row {row!r}; {problem}."
    return ""


RELATIONS = (
    Relation(
        (LOSS_TYPE, FEDERATED, SIGMOID),
        _classification,
        {LOSS_TYPE: lambda _: "softmax", FEDERATED: lambda _: False, SIGMOID: lambda _: False},
    ),
    Relation(
        (POINT_CLASSES, CLASSES),
        _classes_of_points,
        {POINT_CLASSES: lambda config: config.MODEL.ROI_HEADS.NUM_CLASSES},
    ),
    Relation(("TEST.EXPECTED_RESULTS",), _expected_results),
    Relation(("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"), _pixel_statistics),
    Relation(("INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_TRAIN_SAMPLING"), _range_of_sizes),
    Relation(("INPUT.CROP.SIZE", "INPUT.CROP.TYPE"), _crop_size),
    Relation(("SOLVER.BASE_LR_END", "SOLVER.BASE_LR"), _final_learning_rate),
    Relation(("TEST.AUG.ENABLED", "MODEL.META_ARCHITECTURE"), _augmented_classifier),
    Relation(("SOLVER.TRAIN",), problem_of_trained_parts),
    Relation(("SOLVER.STAGES",), problem_of_stage_list),
    Relation(("SOLVER.NESTEROV", "SOLVER.MOMENTUM"), _nesterov_momentum),
    Relation((FOLD, FOLDS), problem_of_fold),
    Relation((GROUP,), problem_of_group),
    Relation((FOLDS, TEST), problem_of_test_set, {TEST: lambda config: list(config.DATASETS.TRAIN)}),
    Relation((TRAIN, TEST), problem_of_foreign_test_set, {TEST: lambda _: []}),
)


# --- keys of unsupported parts ----------------------------------------------------------------------------------------


def unsupported_changes(config: CfgNode) -> list[Key]:
    """The keys of unsupported parts that differ from their default where that would change the result.

    These are the keys of selected parts, and those on the command line.
    """
    return [key for key in _changed_unsupported(config) if _is_selected(key, config) or _is_typed(key, config)]


def refuse_unsupported(config: CfgNode) -> None:
    """Refuse keys of unsupported parts that would change the result.

    Raises:
        UserError: listing each key with its value, where it was set and its default.
    """
    lines = []
    for key in unsupported_changes(config):
        why = "because" if _is_selected(key, config) else "only if"
        reason = f", which counts {why} {key.unsupported}" if str(key.unsupported) else ""
        lines.append(
            f"{config.origin_of(key.name)}: {key.name} = {config.value_of(key.name)!r}{reason}; "
            f"leave it at its default {key.default!r}."
        )
    if lines:
        keys = "this key sets a part" if len(lines) == 1 else "these keys set parts"
        raise UserError(f"{keys} of Detectron2 that this version does not have:\n  " + "\n  ".join(lines))


def warn_of_unused(config: CfgNode) -> None:
    """Log one line with the keys of unsupported parts that a file sets and the config does not select."""
    matter = unsupported_changes(config)
    unused = [key.name for key in _changed_unsupported(config) if key not in matter]
    if unused:
        logger.warning(
            "set without effect, as they belong to parts that the config does not select: %s",
            ", ".join(f"{name} ({config.origin_of(name)})" for name in unused),
        )


def _changed_unsupported(config: CfgNode) -> list[Key]:
    return [key for key in ALL_KEYS if key.unsupported is not None and config.value_of(key.name) != key.default]


def _is_selected(key: Key, config: CfgNode) -> bool:
    part = key.unsupported
    return part is not None and (not part.selector or config.value_of(part.selector) in part.values)


def _is_typed(key: Key, config: CfgNode) -> bool:
    return config.origin_of(key.name).source == COMMAND_LINE
