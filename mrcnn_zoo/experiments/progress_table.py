"""The runs of a sweep as a table: on a terminal it is redrawn, elsewhere the runs that end are printed as lines."""

import json
import math
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from tabulate import tabulate

from mrcnn_zoo.errors import counted
from mrcnn_zoo.experiments.records import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    METRICS_FILE,
    RUNNING,
    WAITING,
    RunRecord,
    SweepRecord,
    columns_of,
    read_run_file,
    read_sweep_folder,
    result_of,
    unknown_columns,
    usual_columns,
)
from mrcnn_zoo.experiments.runs import RunKey
from mrcnn_zoo.progress import duration, fitted, has_terminal, new_console

TAIL = 16_000  # bytes at the end of metrics.json
MAX_COLUMNS = 3
SECONDS_BETWEEN_TABLES = 1.0
ABSENT = "-"
ORDER = (RUNNING, FAILED, INTERRUPTED, FINISHED, WAITING)  # where the terminal is too low for all runs
LINES_BESIDE = 5  # of a terminal: header, rule, summary, prompt


def sweep_table(record: SweepRecord, *, max_rows: int = 0) -> str:
    """The runs with status, iteration, loss, remaining time and metrics, and a line with counts.

    Args:
        record: of the sweep.
        max_rows: rows that fit; those that run come first then. 0 shows all.
    """
    columns = columns_of(record)[:MAX_COLUMNS]
    runs = list(record.runs)
    if max_rows and len(runs) > max_rows:
        runs = sorted(runs, key=lambda run: ORDER.index(run.status))[:max_rows]
    rows = [_row(run, columns) for run in runs]
    header = ["run", "status", "iteration", "loss", "left", *columns, "time"]
    sides = ["left", "left", *["right"] * (len(header) - 2)]
    table = tabulate(rows, header, tablefmt="github", disable_numparse=True, colalign=sides if rows else None)
    counts = Counter(run.status for run in record.runs)
    summary = ", ".join(
        f"{counts[status]} {status}" for status in (FINISHED, RUNNING, WAITING, INTERRUPTED, FAILED) if counts[status]
    )
    lines = [table, f"{record.name}: {counted(len(record.runs), 'run')}: {summary}", unknown_columns(record)]
    return "\n".join(filter(None, lines))


def _row(run: RunRecord, columns: Sequence[str]) -> list[str]:
    latest = latest_metrics(run.folder) if run.status in (RUNNING, INTERRUPTED) else {}
    results = [result_of(run.results, column) if run.results else latest.get(column) for column in columns]
    shown = [ABSENT if value is None or math.isnan(value) else f"{value:.1f}" for value in results]
    state = read_run_file(run.folder)
    seconds = state.get("seconds", 0.0)
    if run.status == RUNNING:
        seconds += max(0.0, time.time() - state.get("started", time.time()))
    iteration = f"{latest['iteration'] + 1:.0f}" if "iteration" in latest else ABSENT
    loss = f"{latest['total_loss']:.3f}" if latest.get("total_loss") is not None else ABSENT
    left = duration(latest["eta_seconds"]) if run.status == RUNNING and "eta_seconds" in latest else ABSENT
    return [str(run.key), run.status, iteration, loss, left, *shown, duration(seconds) if seconds else ABSENT]


def latest_metrics(folder: Path) -> dict[str, Any]:
    """The last value of each metric of a training, of its latest stage.

    Args:
        folder: of the run.
    """
    paths = [*folder.glob(METRICS_FILE), *folder.glob(f"*/{METRICS_FILE}")]
    if not paths:
        return {}
    path = max(paths, key=lambda path: path.stat().st_mtime_ns)
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        lines = file.read().decode("utf-8", "replace").splitlines()
    latest: dict[str, Any] = {}
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:  # its beginning is cut off, or it is being written
            continue
        if isinstance(values, dict):
            latest |= {name: value for name, value in values.items() if isinstance(value, int | float)}
    return latest


class SweepDisplay:
    """Shows a sweep while it is run.

    Args:
        folder: of the sweep.
        stream: of the table or of the lines.
    """

    def __init__(self, folder: Path, *, stream: TextIO | None = None) -> None:
        self._folder = folder
        self._stream = stream or sys.stdout
        self._live: Any = None
        self._drawn = 0.0

    @property
    def is_live(self) -> bool:
        """Whether a terminal shows the table."""
        return self._live is not None

    def __enter__(self) -> "SweepDisplay":
        if has_terminal(self._stream):
            from rich.live import Live

            self._live = Live(console=new_console(self._stream), auto_refresh=False, vertical_overflow="crop")
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._draw()
            self._live.stop()

    def show(self, ended: Mapping[RunKey, RunRecord]) -> None:
        """Redraw the table about once per second, or print lines of trainings that have ended.

        Args:
            ended: since the last call.
        """
        if self._live is None:
            for record in ended.values():
                self._stream.write(f"{_line(record)}\n")
                self._stream.flush()
        elif ended or time.monotonic() - self._drawn >= SECONDS_BETWEEN_TABLES:
            self._draw()

    def _draw(self) -> None:
        from rich.text import Text

        room = max(1, self._live.console.height - LINES_BESIDE)
        text = sweep_table(read_sweep_folder(self._folder), max_rows=room)
        self._live.update(Text(fitted(text, self._stream), no_wrap=True, overflow="crop"), refresh=True)
        self._drawn = time.monotonic()


def _line(record: RunRecord) -> str:
    state = read_run_file(record.folder)
    names = usual_columns(record.results)[:MAX_COLUMNS]
    metrics = [f"{name} {result_of(record.results, name):.1f}" for name in names]
    words = [f"{record.key}: {record.status}", *metrics, f"after {duration(state.get('seconds', 0.0))}"]
    error = f"\n{record.error}" if record.error else ""
    return f"[{datetime.now():%H:%M:%S}] {', '.join(words)}{error}"
