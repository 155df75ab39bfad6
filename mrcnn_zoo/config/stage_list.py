"""SOLVER.STAGES: a training schedule as a list of mappings, read and checked."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mrcnn_zoo.config.keys import Assignment, Origin
from mrcnn_zoo.config.node import CfgNode, locate
from mrcnn_zoo.config.values import coerce, flattened
from mrcnn_zoo.errors import UserError, kind_of
from mrcnn_zoo.registry import did_you_mean

KEY = "SOLVER.STAGES"
SCHEDULE = "stages"  # the schedule that reads the key
FIELDS = ("NAME", "TRAIN", "FROM", "OVERRIDES")
PROPOSALS = "proposals"  # the part of FROM that is a stage's proposals on disk
# Keys of the whole run, which no stage can change, and one that is a field of the stage.
RUN_KEYS = (
    "OUTPUT_DIR",
    "SOLVER.TRAINING_SCHEDULE",
    KEY,
    "SOLVER.STAGE_SHARES",
    "SOLVER.STAGE_RATES",
    "SOLVER.STAGE_OVERRIDES",
    "SOLVER.ALTERNATING_ROUNDS",
    "SOLVER.UNFREEZE",
)
OWN_FIELD = {"SOLVER.TRAIN": "TRAIN"}
# key -> the only schedules that read it; key -> the only ones that do not read it
READ_BY = {
    KEY: (SCHEDULE,),
    "SOLVER.ALTERNATING_ROUNDS": ("alternating_4_step", "pretrained_alternating_4_step"),
    "SOLVER.UNFREEZE": ("gradual_unfreezing",),
}
NOT_READ_BY = dict.fromkeys(("SOLVER.STAGE_SHARES", "SOLVER.STAGE_RATES"), ("joint", SCHEDULE))


@dataclass(frozen=True)
class InheritedPart:
    """Weights that a stage takes from an earlier one.

    Args:
        part: of the model of the stage, or the name of a module in it.
        stage: name of the earlier stage.
        source: part of the model of the earlier stage; equal to `part` where weights have the same names.
    """

    part: str
    stage: str
    source: str


@dataclass(frozen=True)
class ListedStage:
    """One entry of SOLVER.STAGES.

    Args:
        name: of the stage and of its folder.
        train: parts that are trained; None for those of SOLVER.TRAIN.
        starts_from: earlier stage from which all weights are taken; empty for none.
        inherited: parts that are taken from earlier stages.
        proposals: earlier stage that writes the proposals; empty for none.
        overrides: config keys of this stage, dotted or nested.
    """

    name: str
    train: tuple[str, ...] | None = None
    starts_from: str = ""
    inherited: tuple[InheritedPart, ...] = ()
    proposals: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)


def read_stage_list(items: Sequence[Any]) -> list[ListedStage]:
    """The stages of a list of mappings.

    Args:
        items: value of SOLVER.STAGES, or a list that a ready-made schedule has written.

    Raises:
        UserError: naming the place, e.g. SOLVER.STAGES[1].FROM.
    """
    stages: list[ListedStage] = []
    for number, item in enumerate(items):
        place = f"{KEY}[{number}]"
        if not isinstance(item, Mapping):
            raise UserError(f"{place} must be a mapping with {', '.join(FIELDS)}, not {kind_of(item)}.")
        for name in item:
            if name not in FIELDS:
                raise UserError(
                    f"{place} has no field {name!r}.{did_you_mean(str(name), FIELDS)} Its fields are "
                    f"{', '.join(FIELDS)}."
                )
        earlier = [stage.name for stage in stages]
        stages.append(_read_stage(item, place, earlier))
    return stages


def _read_stage(item: Mapping[str, Any], place: str, earlier: Sequence[str]) -> ListedStage:
    name = item.get("NAME")
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{place}.NAME must be the name of the stage and of its folder below OUTPUT_DIR, not {name!r}.")
    if name in earlier:
        raise UserError(
            f"{place}.NAME = {name!r} is that of {KEY}[{earlier.index(name)}], too; each stage needs its own."
        )
    starts_from, inherited, proposals = _read_from(item.get("FROM", ""), f"{place}.FROM", earlier)
    overrides = item.get("OVERRIDES") or {}
    if not isinstance(overrides, Mapping):
        raise UserError(f"{place}.OVERRIDES must be a mapping of config keys, not {kind_of(overrides)}.")
    check_overrides(overrides, f"{place}.OVERRIDES")
    if starts_from and any(assignment.name == "MODEL.WEIGHTS" for assignment in _assignments(overrides, place)):
        raise UserError(
            f"{place}: FROM = {starts_from!r} replaces all weights, so MODEL.WEIGHTS in OVERRIDES has no effect. "
            "Remove one of them, or name the parts that FROM takes."
        )
    return ListedStage(
        name,
        train=_read_train(item["TRAIN"], f"{place}.TRAIN") if "TRAIN" in item else None,
        starts_from=starts_from,
        inherited=inherited,
        proposals=proposals,
        overrides=overrides,
    )


def _read_train(value: Any, place: str) -> tuple[str, ...]:
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) and part for part in parts):
        raise UserError(
            f"{place} must be a part of the model, or a list of parts or name patterns, not {value!r}. Leave it out to "
            "train all; none or [] trains nothing."
        )
    if "none" in parts and len(parts) > 1:
        raise UserError(f"{place} = {list(parts)}: 'none' means that nothing is trained and must be alone.")
    return tuple(parts) or ("none",)


def _read_from(value: Any, place: str, earlier: Sequence[str]) -> tuple[str, tuple[InheritedPart, ...], str]:
    """The stage with all weights, the inherited parts, the stage with the proposals."""
    if isinstance(value, str):
        return _known(value, place, earlier) if value else "", (), ""
    if not isinstance(value, Mapping):
        raise UserError(
            f"{place} must be the name of an earlier stage, or a mapping like {{backbone: rpn_1, proposals: rpn_1}}, "
            f"not {kind_of(value)}."
        )
    inherited, proposals = [], ""
    for part, source in value.items():
        where = f"{place}.{part}"
        if not isinstance(source, str) or not source:
            raise UserError(f"{where} must be 'stage' or 'stage:part', not {source!r}.")
        stage, colon, source_part = source.partition(":")
        if colon and not source_part:
            raise UserError(f"{where} must be 'stage' or 'stage:part', not {source!r}.")
        _known(stage, where, earlier)
        if str(part)[1:] == "+" or source_part[1:] == "+":
            raise UserError(f"{where} = {source!r}: stages of a network cannot be taken; name modules or patterns.")
        if part == PROPOSALS:
            if source_part:
                raise UserError(f"{where} = {source!r} must be the name of a stage alone.")
            proposals = stage
        else:
            inherited.append(InheritedPart(str(part), stage, source_part or str(part)))
    return "", tuple(inherited), proposals


def _known(stage: str, place: str, earlier: Sequence[str]) -> str:
    if stage not in earlier:
        known = f"the stages before it are {', '.join(earlier)}" if earlier else "it is the first stage"
        raise UserError(f"{place} names the stage {stage!r}, but {known}.{did_you_mean(stage, earlier)}")
    return stage


def check_overrides(overrides: Mapping[str, Any], place: str) -> None:
    """Refuse overrides of a stage that are no config keys, or have values that do not fit.

    Args:
        overrides: values by key, dotted or nested.
        place: of the overrides, for messages.

    Raises:
        UserError: naming the place and the key.
    """
    for assignment in _assignments(overrides, place):
        key, _ = locate(assignment)
        if key.name in RUN_KEYS:
            raise UserError(f"{place}: {key.name} is a key of the whole run and cannot be set for a stage.")
        if key.name in OWN_FIELD:
            raise UserError(f"{place}: write {OWN_FIELD[key.name]} of the stage in place of {key.name}.")
        if not key.is_open:
            value = coerce(assignment, key)
            problem = key.problem_of(value)
            if problem:
                raise UserError(f"{place}: {key.name} = {value!r} {problem}")


def _assignments(overrides: Mapping[str, Any], place: str) -> Iterator[Assignment]:
    for name, value in overrides.items():
        yield from flattened((str(name),), value, Origin(place))


def problem_of_stage_list(config: CfgNode) -> str:
    """The mistake in SOLVER.STAGES; empty for none."""
    if config.SOLVER.TRAINING_SCHEDULE == SCHEDULE and not config.SOLVER.STAGES:
        return f"SOLVER.TRAINING_SCHEDULE = {SCHEDULE!r} trains the stages of {KEY}, which is empty."
    try:
        read_stage_list(config.SOLVER.STAGES)
    except UserError as error:
        return str(error)
    return ""


def unused_stage_keys(config: CfgNode) -> list[str]:
    """Keys of stages that the schedule does not read, and that were set with a higher priority than the schedule.

    Args:
        config: the root; the schedule of a function of the user may read any key.
    """
    name, closeness = config.SOLVER.TRAINING_SCHEDULE, config.closeness_of("SOLVER.TRAINING_SCHEDULE")
    unread = [key for key, schedules in READ_BY.items() if name not in schedules]
    unread += [key for key, schedules in NOT_READ_BY.items() if name in schedules]
    return [] if ":" in name else [key for key in unread if config.closeness_of(key) > closeness]


def problem_of_trained_parts(config: CfgNode) -> str:
    """The mistake in SOLVER.TRAIN; empty for none."""
    parts = list(config.SOLVER.TRAIN)
    if "none" in parts and len(parts) > 1:
        return f"SOLVER.TRAIN = {parts}: 'none' means that nothing is trained and must be alone."
    return ""
