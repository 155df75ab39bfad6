"""The YAML of a sweep: variants of a base config, seeds, and what their table shows; read and checked."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mrcnn_zoo.config.files import SUFFIX, find_config, packaged_sweeps, problem_of_place, read_text_file
from mrcnn_zoo.config.keys import Assignment, Origin, is_number, typed_path
from mrcnn_zoo.config.node import locate
from mrcnn_zoo.config.safe_yaml import read_yaml
from mrcnn_zoo.config.values import coerce
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.experiments.fields import Fields
from mrcnn_zoo.experiments.grid import grid_variants
from mrcnn_zoo.experiments.variants import Variant, is_folder_name, read_variants, refuse_bad_names, refuse_cycles
from mrcnn_zoo.registry import did_you_mean

PAPER_FIELDS = ("SOURCE", "COLUMNS", "ROWS")
COLUMN = re.compile(r"[^/\s]+(/[^/\s]+)+")  # "segm/AP", "stages/backbone/classification/top1"
DEFAULT_FOLDER = "output/sweeps"
MAX_SEED = 2**32  # NumPy's limit
MAX_RUNS = 10_000
ONLY_VARIANT = "base"  # name of the variant of a sweep without VARIANTS and GRID


@dataclass(frozen=True)
class PaperNumber:
    """A published number.

    Args:
        variant: its row.
        column: e.g. "segm/AP".
        value: in the unit of our metric, percent for AP.
    """

    variant: str
    column: str
    value: float


@dataclass(frozen=True)
class Sweep:
    """A sweep, as its file describes it; names and keys are checked, the configs are not loaded.

    Args:
        name: NAME, or the stem of the file.
        file: that was read.
        base: name or path of the config below all variants.
        output_dir: folder of the sweep.
        variants: in the order of the table: those of VARIANTS, then those of GRID.
        seeds: of each variant.
        reference: name of the variant that the others are compared with.
        columns: metrics of the table, e.g. "segm/AP"; empty for the default of `columns_of`.
        paper: published numbers.
        paper_source: where they were published.
        paper_columns: of the published table, in its order.
        data_fractions: shares of the training images; empty for all images alone.
        folds: of a cross-validation; 0 for none.
        group: regular expression whose group in the file name keeps images in one fold, or share of the data.
        space: of a search, as in the file.
        objective: metric of a search; empty for the first column.
        slurm: settings of the launcher slurm, as in the file.
        title: of the report.
        note: text below the title.
    """

    name: str
    file: Path
    base: str
    output_dir: Path
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...] = (0,)
    reference: str = ""
    columns: tuple[str, ...] = ()
    paper: tuple[PaperNumber, ...] = ()
    paper_source: str = ""
    paper_columns: tuple[str, ...] = ()
    data_fractions: tuple[float, ...] = ()
    folds: int = 0
    group: str = ""
    space: Mapping[str, Any] = field(default_factory=dict)
    objective: str = ""
    slurm: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    note: str = ""

    def variant(self, name: str) -> Variant:
        """The variant of a name.

        Args:
            name: of the sweep's variants.

        Raises:
            UserError: there is no such variant; with the nearest name.
        """
        by_name = {variant.name: variant for variant in self.variants}
        if name not in by_name:
            raise UserError(
                f"the sweep {self.name} has no variant {name!r}.{did_you_mean(name, by_name)} Its variants are "
                f"{', '.join(by_name)}."
            )
        return by_name[name]


def find_sweep(name: str | Path) -> Path:
    """The file of a sweep, given by its path or by its name in the package.

    Args:
        name: e.g. "my_sweep.yaml", or "Sweeps/roi_layer_digits" or "roi_layer_digits".

    Raises:
        UserError: there is no such file.
    """
    try:
        return find_config(name)
    except UserError:
        wanted = Path(name).with_suffix("").as_posix()
        found = [path for path in packaged_sweeps() if f"/{path}".endswith(f"/{wanted}{SUFFIX}")]
        if not wanted or not found:
            raise
    return find_config(found[0])


def read_sweep(path: str | Path) -> Sweep:
    """Read the file of a sweep, and check its fields, names and config keys; no config is loaded.

    Args:
        path: of the file, or its name in the package.

    Raises:
        UserError: naming the file, the line, the field and the value.
    """
    file = find_sweep(path)
    source = typed_path(file)
    fields = Fields(read_yaml(read_text_file(file), source), source)
    name = fields.text("NAME") or file.stem
    if fields.text("NAME") and not is_folder_name(name):
        raise UserError(f"{fields.origin('NAME')}: NAME = {name!r} cannot be the name of a folder.")
    sweep = Sweep(
        name=name,
        file=file,
        base=_base_of(fields, file),
        output_dir=Path(fields.text("OUTPUT_DIR") or f"{DEFAULT_FOLDER}/{name}"),
        variants=_variants_of(fields, file),
        seeds=_seeds_of(fields),
        columns=tuple(dict.fromkeys(_column(name, fields, "COLUMNS") for name in fields.items("COLUMNS"))),
        data_fractions=_fractions_of(fields),
        folds=_folds_of(fields),
        group=_group_of(fields),
        space=fields.mapping("SPACE"),
        objective=_column(fields.text("OBJECTIVE"), fields, "OBJECTIVE") if fields.text("OBJECTIVE") else "",
        slurm=fields.mapping("SLURM"),
        title=fields.text("TITLE"),
        note=fields.text("NOTE"),
        reference=fields.text("REFERENCE"),
        paper_source=fields.text("PAPER", "SOURCE"),
        paper_columns=tuple(_column(name, fields, "PAPER", "COLUMNS") for name in fields.items("PAPER", "COLUMNS")),
    )
    return _with_names_checked(sweep, fields)


def _base_of(fields: Fields, file: Path) -> str:
    base = fields.text("BASE")
    if not base:
        raise UserError(f"{fields.source}: BASE is missing; name the config that all variants start from.")
    return resolved_base(base, file, fields.origin("BASE"))


def resolved_base(base: str, file: Path, origin: Origin) -> str:
    """A config named in a sweep: a file beside the sweep's, or else what `find_config` finds.

    Args:
        base: as written.
        file: of the sweep.
        origin: of the name.

    Raises:
        UserError: there is no such config.
    """
    beside = file.parent / base
    if not problem_of_place(beside):
        return str(beside)
    try:
        find_config(base)
    except UserError as error:
        raise UserError(f"{origin}: BASE: {error}") from error
    return base


def _variants_of(fields: Fields, file: Path) -> tuple[Variant, ...]:
    named = read_variants(fields.below("VARIANTS"), resolve=lambda base, origin: resolved_base(base, file, origin))
    exclude = fields.items("EXCLUDE")
    grid = list(fields.below("GRID"))
    if exclude and not grid:
        raise UserError(f"{fields.origin('EXCLUDE')}: EXCLUDE leaves out points of GRID, and there is no GRID.")
    variants = [*named, *grid_variants(grid, exclude, origin=fields.origin("EXCLUDE"))]
    if not variants:
        variants = [Variant(ONLY_VARIANT)]
    refuse_bad_names(variants, fields.source)
    for variant in variants:
        for assignment in variant.overrides:
            _check_override(assignment, variant.name)
            for field_name, keys in KEYS_OF_FIELDS.items():
                if assignment.name in keys and fields.value(field_name):
                    raise UserError(
                        f"{assignment.origin}: variant {variant.name!r} sets {assignment.name}, and {field_name} sets "
                        "it in each run. Remove one of them."
                    )
    return tuple(variants)


RUN_KEYS = {"OUTPUT_DIR": "each run has a folder of its own", "SEED": "SEEDS lists the seeds"}
KEYS_OF_FIELDS = {  # keys that a field of the sweep sets in each run
    "DATA_FRACTIONS": ("DATASETS.FRACTION",),
    "FOLDS": ("DATASETS.FOLDS", "DATASETS.FOLD", "DATASETS.GROUP"),
    "GROUP": ("DATASETS.GROUP",),
}


def _check_override(assignment: Assignment, variant: str) -> None:
    """Refuse an override that is no config key, belongs to the sweep, or has a value that does not fit.

    Raises:
        UserError: naming the line and the variant.
    """
    try:
        key, _ = locate(assignment)
        problem = "" if key.is_open else key.problem_of(coerce(assignment, key))
    except UserError as error:
        raise UserError(f"{error} (variant {variant!r})") from error
    if key.name in RUN_KEYS:
        raise UserError(f"{assignment.origin}: variant {variant!r} sets {key.name}, but {RUN_KEYS[key.name]}.")
    if problem:
        raise UserError(f"{assignment.origin}: variant {variant!r}: {key.name} = {assignment.value!r} {problem}")


def _seeds_of(fields: Fields) -> tuple[int, ...]:
    seeds = fields.items("SEEDS")
    if any(not isinstance(seed, int) or isinstance(seed, bool) or seed < 0 for seed in seeds):
        raise UserError(f"{fields.origin('SEEDS')}: SEEDS = {seeds} must be a list of whole numbers of at least 0.")
    if any(seed >= MAX_SEED for seed in seeds):
        raise UserError(f"{fields.origin('SEEDS')}: SEEDS = {seeds} has a seed that is not below {MAX_SEED} (2^32).")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{fields.origin('SEEDS')}: SEEDS = {seeds} has a seed twice.")
    return tuple(seeds) or (0,)


def _fractions_of(fields: Fields) -> tuple[float, ...]:
    fractions = fields.items("DATA_FRACTIONS")
    if any(not is_number(value) or not 0 < value <= 1 for value in fractions) or fractions != sorted(set(fractions)):
        raise UserError(
            f"{fields.origin('DATA_FRACTIONS')}: DATA_FRACTIONS = {fractions} must be rising shares above 0 and up to "
            "1, e.g. [0.1, 0.2, 0.4, 0.7, 1.0]."
        )
    if len({f"{value:g}" for value in fractions}) < len(fractions):
        raise UserError(
            f"{fields.origin('DATA_FRACTIONS')}: DATA_FRACTIONS = {fractions} has shares that differ only after six "
            "digits, and their runs would have the same folder."
        )
    return tuple(map(float, fractions))


def _folds_of(fields: Fields) -> int:
    folds = fields.value("FOLDS")
    if folds is not None and (not isinstance(folds, int) or isinstance(folds, bool) or folds < 2):
        raise UserError(f"{fields.origin('FOLDS')}: FOLDS = {folds!r} must be a whole number of at least 2.")
    return folds or 0


def _group_of(fields: Fields) -> str:
    group = fields.text("GROUP")
    try:
        re.compile(group)
    except re.error as error:
        raise UserError(
            f"{fields.origin('GROUP')}: GROUP = {group!r} is not a valid regular expression: {error}."
        ) from error
    if group and not (fields.value("FOLDS") or fields.value("DATA_FRACTIONS")):
        raise UserError(f"{fields.origin('GROUP')}: GROUP is for FOLDS and DATA_FRACTIONS, and there are none.")
    return group


def _column(name: Any, fields: Fields, *path: str) -> str:
    if not isinstance(name, str) or not COLUMN.fullmatch(name):
        raise UserError(
            f"{fields.origin(*path)}: {'.'.join(path)}: {name!r} must be a task and a metric, e.g. segm/AP, or "
            "stages/NAME/bbox/AP of a stage."
        )
    return name


def _with_names_checked(sweep: Sweep, fields: Fields) -> Sweep:
    """The sweep with its reference and published numbers, whose names must be those of variants."""
    names = [variant.name for variant in sweep.variants]
    _refuse_unknown(sweep.reference or names[0], names, fields.origin("REFERENCE"), "REFERENCE")
    for variant in sweep.variants:
        for source in variant.sources:
            _refuse_unknown(source, names, variant.origin, f"variant {variant.name!r}: FROM")
    refuse_cycles(sweep.variants)
    _refuse_too_many(sweep, fields.source)
    paper = _paper_of(fields, names)
    if paper and not sweep.paper_source:
        raise UserError(f"{fields.origin('PAPER')}: PAPER.SOURCE is missing; name the paper and the table.")
    columns = sweep.paper_columns or tuple(dict.fromkeys(number.column for number in paper))
    return replace(sweep, reference=sweep.reference or names[0], paper=tuple(paper), paper_columns=columns)


def _paper_of(fields: Fields, names: Sequence[str]) -> list[PaperNumber]:
    for name in fields.mapping("PAPER"):
        if name not in PAPER_FIELDS:
            raise UserError(
                f"{fields.origin('PAPER', name)}: PAPER has no field {name!r}.{did_you_mean(name, PAPER_FIELDS)}"
            )
    paper: list[PaperNumber] = []
    for item in fields.below("PAPER", "ROWS"):
        variant, *column = item.path[2:] or [""]
        if item.value in (None, {}) and not column:  # no rows, or a row without numbers
            continue
        if len(column) != 1:
            raise UserError(
                f"{item.origin}: {'.'.join(item.path)} = {item.value!r}: PAPER.ROWS takes a mapping of metrics to "
                "numbers for each variant, e.g. {baseline: {segm/AP: 36.9}}."
            )
        _refuse_unknown(variant, names, item.origin, "PAPER.ROWS")
        _column(column[0], fields, *item.path[:3])
        if not is_number(item.value):
            raise UserError(f"{item.origin}: {'.'.join(item.path)} = {item.value!r} must be a number.")
        paper.append(PaperNumber(variant, column[0], float(item.value)))
    return paper


def _refuse_too_many(sweep: Sweep, source: str) -> None:
    folds, fractions = sweep.folds or 1, len(sweep.data_fractions) or 1
    count = len(sweep.variants) * len(sweep.seeds) * folds * fractions
    if count > MAX_RUNS:
        raise UserError(
            f"{source}: the sweep has {count} runs ({len(sweep.variants)} variants, {len(sweep.seeds)} seeds, {folds} "
            f"folds, {fractions} shares of the data), more than {MAX_RUNS}; leave out some."
        )


def _refuse_unknown(name: str, names: Sequence[str], origin: Origin, what: str) -> None:
    if name not in names:
        raise UserError(
            f"{origin}: {what} names {name!r}, which is no variant.{did_you_mean(name, names)} The variants are "
            f"{', '.join(names)}."
        )
