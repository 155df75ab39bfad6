"""A report of a run as plain data, from the files of the run and its test sets; the model is not needed."""

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from mrcnn_zoo.config import config_from_text
from mrcnn_zoo.data.formats.coco import load_coco
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.ground_truth import BBOX
from mrcnn_zoo.evaluation.metrics.tide import ERRORS, Tide
from mrcnn_zoo.evaluation.preflight import evaluated_part, load_test_datasets
from mrcnn_zoo.evaluation.result_rows import ROWS_FILE
from mrcnn_zoo.evaluation.stage_times import STAGE_TIMES_FILE
from mrcnn_zoo.evaluation.tables import AUTO_ORDER
from mrcnn_zoo.inspection.evaluation_files import Confusion, EvaluationFiles
from mrcnn_zoo.inspection.plots import Series
from mrcnn_zoo.inspection.run_report.config import CONFIG_FILE, EVALUATED_CONFIG, RunConfig, read_config, read_json_file
from mrcnn_zoo.inspection.run_report.files import ENVIRONMENT_FILE, RESULTS, RunFiles, evaluated_folders, read_run_files

FUNNEL_FILE = "recall_funnel.json"
TIDE_GROUPS = ("tide_segm", "tide_bbox")
DEFAULT_THRESHOLD = 0.5  # where the config has no VIS.SCORE_THRESH

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BestEvaluation:
    """The evaluation with the best value of SOLVER.BEST_METRIC."""

    metric: str
    value: float
    iteration: int  # finished steps
    stage: str = ""


@dataclass(frozen=True)
class TrainingTime:
    """Sums over the logged iterations of all stages."""

    iterations: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0  # of them, waiting for data
    memory_mb: float = math.nan  # highest peak


@dataclass(frozen=True)
class EvaluationReport:
    """What an evaluation shows; parts that its files do not have are empty, with a line in `notes`."""

    files: EvaluationFiles
    score_threshold: float
    confusion: Confusion | None = None
    errors: tuple[tuple[str, str, float], ...] = ()  # name, meaning, delta AP50 in percent
    objects: Mapping[str, int] = field(default_factory=dict)  # number by class name
    funnel: Mapping[str, Any] = field(default_factory=dict)
    stage_times: Mapping[str, Any] = field(default_factory=dict)
    curves_file: Path | None = None  # precision over recall
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunReport:
    """A run as plain data."""

    files: RunFiles
    best: BestEvaluation | None
    training: TrainingTime
    evaluations: tuple[EvaluationReport, ...]
    notes: tuple[str, ...]  # what is left out, and why


def read_report(folder: Path, *, evaluations: Sequence[EvaluationFiles] = (), trust: Iterable[str] = ()) -> RunReport:
    """Read a run.

    Args:
        folder: of the run.
        evaluations: that the caller has read already; by default those in the folder, on the datasets of its config.
        trust: modules with code that the config may name.

    Raises:
        UserError: it is not the folder of a run.
    """
    files = read_run_files(folder)
    notes = list(files.notes)
    places = [item.output_dir for item in evaluations] or evaluated_folders(files)
    if places:
        files = _of_evaluation(places[0], files)
    evaluations = evaluations or _with_datasets(places, files.config, trust, notes)
    if not evaluations:
        notes.append("No results: the run has not been evaluated. `mrcnn-zoo evaluate --weights FOLDER` does it.")
    if not any(stage.series for stage in files.stages) and (folder / CONFIG_FILE).is_file():
        notes.append("No curves: metrics.json and results.csv, which the writers json and csv write, are missing.")
    threshold = float(files.config.get("VIS.SCORE_THRESH", DEFAULT_THRESHOLD))
    return RunReport(
        files,
        best_evaluation(files),
        training_time(files),
        tuple(_report_of(item, threshold) for item in evaluations),
        tuple(notes),
    )


def _of_evaluation(place: Path, files: RunFiles) -> RunFiles:
    """With the config of the last evaluation: of a later one without training, or of the stage that it belongs to."""
    later = place / EVALUATED_CONFIG
    if later.is_file() and later.stat().st_mtime >= (place / RESULTS).stat().st_mtime:
        environment = files.environment or read_json_file(later.with_name(ENVIRONMENT_FILE), [])
        return replace(files, environment=environment, config=read_config(place, environment, name=EVALUATED_CONFIG))
    stages = {stage.folder for stage in files.stages if stage.name}
    own = next((folder for folder in (place, place.parent) if folder in stages), None)
    if own is None:
        return files
    text = read_config(own, files.environment).text or files.config.text
    return replace(files, config=replace(files.config, text=text))


def _with_datasets(
    places: Sequence[Path], config: RunConfig, trust: Iterable[str], notes: list[str]
) -> list[EvaluationFiles]:
    found = [EvaluationFiles(place) for place in places]
    if not found:
        return []
    without = "so that confusions, error types and pictures are left out"
    if not config.text:
        notes.append(f"config.yaml is missing, {without}: the test set is not known.")
        return found
    try:
        datasets = {dataset.name: dataset for dataset in _load_datasets(config, trust)}
    except (UserError, OSError) as error:
        datasets = {dataset.name: dataset for item in found for dataset in _annotations_alone(config, item.name)}
        left_out = "so that pictures are left out" if datasets else without
        notes.append(f"The test set cannot be read, {left_out}: {error}")
    only = next(iter(datasets.values())) if len(datasets) == len(found) == 1 else None
    return [EvaluationFiles(item.output_dir, datasets.get(item.name, only)) for item in found]


