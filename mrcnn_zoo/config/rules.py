"""Value ranges, rules between two keys, and keys that describe one thing in two ways."""

import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

from mrcnn_zoo.config.defaults import ALL_KEYS
from mrcnn_zoo.config.keys import UNLIMITED, Key
from mrcnn_zoo.config.node import DEFAULT, CfgNode
from mrcnn_zoo.config.provenance import Origin
from mrcnn_zoo.errors import UserError

# By MODEL.META_ARCHITECTURE; others predict no classes, or are the user's own.
CLASS_COUNT_KEYS = {
    "GeneralizedRCNN": "MODEL.ROI_HEADS.NUM_CLASSES",
    "PanopticFPN": "MODEL.ROI_HEADS.NUM_CLASSES",
    "RetinaNet": "MODEL.RETINANET.NUM_CLASSES",
    "FCOS": "MODEL.RETINANET.NUM_CLASSES",
}


def class_count_key(config: CfgNode) -> str:
    """The key that holds the number of classes of the model; empty where none does."""
    return CLASS_COUNT_KEYS.get(config.MODEL.META_ARCHITECTURE, "")


def class_count(config: CfgNode) -> int | None:
    """The number of classes of the model, the background not counted; None where no key tells."""
    key = class_count_key(config)
    return config.value_of(key) if key else None


def section_of_boxes(config: CfgNode) -> str:
    """The section of MODEL with the thresholds and the suppression of the detector's boxes."""
    return "RETINANET" if config.MODEL.META_ARCHITECTURE == "RetinaNet" else "ROI_HEADS"


EXPECTATION = (
    "[task, metric, value, tolerance], e.g. ['bbox', 'AP', 38.5, 0.2], after the dataset's name if there are several"
)
Relation = Callable[[CfgNode], str]  # what is wrong with several keys together; empty for nothing


def check_numbers(config: CfgNode) -> None:
    """Compare every number of a config with the range of its key, and the keys that depend on each other.

    Raises:
        UserError: listing each key with its value, where it was set and what is allowed.
    """
    problems = list(_problems_of_keys(config)) or list(_problems_of_relations(config))
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        raise UserError("the config has values that cannot be used:\n  " + "\n  ".join(problems))


def check_number(key: Key, value: Any, *, origin: Origin = DEFAULT) -> None:
    """Compare one value with the range of its key.

    Raises:
        UserError: with the origin, the key, the value and what is allowed.
    """
    problem = _problem_of_value(key, value)
    if problem:
        raise UserError(f"{_place(origin)}{key.name} = {value!r} {problem}.")


def range_words(key: Key) -> str:
    """What a key allows, for `config explain`, e.g. "2 values, each in [0, 1), ascending"; empty without a rule."""
    parts = [str(key.length)] if key.length else []
    if key.range:
        parts.append(f"each {key.range}" if isinstance(key.default, list) else str(key.range))
    if key.ascends:
        parts.append("ascending")
    return ", ".join(parts)


def _problems_of_keys(config: CfgNode) -> Iterator[str]:
    for key in ALL_KEYS:
        value = None if key.is_open else config.value_of(key.name)
        problem = _problem_of_value(key, value)
        if problem:
            yield f"{_place(config.origin_of(key.name))}{key.name} = {value!r} {problem}."


