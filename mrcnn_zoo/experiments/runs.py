"""The runs of a sweep: one config per variant, seed, share of the data and fold, in an order for training."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.defaults import KEYS_BY_NAME
from mrcnn_zoo.config.files import BASE_KEY, SUFFIX, find_config, read_config_file
from mrcnn_zoo.config.keys import Assignment, Origin
from mrcnn_zoo.config.loading import changed_config, config_from_assignments
from mrcnn_zoo.config.node import locate
from mrcnn_zoo.config.stage_list import InheritedPart
from mrcnn_zoo.config.values import read_overrides
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.experiments.fields import insert
from mrcnn_zoo.experiments.sweep_file import Sweep
from mrcnn_zoo.experiments.variants import Variant
from mrcnn_zoo.output_files import write_text

RUN_CONFIG = "run.yaml"  # in the folder of a run
CONFIGS = "configs"  # folder of a sweep with the files that run.yaml is based on
FINAL_WEIGHTS = "model_final.pth"
INITIAL_WEIGHTS = "initial_weights.pth"
TYPED = "typed"  # name of the file with overrides of the command line


@dataclass(frozen=True)
class RunKey:
    """What distinguishes a run from the others of its sweep.

    Args:
        variant: its name.
        seed: SEED.
        fraction: share of the training images.
        fold: counted from 0, with FOLDS.
    """

    variant: str
    seed: int
    fraction: float = 1.0
    fold: int | None = None

    @property
    def path(self) -> Path:
        """The folder of the run below that of the sweep, e.g. "wide/fraction_0.1/fold_0/seed_0"."""
        parts = [f"fraction_{self.fraction:g}"] if self.fraction != 1 else []
        parts += [f"fold_{self.fold}"] if self.fold is not None else []
        return Path(self.variant, *parts, f"seed_{self.seed}")

    def __str__(self) -> str:
        """The folder, for messages and tables."""
        return self.path.as_posix()


@dataclass(frozen=True)
class RunSpec:
    """A run to be trained.

    Args:
        key: of the run.
        folder: OUTPUT_DIR.
        cfg: as `load_config` gives it.
        overrides: of the run over `base`.
        base: config below it, as in the sweep.
        starts_from: run with all initial weights; None for none.
        inherited: parts of other runs in the initial weights.
        base_weights: file with the other weights of `inherited`; empty for none.
    """

    key: RunKey
    folder: Path
    cfg: CfgNode
    overrides: tuple[Assignment, ...]
    base: str
    starts_from: RunKey | None = None
    inherited: tuple[tuple[InheritedPart, RunKey], ...] = ()
    base_weights: str = ""

    @property
    def sources(self) -> tuple[RunKey, ...]:
        """The runs whose weights this one takes, which are trained first."""
        first = [self.starts_from] if self.starts_from else []
        return tuple(dict.fromkeys([*first, *(key for _, key in self.inherited)]))


def run_keys(sweep: Sweep) -> list[RunKey]:
    """The runs of a sweep in the order of its table; no config is loaded.

    Args:
        sweep: of any kind.
    """
    folds: Sequence[int | None] = range(sweep.folds) if sweep.folds else (None,)
    return [
        RunKey(variant.name, seed, fraction, fold)
        for variant in sweep.variants
        for fraction in _fractions(sweep, variant)
        for fold in folds
        for seed in sweep.seeds
    ]


def expand(sweep: Sweep, *, overrides: Sequence[Any] = ()) -> list[RunSpec]:
    """The runs of a sweep with their configs, each after those that it takes weights from.

    Args:
        sweep: as read.
        overrides: of the base config, as typed: `KEY VALUE` or `KEY=VALUE`; variants may change them again.

    Raises:
        UserError: a config that cannot be loaded, with the variant.
    """
    typed = typed_overrides(overrides)
    bases = {base: [*read_config_file(base), *typed] for base in bases_of(sweep)}
    specs = {}
    for key in run_keys(sweep):
        variant = sweep.variant(key.variant)
        base = variant.base or sweep.base
        own = (*variant.overrides, *_settings_of(sweep, key, [*bases[base], *variant.overrides]))
        try:
            cfg = config_from_assignments([*bases[base], *own])
        except UserError as error:
            raise UserError(f"{sweep.file.name}, variant {variant.name!r}: {error}") from error
        specs[key] = _with_sources(sweep, variant, RunSpec(key, sweep.output_dir / key.path, cfg, own, base))
    return _in_order(specs)


def bases_of(sweep: Sweep) -> list[str]:
    """The configs below the variants, that of the sweep first.

    Args:
        sweep: of any kind.
    """
    return list(dict.fromkeys([sweep.base, *(variant.base for variant in sweep.variants if variant.base)]))


def typed_overrides(overrides: Sequence[Any]) -> list[Assignment]:
    """Overrides of the base configs, at the distance of a file: those of variants are closer.

    Args:
        overrides: as typed.

    Raises:
        UserError: a key of the sweep, or a key without a value.
    """
    typed = read_overrides(overrides, Origin(TYPED))
    for assignment in typed:
        if assignment.name in ("OUTPUT_DIR", "SEED"):
            option = "--output" if assignment.name == "OUTPUT_DIR" else "SEEDS in the sweep's file"
            raise UserError(f"{assignment.name} differs between the runs of a sweep; use {option}.")
        locate(assignment)
    return typed


def _fractions(sweep: Sweep, variant: Variant) -> Sequence[float]:
    return (variant.fraction,) if variant.fraction is not None else sweep.data_fractions or (1.0,)


def _settings_of(sweep: Sweep, key: RunKey, given: Sequence[Assignment]) -> list[Assignment]:
    """The keys that make a config that of one run; those of W&B where no `given` one sets them."""
    settings: dict[str, Any] = {"OUTPUT_DIR": str(sweep.output_dir / key.path), "SEED": key.seed}
    if key.fraction != 1:
        settings["DATASETS.FRACTION"] = key.fraction
    if key.fold is not None:
        settings |= {"DATASETS.FOLDS": sweep.folds, "DATASETS.FOLD": key.fold, "DATASETS.GROUP": sweep.group}
    elif sweep.group:  # in all runs, also for the intervals over test images
        settings["DATASETS.GROUP"] = sweep.group
    tracking = {"WANDB.GROUP": sweep.name, "WANDB.NAME": str(key), "WANDB.JOB_TYPE": "sweep"}
    is_set = {item.name for item in given if item.value}
    settings |= {name: value for name, value in tracking.items() if name not in is_set}
    return [Assignment((name,), value, Origin(sweep.file.name)) for name, value in settings.items()]


def _with_sources(sweep: Sweep, variant: Variant, spec: RunSpec) -> RunSpec:
    """The run with the runs that its weights come from, and with MODEL.WEIGHTS."""
    if not variant.sources:
        return spec
    keys = {name: _source_run(sweep, spec.key, name) for name in variant.sources}
    starts_from = keys.get(variant.starts_from)
    weights = sweep.output_dir / starts_from.path / FINAL_WEIGHTS if starts_from else spec.folder / INITIAL_WEIGHTS
    typed = [item for item in variant.overrides if item.name == "MODEL.WEIGHTS"]
    if typed and starts_from:
        raise UserError(
            f"{typed[0].origin}: variant {variant.name!r}: FROM replaces all weights, so MODEL.WEIGHTS has no effect. "
            "Remove one of them, or name the parts that FROM takes."
        )
    own = Assignment(("MODEL.WEIGHTS",), str(weights), Origin(sweep.file.name))
    base = [item for item in spec.overrides if item.name != "MODEL.WEIGHTS"]
    return replace(
        spec,
        cfg=changed_config(spec.cfg, {own.name: own.value}, source=own.origin.source),
        overrides=(*base, own),
        starts_from=starts_from,
        inherited=tuple((part, keys[part.stage]) for part in variant.inherited),
        base_weights="" if starts_from else spec.cfg.MODEL.WEIGHTS,
    )


def _source_run(sweep: Sweep, key: RunKey, name: str) -> RunKey:
    """The run of the variant `name` with the same seed and fold, and the same fraction where it has several."""
    fractions = _fractions(sweep, sweep.variant(name))
    if key.fraction not in fractions and len(fractions) > 1:
        raise UserError(
            f"{sweep.file.name}: variant {key.variant!r} with the share {key.fraction:g} of the data starts FROM "
            f"{name!r}, which has only the shares {', '.join(f'{share:g}' for share in fractions)}."
        )
    fraction = key.fraction if key.fraction in fractions else fractions[0]
    return RunKey(name, key.seed, fraction, key.fold)


def _in_order(specs: Mapping[RunKey, RunSpec]) -> list[RunSpec]:
    """Sources before the runs that need them; otherwise seed by seed, so that an early table has all variants."""
    ordered: dict[RunKey, RunSpec] = {}

    def add(key: RunKey) -> None:
        for source in specs[key].sources:
            add(source)
        ordered.setdefault(key, specs[key])

    seeds = list(dict.fromkeys(key.seed for key in specs))
    for key in sorted(specs, key=lambda key: seeds.index(key.seed)):
        add(key)
    return list(ordered.values())


# --- files ------------------------------------------------------------------------------------------------------------


def write_base_configs(sweep: Sweep, overrides: Sequence[Any] = ()) -> dict[str, Path]:
    """Copy the base configs into the folder of the sweep, so that its runs do not depend on the originals.

    Each file of a chain of `_BASE_` is a file again: of two keys that contradict each other, the one that was set
    closer to the user still counts.

    Args:
        sweep: with its folder.
        overrides: as for `expand`.

    Returns:
        The last file of each chain, by name of the base.
    """
    typed = typed_overrides(overrides)
    written: dict[str, Path] = {}
    for number, base in enumerate(bases_of(sweep)):
        stem = find_config(base).stem if number == 0 else f"{number}_{find_config(base).stem}"
        levels: dict[str, list[Assignment]] = {} if read_config_file(base) or typed else {base: []}
        for assignment in [*read_config_file(base), *typed]:
            levels.setdefault(assignment.origin.source, []).append(assignment)
        former = ""
        for level, (source, assignments) in enumerate(levels.items(), start=1):
            name = f"{stem}{SUFFIX}" if level == len(levels) else f"{stem}.base_{level}{SUFFIX}"
            comment = "Keys of the command line." if source == TYPED else f"Copy of {source}."
            write_config(sweep.output_dir / CONFIGS / name, assignments, base=former, comment=comment)
            former = name
        written[base] = sweep.output_dir / CONFIGS / former
    return written


def write_run_config(spec: RunSpec, base: Path) -> Path:
    """Write the config of a run, which `mrcnn-zoo train --config-file` trains alone.

    Args:
        spec: of the run.
        base: file of `write_base_configs`.
    """
    relative = os.path.relpath(base, spec.folder)
    comment = f"A run of a sweep: mrcnn-zoo train --config-file {spec.folder / RUN_CONFIG}"
    return write_config(spec.folder / RUN_CONFIG, spec.overrides, base=relative, comment=comment)


def write_config(path: Path, assignments: Sequence[Assignment], *, base: str, comment: str) -> Path:
    """Write assignments as a config file.

    Args:
        path: of the file.
        assignments: later ones count.
        base: `_BASE_`; empty for none.
        comment: first line.
    """
    content: dict[str, Any] = {BASE_KEY: base} if base else {}
    for assignment in assignments:
        if assignment.value in (None, {}) and assignment.name not in KEYS_BY_NAME:
            continue
        key, below = locate(assignment)
        insert(content, (*key.name.split("."), *below), assignment.value)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
    return write_text(path, f"# {comment}\n{text}")