def _annotations_alone(config: RunConfig, name: str) -> list[Dataset]:
    """A dataset of COCO's format without its images, where these are missing."""
    definition = config.get("DATASETS.DEFINITIONS", {}).get(name, {})
    path = Path(definition.get("ANNOTATIONS") or "")
    if definition.get("FORMAT") != "coco" or not path.is_file():
        return []
    try:
        dataset = load_coco(name, None, path, needs_masks=False, needs_keypoints=False)
    except UserError:  # the note has the reason
        return []
    count = int(config.get("TEST.NUM_IMAGES", 0))
    return [replace(dataset, records=dataset.records[:count] if count > 0 else dataset.records)]


def _load_datasets(config: RunConfig, trust: Iterable[str]) -> list[Dataset]:
    cfg = config_from_text(config.text, source="config.yaml", trust=trust)
    return [evaluated_part(dataset, cfg) for dataset in load_test_datasets(cfg)]


def best_evaluation(files: RunFiles) -> BestEvaluation | None:
    """The best evaluation by SOLVER.BEST_METRIC, of the last stage that was evaluated.

    Args:
        files: of the run.
    """
    for stage in reversed(files.stages):
        name = _best_metric(str(files.config.get("SOLVER.BEST_METRIC", "auto")), stage.series)
        if name:
            iterations, values = stage.series[name]
            choose = min if "loss" in name else max
            place = values.index(choose(values))
            return BestEvaluation(name, values[place], int(iterations[place]) + 1, stage.name)
    return None


def _best_metric(configured: str, series: Mapping[str, Series]) -> str:
    wanted = AUTO_ORDER if configured == "auto" else (configured,)
    names = [name for name, values in series.items() if values[0]]
    return next((name for end in wanted for name in names if name == end or name.endswith(f"/{end}")), "")


def training_time(files: RunFiles) -> TrainingTime:
    """Time of training, without evaluations.

    Args:
        files: of the run.
    """
    iterations, seconds, waiting, peaks = 0, 0.0, 0.0, [math.nan]
    for stage in files.stages:
        ends, each = stage.series.get("time", ([], []))
        data = dict(zip(*stage.series.get("data_time", ([], [])), strict=True))
        previous = -1.0
        for end, value in zip(ends, each, strict=True):
            count = end - previous
            iterations, seconds = iterations + int(count), seconds + count * value
            waiting, previous = waiting + count * data.get(end, 0.0), end
        peaks += stage.series.get("memory_mb", ([], []))[1]
    known = [peak for peak in peaks if not math.isnan(peak)]
    return TrainingTime(iterations, seconds, waiting, max(known, default=math.nan))


def _report_of(files: EvaluationFiles, score_threshold: float) -> EvaluationReport:
    notes: list[str] = []
    errors: tuple[tuple[str, str, float], ...] = ()
    confusion = _attempt(lambda: files.confusion(score_threshold), "The confusion matrix", notes)
    if BBOX in files.results:
        errors = _attempt(lambda: _error_types(files), "Error types", notes) or ()
    funnel = _attempt(lambda: _read_funnel(files.folder / FUNNEL_FILE), "The recall funnel", notes) or {}
    curves_file = _attempt(lambda: _readable_curves(files.curves_file), "Precision over recall", notes)
    if files.dataset is not None and BBOX in files.results and files.evaluated is None:
        path = files.folder / ROWS_FILE
        state = "has no complete list of detections" if path.is_file() else "is missing"
        notes.append(f"Images and suspected label errors are left out: {path} {state}. Evaluate the model again.")
    return EvaluationReport(
        files,
        score_threshold,
        confusion,
        errors,
        _objects_by_class(files.dataset),
        funnel,
        _read_object(files.folder / STAGE_TIMES_FILE),
        curves_file,
        tuple(notes),
    )


def _attempt(compute: Callable[[], Any], what: str, notes: list[str]) -> Any:
    """The value, or None with a note: files may be cut short, or those of another dataset."""
    try:
        return compute()
    except UserError as error:
        notes.append(f"{what} left out: {error}")
    except (OSError, KeyError, ValueError, IndexError, TypeError, BadZipFile) as error:
        notes.append(
            f"{what} left out, because the files are damaged or do not belong together: {type(error).__name__} {error}"
        )
    return None


def _read_funnel(path: Path) -> dict[str, Any]:
    """The content of recall_funnel.json; empty without the file."""
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for counts in content["tasks"].values():
        int(counts["objects"]) + sum(counts["after"][stage] for stage in counts["stages"])
        _ = [(loss["stage"], loss["reason"], loss["objects"]) for loss in counts["losses"]]
    return content


def _readable_curves(path: Path | None) -> Path | None:
    if path is not None:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            _ = [arrays[name] for name in ("class_names", *arrays.files)]
    return path


def _error_types(files: EvaluationFiles) -> tuple[tuple[str, str, float], ...]:
    group = next((name for name in TIDE_GROUPS if name in files.results), "")
    gains: Mapping[str, float] = files.results.get(group, {})
    if not gains and files.evaluated is not None and files.evaluated.rows:
        found = Tide()(files.evaluated).results
        gains = next(iter(found.values()), {})
    return tuple((name, meaning, gains[name]) for name, meaning in ERRORS.items() if name in gains)


def _objects_by_class(dataset: Dataset | None) -> dict[str, int]:
    if dataset is None:
        return {}
    counts = dict.fromkeys(dataset.class_names, 0)
    for record in dataset.records:
        for item in record.instances:
            if not item.is_crowd:
                counts[dataset.class_names[item.class_index]] += 1
    return counts


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
