"""The files of a run as plain data: environment, metrics, log and results; each of them may be missing."""

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inspection.plots import Series, read_metrics
from mrcnn_zoo.inspection.run_report.config import CONFIG_FILE, RunConfig, read_config, read_json_file

RESULTS = Path("inference") / "results.json"
ENVIRONMENT_FILE = "environment.json"
KNOWN_FILES = (CONFIG_FILE, "metrics.json", "results.csv", "log.txt", str(RESULTS))
SWEEP_FILE = "sweep.yaml"
STAGE_FILE = "stage.json"
LOG_LINE = re.compile(r"\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\] (\w+) ([\w.]+): (.*)")
CLOCK = "%Y-%m-%d %H:%M:%S"
SEED_LINE = re.compile(r"seed (\d+)$")
START_LINE = re.compile(r"seed \d+$|.*: \d+ weights loaded$")  # of a training, or of an evaluation
SPEED_LINE = re.compile(r"(.+): ([\d,]+) images?, ([\d.]+) s per image$")
STAGE_LINE = re.compile(r"stage \d+ of \d+, ")
STAGE_LIST = "mrcnn_zoo.training.stages"  # logs the list of all stages once per session
# A session begins with lines of other loggers than these, until its START_LINE.
WORKING = re.compile(r"mrcnn_zoo\.(training\.(run|hooks|trainer|writers)|evaluation\.(evaluator|coco)|inspection)")


@dataclass(frozen=True)
class LogSummary:
    """What a report takes from log.txt."""

    seconds: float = 0.0  # of all sessions
    sessions: int = 0
    seed: int | None = None
    predictions: tuple[tuple[str, int, float], ...] = ()  # dataset, images, seconds per image of each evaluation
    warnings: tuple[str, ...] = ()
    end: str = ""  # time of the last line


@dataclass(frozen=True)
class StageMetrics:
    """Metrics of a run, or of one of its stages."""

    name: str  # "" of a run without stages
    folder: Path
    first_iteration: int
    series: Mapping[str, Series]

    @property
    def last_iteration(self) -> int:
        """Number of iterations of this stage and those before it."""
        ends = [values[0][-1] for values in self.series.values() if values[0]]
        return self.first_iteration + (int(max(ends)) + 1 if ends else 0)


@dataclass(frozen=True)
class RunFiles:
    """All of a run but its evaluations."""

    folder: Path
    config: RunConfig
    environment: Mapping[str, Any]
    datasets: Mapping[str, Any]
    log: LogSummary
    stages: tuple[StageMetrics, ...]
    stage_results: Mapping[str, Any]  # by stage name
    notes: tuple[str, ...]  # files that cannot be read