def _problem_of_value(key: Key, value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return _problem_of_list(key, list(value))
    if key.range is not None and _is_number(value) and not key.range.holds(value):
        return f"must be {_finite(key, [value])}{key.range}"
    return ""


def _finite(key: Key, numbers: list[float]) -> str:
    """What NaN and infinity need to hear besides the bounds, which they may well keep."""
    is_said = key.range is None or key.range.allows_infinity or key.range == UNLIMITED
    return "" if is_said or all(map(math.isfinite, numbers)) else "finite, and "


def _problem_of_list(key: Key, values: list[Any]) -> str:
    rows = [row for row in values if isinstance(row, (list, tuple))] or [values]
    if len(rows) != len(values) and rows[0] is not values:
        return "must hold either numbers or lists of numbers"
    numbers = [number for row in rows for number in row if _is_number(number)]
    where = " in each of its lists" if isinstance(key.default, list) and rows[0] is not values else ""
    if key.length is not None and not all(key.length.holds(len(row)) for row in rows):
        return f"must hold {key.length}{where}{_rule_of_numbers(key)}"
    if key.range is not None and not all(map(key.range.holds, numbers)):
        count = f" {key.length}," if key.length is not None and key.length.most is not None else " numbers,"
        return f"must hold{count} each {_finite(key, numbers)}{key.range}{where}"
    if key.ascends and any(list(row) != sorted(row) for row in rows):
        return "must ascend"
    return ""


def _rule_of_numbers(key: Key) -> str:
    return f", each {key.range}" if key.range is not None else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _place(origin: Origin) -> str:
    return "" if origin == DEFAULT else f"{origin}: "


def _problems_of_relations(config: CfgNode) -> Iterator[str]:
    for names, relation in RELATIONS.items():
        problem = relation(config)
        if problem:
            origins = dict.fromkeys(map(config.origin_of, names))
            places = ", ".join(str(origin) for origin in origins if origin != DEFAULT)
            yield f"{places}: {problem}" if places else problem


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


def _nesterov_momentum(config: CfgNode) -> str:
    solver = config.SOLVER
    if not solver.NESTEROV or solver.OPTIMIZER != "SGD" or solver.MOMENTUM > 0:
        return ""
    return f"SOLVER.NESTEROV needs a momentum; SOLVER.MOMENTUM is {solver.MOMENTUM}."


def problem_of_expectation(row: Any) -> str:
    """What is wrong with a row of TEST.EXPECTED_RESULTS; empty for nothing."""
    is_row = isinstance(row, (list, tuple)) and len(row) in (4, 5)
    if not is_row or not all(isinstance(part, str) for part in row[:-2]):
        return f"a row is {EXPECTATION}"
    if not all(_is_number(number) and math.isfinite(number) for number in row[-2:]):
        return f"its last two values must be finite numbers; a row is {EXPECTATION}"
    return "its tolerance, the last value, must be at least 0" if row[-1] < 0 else ""


def _expected_results(config: CfgNode) -> str:
    for row in config.TEST.EXPECTED_RESULTS:
        problem = problem_of_expectation(row)
        if problem:
            return f"TEST.EXPECTED_RESULTS has the row {row!r}; {problem}."
    return ""


def _classes_of_points(config: CfgNode) -> str:
    regions, points = config.MODEL.ROI_HEADS.NUM_CLASSES, config.MODEL.POINT_HEAD.NUM_CLASSES
    if regions == points or not has_point_head(config):
        return ""
    return f"MODEL.POINT_HEAD.NUM_CLASSES = {points} must be MODEL.ROI_HEADS.NUM_CLASSES = {regions} in PointRend."


RELATIONS: dict[tuple[str, ...], Relation] = {
    ("TEST.EXPECTED_RESULTS",): _expected_results,
    ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"): _pixel_statistics,
    ("INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_TRAIN_SAMPLING"): _range_of_sizes,
    ("MODEL.POINT_HEAD.NUM_CLASSES", "MODEL.ROI_HEADS.NUM_CLASSES"): _classes_of_points,
    ("INPUT.CROP.SIZE", "INPUT.CROP.TYPE"): _crop_size,
    ("SOLVER.BASE_LR_END", "SOLVER.BASE_LR"): _final_learning_rate,
    ("SOLVER.NESTEROV", "SOLVER.MOMENTUM"): _nesterov_momentum,
}


BOX_HEAD = "MODEL.ROI_BOX_HEAD"
LOSS_TYPE, SIGMOID, FEDERATED = f"{BOX_HEAD}.CLS_LOSS_TYPE", f"{BOX_HEAD}.USE_SIGMOID_CE", f"{BOX_HEAD}.USE_FED_LOSS"
CLASSES, POINT_CLASSES = "MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.POINT_HEAD.NUM_CLASSES"
SWITCHED = ("sigmoid", "federated")  # the types that the switches mean

logger = logging.getLogger(__name__)


def settle_contradictions(config: CfgNode) -> None:
    """Give up, and name, what was set less close than a key that contradicts it; equally close keys stay as they are.

    Lengths of training are chosen by the run, as some of them are not contradictions there (`choose_length`).

    Args:
        config: mutable.
    """
    _settle_classification(config)
    _settle_point_classes(config)


def _settle_classification(config: CfgNode) -> None:
    switches = max(config.closeness_of(SIGMOID), config.closeness_of(FEDERATED))
    typed = config.closeness_of(LOSS_TYPE)
    head = config.MODEL.ROI_BOX_HEAD
    if config.closeness_of(SIGMOID) > config.closeness_of(FEDERATED) and head.USE_FED_LOSS and not head.USE_SIGMOID_CE:
        _give_up(config, FEDERATED, False, counts=SIGMOID)
    meant = "federated" if head.USE_FED_LOSS else "sigmoid"
    if typed > switches and head.USE_SIGMOID_CE and meant != head.CLS_LOSS_TYPE:
        for switch in (SIGMOID, FEDERATED):
            if config.value_of(switch):
                _give_up(config, switch, False, counts=LOSS_TYPE)
    elif switches > typed:
        closer = SIGMOID if config.closeness_of(SIGMOID) == switches else FEDERATED
        is_contradicted = (
            head.CLS_LOSS_TYPE not in ("softmax", meant)
            if head.USE_SIGMOID_CE
            else (config.closeness_of(SIGMOID) > typed and head.CLS_LOSS_TYPE in SWITCHED)
        )
        if is_contradicted:
            _give_up(config, LOSS_TYPE, "softmax", counts=closer)


def _settle_point_classes(config: CfgNode) -> None:
    """PointRend's point head has the classes of the region heads where these were set closer."""
    count = config.MODEL.ROI_HEADS.NUM_CLASSES
    is_contradicted = count != config.MODEL.POINT_HEAD.NUM_CLASSES and has_point_head(config)
    if is_contradicted and config.closeness_of(CLASSES) > config.closeness_of(POINT_CLASSES):
        if config.origin_of(POINT_CLASSES) == DEFAULT:
            config.MODEL.POINT_HEAD.NUM_CLASSES = count
        else:
            _give_up(config, POINT_CLASSES, count, counts=CLASSES)


def has_point_head(config: CfgNode) -> bool:
    """Whether the model has PointRend's point head."""
    mask_head = config.MODEL.ROI_MASK_HEAD
    return config.MODEL.MASK_ON and mask_head.NAME == "PointRendMaskHead" and mask_head.POINT_HEAD_ON


def _give_up(config: CfgNode, name: str, value: Any, *, counts: str) -> None:
    logger.warning(
        "%s = %s (%s) does not count: %s = %s (%s) contradicts it and was set closer",
        name,
        config.value_of(name),
        config.origin_of(name),
        counts,
        config.value_of(counts),
        config.origin_of(counts),
    )
    section, _, leaf = name.rpartition(".")
    config.value_of(section)[leaf] = value
