"""The files of a sweep's folder, read at any time, also while its runs are trained.

sweep.yaml                   copy of the sweep's file, its BASE below configs/
configs/                     copies of the base configs
<variant>/.../seed_0/        a run: OUTPUT_DIR of an ordinary training, and
    run.yaml                 its config, which `mrcnn-zoo train` trains alone
    run.json                 its state, what it was trained from, its error
    run.lock                 locked while a process trains in the folder
    console.log              what the training has printed
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.experiments.locks import is_locked
from mrcnn_zoo.experiments.runs import RunKey, run_keys
from mrcnn_zoo.experiments.sweep_file import Sweep, read_sweep
from mrcnn_zoo.output_files import write_text
from mrcnn_zoo.registry import did_you_mean

SWEEP_FILE, RUN_FILE, RUN_LOCK, CONSOLE_LOG = "sweep.yaml", "run.json", "run.lock", "console.log"
WAITING, RUNNING, FINISHED, FAILED, INTERRUPTED = "waiting", "running", "finished", "failed", "interrupted"
STATUSES = (WAITING, RUNNING, FINISHED, FAILED, INTERRUPTED)
STAGE_FILE = "stage.json"  # in the folder of a finished stage
INFERENCE, RESULTS_FILE, METRICS_FILE = "inference", "results.json", "metrics.json"

TYPES_OF_FIELDS: Mapping[str, Any] = {  # of run.json
    "config": dict,
    "data": dict,
    "sources": dict,
    "error": str,
    "inherited": list,
    "stages": list,
    "seconds": int | float,
    "started": int | float,
}
USUAL_COLUMNS = ("segm/AP", "bbox/AP", "keypoints/AP", "classification/top1", "box_proposals/AR@1000")
DAMAGED = "; restore the file, or train the run again with `mrcnn-zoo sweep run` and --overwrite."
STAGES = "stages/"  # before the names of metrics of stages
COLUMNS_SHOWN = 12  # in a message
LONG_LINE = 1000  # characters of a field of run.json

Results = dict[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """The state of a run.

    Args:
        key: of the run.
        folder: its OUTPUT_DIR.
        status: "waiting", "running", "finished", "failed" or "interrupted".
        results: {"bbox": {"AP": ...}, "segm": {...}} of its last stage, by dataset name where there are several test
            sets; "stages" {name: results} for runs of several stages; {} until it is finished.
        results_dir: folder of coco_instances_results.json, of the last stage.
        error: last lines of a failed training.
    """

    key: RunKey
    folder: Path
    status: str
    results: Results = field(default_factory=dict)
    results_dir: Path = Path()
    error: str = ""


@dataclass(frozen=True)
class SweepRecord:
    """The state of a sweep.

    Args:
        name: of the sweep.
        folder: that was read.
        sweep: read from the copy in the folder.
        runs: in the order of the table, also those that have not begun.
    """

    name: str
    folder: Path
    sweep: Sweep
    runs: tuple[RunRecord, ...]


def read_sweep_folder(folder: str | Path) -> SweepRecord:
    """The state of a sweep and of all its runs.

    Args:
        folder: of a sweep that has been started; it may have been moved.

    Raises:
        UserError: there is no sweep in it, or a file cannot be read.
    """
    folder = Path(folder).expanduser()
    file = folder / SWEEP_FILE
    if not file.is_file():
        raise UserError(
            f"{folder} holds no sweep: there is no {file}. Name the folder that `mrcnn-zoo sweep run` has written, "
            "its OUTPUT_DIR."
        )
    try:
        sweep = replace(read_sweep(file), output_dir=folder)
    except UserError as error:
        raise UserError(
            f"{error} `mrcnn-zoo sweep run` with the original file of the sweep writes {file} again."
        ) from error
    runs = tuple(read_run(key, folder / key.path) for key in run_keys(sweep))
    return SweepRecord(sweep.name, folder, sweep, runs)


def read_run(key: RunKey, folder: Path) -> RunRecord:
    """The state of one run.

    Args:
        key: of the run.
        folder: of the run, which may be missing.
    """
    content = read_run_file(folder)
    status = content.get("status", WAITING)
    if status == WAITING and is_locked(folder / RUN_LOCK):  # by a process that an earlier, killed sweep has started
        status = RUNNING
    elif status == RUNNING and not is_locked(folder / RUN_LOCK):  # killed
        status = INTERRUPTED
    error = str(content.get("error", "")) if status == FAILED else ""
    if status == FINISHED:
        error = problem_of_results(folder, content)
        status = FAILED if error else FINISHED
    results = read_results(folder) if status == FINISHED else {}
    stage = folder if error else last_stage(folder)
    return RunRecord(key, folder, status, results, stage / INFERENCE, error)


def problem_of_results(folder: Path, content: Mapping[str, Any]) -> str:
    """Why the results of a finished run cannot be used: missing or damaged files; "" where they can be.

    Args:
        folder: of the run.
        content: of its run.json.
    """
    has_test_sets = bool(content.get("config", {}).get("DATASETS.TEST"))
    try:
        read_results(folder)
    except UserError as error:
        return str(error)
    names = (STAGE_FILE, f"{INFERENCE}/{RESULTS_FILE}")
    is_there = any(next(folder.glob(pattern), None) for name in names for pattern in (name, f"*/{name}"))
    if is_there or not has_test_sets:
        return ""
    return f"{folder / INFERENCE / RESULTS_FILE} is missing; the next `mrcnn-zoo sweep run` evaluates the run again."


def read_run_file(folder: Path) -> dict[str, Any]:
    """The content of run.json; {} where there is none. Of a damaged one, the status "failed" and an error.

    Args:
        folder: of the run.
    """
    path = folder / RUN_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        return {"status": FAILED, "error": f"{path} cannot be read ({error}){DAMAGED}"}
    is_state = isinstance(content, dict) and content.get("status", WAITING) in STATUSES
    if not is_state or any(
        name in content and not isinstance(content[name], kind) for name, kind in TYPES_OF_FIELDS.items()
    ):
        return {"status": FAILED, "error": f"{path} does not have the state of a run{DAMAGED}"}
    return content


def update_run_file(folder: Path, changes: Mapping[str, Any]) -> None:
    """Change fields of run.json, atomically. Each has a line, and the long ones, such as the config, come last.

    Args:
        folder: of the run.
        changes: fields with plain values.
    """
    content = read_run_file(folder) | dict(changes)
    fields = [f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in content.items()]
    write_text(folder / RUN_FILE, "{\n" + ",\n".join(sorted(fields, key=lambda text: len(text) > LONG_LINE)) + "\n}\n")


def stage_records(folder: Path) -> dict[str, dict[str, Any]]:
    """The content of stage.json of each finished stage of a run, by name, in the order in which they were trained.

    Args:
        folder: of the run.

    Raises:
        UserError: one of them is damaged.
    """
    paths = sorted(folder.glob(f"*/{STAGE_FILE}"), key=lambda path: path.stat().st_mtime_ns)
    order = read_run_file(folder).get("stages", [])  # recorded at the end: a copied folder has other times
    paths.sort(key=lambda path: order.index(path.parent.name) if path.parent.name in order else len(order))
    records = [(path.parent, _read_stage(path)) for path in paths]
    return {record.get("name", stage.name): record | {"folder": stage} for stage, record in records}


def _read_stage(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); restore it, or remove it to train the stage again."
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("results"), dict):
        raise UserError(f"{path} has no results; restore it, or remove it to train the stage again.")
    return content


def last_stage(folder: Path) -> Path:
    """The folder of the last finished stage of a run: its own in a run of one stage.

    Args:
        folder: of the run.
    """
    stages = stage_records(folder)
    return list(stages.values())[-1]["folder"] if stages else folder


def read_results(folder: Path) -> Results:
    """The results of a finished training, as `training.run` returns them.

    Args:
        folder: of the run.

    Raises:
        UserError: a file with results cannot be read.
    """
    stages = stage_records(folder)
    if stages:
        by_stage = {name: _measured(record["results"]) for name, record in stages.items()}
        return {**list(by_stage.values())[-1], "stages": by_stage}
    own = folder / INFERENCE / RESULTS_FILE
    if own.is_file():
        return _read_results_file(own)
    paths = sorted(folder.glob(f"*/{INFERENCE}/{RESULTS_FILE}"))
    return {path.parents[1].name: _read_results_file(path) for path in paths}


def _read_results_file(path: Path) -> Results:
    try:
        return _measured(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError) as error:  # the last one: no mapping
        again = "the next `mrcnn-zoo sweep run` evaluates the run again"
        raise UserError(f"{path} cannot be read ({error}); {again}.") from error


def _measured(results: Mapping[str, Any]) -> Results:
    """Metrics by task, with NaN for null; other content, such as a confusion matrix, is left out."""
    kept: Results = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            inner = _measured(value)
            if inner:
                kept[name] = inner
        elif value is None or isinstance(value, int | float):
            kept[name] = math.nan if value is None else float(value)
    return kept


def result_of(results: Results, column: str) -> float:
    """A metric of a run; NaN where it has none.

    Args:
        results: of a run.
        column: e.g. "segm/AP", "stages/backbone/classification/top1".
    """
    node: Any = results
    for part in column.split("/"):
        if not isinstance(node, Mapping) or part not in node:
            return math.nan
        node = node[part]
    return node if isinstance(node, float) else math.nan


def usual_columns(results: Results) -> list[str]:
    """The usual metrics that a run has, of each test set where there are several.

    Args:
        results: of a run.
    """
    names = [name for name in _metric_names(results) if not name.startswith(STAGES)]
    usual = [name for column in USUAL_COLUMNS for name in names if f"/{name}".endswith(f"/{column}")]
    return [name for name in usual if not math.isnan(result_of(results, name))]


def columns_of(record: SweepRecord) -> tuple[str, ...]:
    """COLUMNS of a sweep, or else the usual metrics that its runs have.

    Args:
        record: of its folder.
    """
    if record.sweep.columns:
        return record.sweep.columns
    found = dict.fromkeys(name for run in record.runs for name in usual_columns(run.results))
    place = {name: USUAL_COLUMNS.index("/".join(name.split("/")[-2:])) for name in found}
    return tuple(sorted(found, key=place.__getitem__)) or USUAL_COLUMNS[:2]


def unknown_columns(record: SweepRecord) -> str:
    """A sentence on the COLUMNS that no finished run has, with the nearest names; "" where there are none.

    Args:
        record: of the sweep.
    """
    known = dict.fromkeys(name for run in record.runs for name in _metric_names(run.results))
    unknown = [name for name in record.sweep.columns if name not in known] if known else []
    if not unknown:
        return ""
    near = "".join(did_you_mean(name, known) for name in unknown)
    shown = [*list(known)[:COLUMNS_SHOWN], *(["..."] if len(known) > COLUMNS_SHOWN else [])]
    return f"COLUMNS: no finished run has {', '.join(unknown)}.{near} They have {', '.join(shown)}."


def _metric_names(results: Mapping[str, Any]) -> Iterator[str]:
    for name, value in results.items():
        if isinstance(value, Mapping):
            yield from (f"{name}/{below}" for below in _metric_names(value))
        else:
            yield name
