"""Variants of a sweep: named overrides of its base config, perhaps with weights of another variant."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mrcnn_zoo.config.keys import DEFAULT, Assignment, Origin, is_number
from mrcnn_zoo.config.stage_list import InheritedPart
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.experiments.fields import insert
from mrcnn_zoo.registry import did_you_mean

OVERRIDES, FROM, FRACTION, BASE, NOTE = "OVERRIDES", "FROM", "FRACTION", "BASE", "NOTE"
RESERVED = (OVERRIDES, FROM, FRACTION, BASE, NOTE)
PROPOSALS = "proposals"  # a part in FROM of SOLVER.STAGES that cannot be taken from a run
NAME = re.compile(r"[\w+-][\w.+ -]*")
MAX_NAME = 80  # characters; the name is that of a folder
TAKEN_NAMES = ("configs", "report", "search", "slurm")  # other folders of a sweep
FILE_SUFFIXES = (".yaml", ".json", ".lock", ".db", ".")  # of the files of a sweep; no folder ends with a dot in Windows

Resolve = Callable[[str, Origin], str]


@dataclass(frozen=True)
class Variant:
    """One variant.

    Args:
        name: of its row and its folder.
        overrides: of the base config, with their places in the file.
        base: config below the overrides; empty for that of the sweep.
        starts_from: variant whose trained weights are the initial ones; empty for none.
        inherited: parts of variants that are initial weights; `stage` is the name of the variant.
        fraction: share of the training images; None for those of the sweep.
        note: text for the report.
        origin: of the variant in the file.
    """

    name: str
    overrides: tuple[Assignment, ...] = ()
    base: str = ""
    starts_from: str = ""
    inherited: tuple[InheritedPart, ...] = ()
    fraction: float | None = None
    note: str = ""
    origin: Origin = DEFAULT

    @property
    def sources(self) -> tuple[str, ...]:
        """The variants whose weights this one takes."""
        names = ([self.starts_from] if self.starts_from else []) + [part.stage for part in self.inherited]
        return tuple(dict.fromkeys(names))


def read_variants(assignments: Iterable[Assignment], *, resolve: Resolve) -> list[Variant]:
    """The variants of VARIANTS, in the order of the file.

    Args:
        assignments: of VARIANTS and below it.
        resolve: finds the config that a variant names in BASE.

    Raises:
        UserError: naming the line and the variant.
    """
    by_name: dict[str, list[Assignment]] = {}
    for assignment in assignments:
        if len(assignment.path) > 1:
            by_name.setdefault(assignment.path[1], []).append(assignment)
    return [_read_variant(name, own, resolve) for name, own in by_name.items()]


def _read_variant(name: str, assignments: Sequence[Assignment], resolve: Resolve) -> Variant:
    overrides: list[Assignment] = []
    reserved: dict[str, list[Assignment]] = {}
    for assignment in assignments:
        path = assignment.path[2:]
        if not path:
            if assignment.value not in (None, {}):
                raise UserError(
                    f"{assignment.origin}: variant {name!r} must be a mapping of config keys, not {assignment.value!r}."
                )
        elif path[0] == OVERRIDES:
            overrides += [Assignment(path[1:], assignment.value, assignment.origin)] if path[1:] else []
        elif path[0] in RESERVED:
            reserved.setdefault(path[0], []).append(assignment)
        elif path[0].isupper() and "." not in path[0] and did_you_mean(path[0], RESERVED) and len(path) == 1:
            near = did_you_mean(path[0], RESERVED)
            raise UserError(f"{assignment.origin}: variant {name!r} has no field {path[0]!r}.{near}")
        else:
            overrides.append(Assignment(path, assignment.value, assignment.origin))
    base, note = (_text(reserved.get(field, []), name) for field in (BASE, NOTE))
    starts_from, inherited = _read_from(reserved.get(FROM, []), name)
    return Variant(
        name,
        overrides=tuple(overrides),
        base=resolve(base, reserved[BASE][0].origin) if base else "",
        starts_from=starts_from,
        inherited=inherited,
        fraction=_read_fraction(reserved.get(FRACTION, []), name),
        note=note,
        origin=assignments[0].origin,
    )


def _text(assignments: Sequence[Assignment], variant: str) -> str:
    for assignment in assignments:
        if not isinstance(assignment.value, str) or len(assignment.path) != 3:
            raise UserError(
                f"{assignment.origin}: {assignment.path[2]} of variant {variant!r} must be a text; put it in quotes."
            )
        return assignment.value
    return ""


def _read_fraction(assignments: Sequence[Assignment], variant: str) -> float | None:
    for assignment in assignments:
        value = assignment.value
        if not is_number(value) or not 0 < value <= 1:
            raise UserError(
                f"{assignment.origin}: FRACTION = {value!r} of variant {variant!r} must be a share of the training "
                "images above 0 and up to 1."
            )
        return float(value)
    return None


def _read_from(assignments: Sequence[Assignment], variant: str) -> tuple[str, tuple[InheritedPart, ...]]:
    """The variant with all weights, and the inherited parts."""
    inherited: list[InheritedPart] = []
    for assignment in assignments:
        value, origin, part = assignment.value, assignment.origin, ".".join(assignment.path[3:])
        place = f"{origin}: FROM{f'.{part}' if part else ''} of variant {variant!r}"
        if not isinstance(value, str) or not value.strip():
            raise UserError(
                f"{place} must be the name of a variant, or a mapping of parts such as {{backbone: NAME}}, not "
                f"{value!r}."
            )
        if not part:
            return value, ()
        if part == PROPOSALS:
            raise UserError(f"{place}: only weights are taken from a run; use SOLVER.STAGES for proposals of a stage.")
        source, colon, source_part = value.partition(":")
        if not source or (colon and not source_part):
            raise UserError(f"{place} must be 'variant' or 'variant:part', not {value!r}.")
        inherited.append(InheritedPart(part, source, source_part or part))
    return "", tuple(inherited)


def is_folder_name(name: str) -> bool:
    """Whether a name can be that of a folder of a sweep beside its files.

    Args:
        name: of a variant or a sweep.
    """
    is_taken = name.lower() in TAKEN_NAMES or name.lower().endswith(FILE_SUFFIXES)
    return bool(NAME.fullmatch(name)) and name == name.strip() and len(name) <= MAX_NAME and not is_taken


def refuse_bad_names(variants: Sequence[Variant], source: str) -> None:
    """Refuse names of variants that cannot be folders, or that two variants have.

    Args:
        variants: of the sweep.
        source: file of the sweep.

    Raises:
        UserError: naming the variant.
    """
    seen: dict[str, str] = {}
    for variant in variants:
        name = variant.name
        if not is_folder_name(name):
            raise UserError(
                f"{source}: the variant {name!r} cannot be the name of a folder: use up to {MAX_NAME} letters, digits, "
                f"spaces and . _ + -, none of {', '.join(TAKEN_NAMES)}, and none of {' '.join(FILE_SUFFIXES)} at the "
                "end."
            )
        if name.lower() in seen:
            other = seen[name.lower()]
            raise UserError(
                f"{source}: two variants are named {other!r}{'' if name == other else f' and {name!r}'}; file systems "
                "may ignore case, so each needs another name."
            )
        seen[name.lower()] = name


def refuse_cycles(variants: Sequence[Variant]) -> None:
    """Refuse variants that start FROM each other.

    Args:
        variants: of the sweep, with known sources.

    Raises:
        UserError: naming the variants of the cycle.
    """
    sources = {variant.name: variant.sources for variant in variants}

    def follow(name: str, chain: tuple[str, ...]) -> None:
        if name in chain:
            loop = " -> ".join((*chain[chain.index(name) :], name))
            origin = next(variant.origin for variant in variants if variant.name == name)
            raise UserError(f"{origin}: the variants start FROM each other: {loop}. One of them must start without.")
        for source in sources[name]:
            follow(source, (*chain, name))

    for variant in variants:
        follow(variant.name, ())


def variant_mapping(variant: Variant) -> dict[str, Any]:
    """A variant as it is written in a file, with all overrides below OVERRIDES.

    Args:
        variant: of a sweep.
    """
    content: dict[str, Any] = {}
    overrides: dict[str, Any] = {}
    for assignment in variant.overrides:
        insert(overrides, assignment.path, assignment.value)
    if overrides:
        content[OVERRIDES] = overrides
    if variant.starts_from:
        content[FROM] = variant.starts_from
    elif variant.inherited:
        content[FROM] = {part.part: f"{part.stage}:{part.source}" for part in variant.inherited}
    optional = {FRACTION: variant.fraction, BASE: variant.base, NOTE: variant.note}
    return content | {name: value for name, value in optional.items() if value not in (None, "")}