def read_run_files(folder: Path) -> RunFiles:
    """Read what there is of a run, its sessions and stages.

    Args:
        folder: output folder of a training or an evaluation.

    Raises:
        UserError: it is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is {'a file' if folder.exists() else 'missing'}; name the output folder of a run.")
    stages = _stage_folders(folder)
    if (folder / SWEEP_FILE).is_file():
        raise UserError(
            f"{folder} is the folder of a sweep; `mrcnn-zoo sweep report {folder}` reports on it. A run is a folder "
            f"below it, e.g. {folder}/<variant>/seed_0."
        )
    if not stages and not any((folder / name).is_file() for name in KNOWN_FILES) and not _evaluated_below(folder):
        raise UserError(
            f"{folder} is not the output folder of a training or an evaluation: it has none of "
            f"{', '.join(KNOWN_FILES)}."
        )
    notes: list[str] = []
    environment = read_json_file(folder / ENVIRONMENT_FILE, notes) or _first_environment(stages, notes)
    metrics: list[StageMetrics] = []
    records: dict[str, Any] = {}
    first = 0
    for stage in stages or [folder]:
        name = stage.name if stages else ""
        metrics.append(StageMetrics(name, stage, first, _series_of(stage)))
        record = read_json_file(stage / STAGE_FILE, notes) if stages else {}
        first += int(record.get("iterations") or metrics[-1].last_iteration - first)
        records |= {name: record["results"]} if record.get("results") else {}
    return RunFiles(
        folder,
        read_config(folder, environment),
        environment,
        read_json_file(folder / "datasets.json", notes) or next(iter(_each(stages, "datasets.json", notes)), {}),
        read_log(folder / "log.txt"),
        tuple(metrics),
        records,
        tuple(notes),
    )


def _each(folders: Sequence[Path], name: str, notes: list[str]) -> Iterator[dict[str, Any]]:
    yield from filter(None, (read_json_file(folder / name, notes) for folder in reversed(folders)))


def _first_environment(stages: Sequence[Path], notes: list[str]) -> dict[str, Any]:
    return next(_each(stages, ENVIRONMENT_FILE, notes), {})


def _stage_folders(folder: Path) -> list[Path]:
    """Folders of the stages of a run in the order of their training."""
    if (folder / "metrics.json").is_file():
        return []
    found = [path.parent for name in (STAGE_FILE, "metrics.json") for path in folder.glob(f"*/{name}")]
    return sorted(dict.fromkeys(found), key=lambda path: (_beginning(path / "log.txt"), path.name))


def _beginning(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return next((match[1] for match in map(LOG_LINE.match, lines) if match), "9")


def _evaluated_below(folder: Path) -> list[Path]:
    return sorted(path.parents[1] for path in folder.glob(f"*/{RESULTS}"))


def evaluated_folders(files: RunFiles) -> list[Path]:
    """Folders of the last evaluation of each test set.

    Args:
        files: of a run; of several stages the last one that was evaluated counts.
    """
    for place in [*(stage.folder for stage in reversed(files.stages)), files.folder]:
        found = [place] if (place / RESULTS).is_file() else []
        found = found or [path for path in _evaluated_below(place) if not (path / "metrics.json").is_file()]
        if found:
            return found
    return []


def _series_of(folder: Path) -> dict[str, Series]:
    if (folder / "metrics.json").is_file():
        return {name: _finite(values) for name, values in read_metrics(folder / "metrics.json").items()}
    table = folder / "results.csv"
    series: dict[str, Series] = {}
    if table.is_file():
        with table.open(encoding="utf-8", errors="replace", newline="") as file:
            for row in csv.DictReader(file):
                for name, text in row.items():
                    if name and name != "iteration" and text and _number(row.get("iteration")) is not None:
                        iterations, values = series.setdefault(name, ([], []))
                        value = _number(text)
                        if value is not None:
                            iterations.append(float(row["iteration"]))
                            values.append(value)
    return series


def _finite(series: Series) -> Series:
    pairs = [pair for pair in zip(*series, strict=True) if math.isfinite(pair[1])]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def read_log(path: Path) -> LogSummary:
    """Durations, seed, evaluations and warnings of all sessions in a log.

    Args:
        path: of log.txt.
    """
    if not path.is_file():
        return LogSummary()
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = [match.groups() for match in map(LOG_LINE.match, text.splitlines()) if match]
    if not lines:
        return LogSummary()
    starts = _session_starts(lines)
    times = [datetime.strptime(line[0], CLOCK) for line in lines]
    ends = [*starts[1:], len(lines)]
    seconds = sum((times[end - 1] - times[start]).total_seconds() for start, end in zip(starts, ends, strict=True))
    speeds = [match for line in lines if (match := SPEED_LINE.match(line[3]))]
    seeds = [int(match[1]) for line in lines if (match := SEED_LINE.match(line[3]))]
    return LogSummary(
        seconds,
        len(starts),
        seeds[-1] if seeds else None,
        tuple((match[1], int(match[2].replace(",", "")), float(match[3])) for match in speeds),
        tuple(dict.fromkeys(f"{level}: {message}" for _, level, _, message in lines if level in ("WARNING", "ERROR"))),
        lines[-1][0],
    )


def _session_starts(lines: Sequence[tuple[str, ...]]) -> list[int]:
    starts = [0]
    for place, (_, _, logger, message) in enumerate(lines):
        if not START_LINE.match(message) or not logger.startswith("mrcnn_zoo"):
            continue
        first = place
        while first > starts[-1] and (STAGE_LINE.match(lines[first - 1][3]) or not WORKING.match(lines[first - 1][2])):
            first -= 1
        begins = lines[first:place]
        is_next_stage = any(STAGE_LINE.match(line[3]) for line in begins) and not any(
            line[2].startswith(STAGE_LIST) for line in begins
        )
        if first > starts[-1] and not is_next_stage:
            starts.append(first)
    return starts
