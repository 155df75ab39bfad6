"""What `sweep run` will do with each run, decided before anything is written or trained."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.experiments.identity import Identity, identities
from mrcnn_zoo.experiments.locks import is_locked
from mrcnn_zoo.experiments.records import (
    FINISHED,
    INTERRUPTED,
    RUN_FILE,
    RUN_LOCK,
    RUNNING,
    STAGE_FILE,
    SWEEP_FILE,
    WAITING,
    problem_of_results,
    read_run_file,
    update_run_file,
)
from mrcnn_zoo.experiments.runs import (
    CONFIGS,
    INITIAL_WEIGHTS,
    RunSpec,
    bases_of,
    write_base_configs,
    write_run_config,
)
from mrcnn_zoo.experiments.sweep_file import Sweep, read_sweep
from mrcnn_zoo.experiments.variants import variant_mapping
from mrcnn_zoo.output_files import write_text

SKIP, TRAIN, RESUME, RETRAIN, CHANGED, LEAVE = "skip", "train", "resume", "train again", "changed", "leave"
BEGINS = (TRAIN, RETRAIN)  # actions of trainings that start from the beginning
LAST_CHECKPOINT = "last_checkpoint"
SHOWN = 5  # changed runs in a message

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedRun:
    """A run and what will be done with it.

    Args:
        spec: of the run.
        identity: what its result depends on.
        action: "skip" a finished one; "train" one without checkpoints; "resume" one with checkpoints; "train again"
            one that has changed, with --overwrite; "changed" without; "leave" one that --only does not name.
        reason: in words.
        changes: what has changed since it was trained.
    """

    spec: RunSpec
    identity: Identity
    action: str
    reason: str
    changes: tuple[str, ...] = ()


def plan_sweep(
    sweep: Sweep, specs: Sequence[RunSpec], *, only: Sequence[str] = (), overwrite: bool = False
) -> list[PlannedRun]:
    """The action for each run, in the order in which they are trained.

    Args:
        sweep: of the runs.
        specs: all of its runs.
        only: names of variants to train, with those that they start from; empty for all.
        overwrite: train changed runs again.

    Raises:
        UserError: an unknown variant, or unreadable data.
    """
    selected = _with_sources(sweep, only)
    found = identities(specs)
    return [
        _planned(spec, found[spec.key], is_selected=spec.key.variant in selected, overwrite=overwrite) for spec in specs
    ]


def _with_sources(sweep: Sweep, only: Sequence[str]) -> set[str]:
    selected: set[str] = set()
    waiting = list(only) or [variant.name for variant in sweep.variants]
    while waiting:
        variant = sweep.variant(waiting.pop())
        if variant.name not in selected:
            selected.add(variant.name)
            waiting += variant.sources
    return selected


def _planned(spec: RunSpec, identity: Identity, *, is_selected: bool, overwrite: bool) -> PlannedRun:
    record = read_run_file(spec.folder)
    is_training = is_locked(spec.folder / RUN_LOCK)
    has_trained = record.get("status") == FINISHED or has_checkpoints(spec.folder) or is_training
    if has_trained and "config" not in record:
        changes = [str(record.get("error") or f"{spec.folder} holds a training that is no run of a sweep")]
    else:
        changes = identity.changes_from(record) if has_trained else []
    missing = problem_of_results(spec.folder, record) if record.get("status") == FINISHED and not changes else ""
    if changes:
        action, reason = (RETRAIN if overwrite and is_selected else CHANGED), "; ".join(changes)
    elif has_trained and record.get("status") == FINISHED and not missing:
        action, reason = SKIP, "finished"
    elif not is_selected:
        action, reason = LEAVE, "not in --only"
    elif is_training:
        action, reason = RESUME, "is being trained by an earlier process, which is waited for"
    elif has_trained:
        former = record.get("status", "has checkpoints")
        action, reason = RESUME, missing or (INTERRUPTED if former == RUNNING else former)
    else:
        action, reason = TRAIN, "failed before" if record.get("error") else "new"
    return PlannedRun(spec, identity, action, reason, tuple(changes))


def has_checkpoints(folder: Path) -> bool:
    """Whether a training has begun in a folder, in one stage or several.

    Args:
        folder: of a run.
    """
    names = (LAST_CHECKPOINT, f"*/{LAST_CHECKPOINT}", f"*/{STAGE_FILE}")
    return any(next(folder.glob(name), None) for name in names)


def refuse_changed(planned: Sequence[PlannedRun], *, overwrite: bool) -> None:
    """Refuse to continue a sweep with runs that were trained from another config or other data.

    Args:
        planned: all runs.
        overwrite: whether changed runs may be trained again.

    Raises:
        UserError: naming the runs and what has changed.
    """
    trained = [str(run.spec.key) for run in planned if run.changes and is_locked(run.spec.folder / RUN_LOCK)]
    if trained:
        raise UserError(
            f"{', '.join(trained)}: the config has changed, and a process still trains with the former one. Wait for "
            "it, or end it: run.json in the folder of the run has its process number."
        )
    changed = [run for run in planned if run.action == CHANGED]
    if not changed or overwrite:
        return
    lines = [f"  {run.spec.key}: {run.reason}" for run in changed[:SHOWN]]
    lines += [f"  and {len(changed) - SHOWN} more"] if len(changed) > SHOWN else []
    raise UserError(
        f"{counted(len(changed), 'run')} would give other results than the training in its folder:\n"
        + "\n".join(lines)
        + "\nTrain them again with --overwrite, which removes their folders; or undo the change, or choose another "
        "folder with --output."
    )


def folder_of(sweep: Sweep) -> Path:
    """OUTPUT_DIR of a sweep; for the copy of its file that `write_sweep` leaves, the folder of the copy.

    Args:
        sweep: as read; the folder with the copy may have been moved.
    """
    is_copy = sweep.file.name == SWEEP_FILE and (sweep.file.parent / CONFIGS).is_dir()
    return sweep.file.parent if is_copy else sweep.output_dir


def refuse_other_sweep(sweep: Sweep) -> None:
    """Refuse the folder of a sweep of another name.

    Args:
        sweep: to be run.

    Raises:
        UserError: naming both.
    """
    path = sweep.output_dir / SWEEP_FILE
    try:
        former = read_sweep(path).name if path.is_file() else sweep.name
    except UserError as error:
        logger.warning("%s The copy of the sweep is damaged and is written again.", error)
        return
    if former != sweep.name:
        raise UserError(
            f"OUTPUT_DIR = {sweep.output_dir} holds the sweep {former!r}, not {sweep.name!r}. Choose another folder "
            "with --output or OUTPUT_DIR in the sweep's file."
        )


# --- the folder -------------------------------------------------------------------------------------------------------


def write_sweep(sweep: Sweep, planned: Sequence[PlannedRun], *, overrides: Sequence[Any] = ()) -> None:
    """Write the copy of the sweep, and the config and the state of each run that will be trained.

    Runs that are trained again lose their folders here. Those that have changed and are not in --only count as waiting.

    Args:
        sweep: of the runs.
        planned: with `refuse_changed` passed.
        overrides: of the base config, as typed.
    """
    bases = write_base_configs(sweep, overrides)
    write_text(sweep.output_dir / SWEEP_FILE, sweep_copy(sweep, bases))
    for run in planned:
        spec = run.spec
        if run.action == RETRAIN:
            shutil.rmtree(spec.folder)
        if run.action == TRAIN:
            (spec.folder / INITIAL_WEIGHTS).unlink(missing_ok=True)  # perhaps of an earlier training of the sources
        if run.action in (TRAIN, RESUME, RETRAIN):
            write_run_config(spec, bases[spec.base])
            update_run_file(spec.folder, {"status": WAITING, "error": "", **_state_of(run)})
        elif run.action == CHANGED and (spec.folder / RUN_FILE).exists():
            update_run_file(spec.folder, {"status": WAITING})


def _state_of(run: PlannedRun) -> dict[str, Any]:
    spec = run.spec
    inherited = [
        {
            "part": part.part,
            "source": part.source,
            "source_run": str(key),
            "folder": Path("../" * len(spec.key.path.parts)).joinpath(key.path).as_posix(),
        }
        for part, key in spec.inherited
    ]
    own = {"key": vars(spec.key), "inherited": inherited, "base_weights": spec.base_weights}
    return own | run.identity.record()


def sweep_copy(sweep: Sweep, bases: Mapping[str, Path]) -> str:
    """The sweep as YAML, with GRID written out as VARIANTS and with the copies of its base configs.

    Args:
        sweep: to be copied.
        bases: file of each base config.
    """
    names = {base: bases[base].relative_to(sweep.output_dir).as_posix() for base in bases_of(sweep)}
    variants = {
        variant.name: {**variant_mapping(variant), **({"BASE": names[variant.base]} if variant.base else {})}
        for variant in sweep.variants
    }
    rows: dict[str, dict[str, float]] = {}
    for number in sweep.paper:
        rows.setdefault(number.variant, {})[number.column] = number.value
    paper = {"SOURCE": sweep.paper_source, "COLUMNS": list(sweep.paper_columns), "ROWS": rows} if rows else {}
    content = {
        "NAME": sweep.name,
        "TITLE": sweep.title,
        "NOTE": sweep.note,
        "BASE": names[sweep.base],
        "OUTPUT_DIR": str(sweep.output_dir),
        "VARIANTS": variants,
        "SEEDS": list(sweep.seeds),
        "REFERENCE": sweep.reference,
        "COLUMNS": list(sweep.columns),
        "PAPER": paper,
        "DATA_FRACTIONS": list(sweep.data_fractions),
        "FOLDS": sweep.folds,
        "GROUP": sweep.group,
        "SPACE": dict(sweep.space),
        "OBJECTIVE": sweep.objective,
        "SLURM": dict(sweep.slurm),
    }
    kept = {name: value for name, value in content.items() if value not in ("", [], {}, 0)}
    text = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=120)
    return f"# Copy of {sweep.file}, written by `mrcnn-zoo sweep run`.\n{text}"
