"""metrics.json and results.csv."""

import csv
import io
import json
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.output_files import write_text
from mrcnn_zoo.registries import METRIC_WRITERS
from mrcnn_zoo.training.writers.contract import MetricWriter, Results, RunPlace, flattened, set_aside

Row = dict[str, str | float]


class CsvWriter(MetricWriter):
    """A table of evaluations, each with the last training metrics before it.

    The file is rewritten with each row: there are few, and a new column changes the header.

    Args:
        path: the file.
        start_iteration: rows of this iteration and later ones are removed; 0 keeps the old file as `.previous`.
    """

    def __init__(self, path: Path, *, start_iteration: int = 0) -> None:
        self._path = path
        if start_iteration == 0:
            set_aside(path)
        self._rows = _read_rows(path, before=start_iteration)
        self._columns = list(dict.fromkeys(name for row in self._rows for name in row)) or ["iteration"]
        self._latest: dict[str, float] = {}

    def write(self, iteration: int, scalars: Mapping[str, float]) -> None:  # noqa: ARG002
        self._latest.update(scalars)

    def write_results(self, iteration: int, results: Results) -> None:
        # A resumed run may repeat the evaluation of its checkpoint; the row of the first has the training metrics.
        former = [row for row in self._rows if int(row["iteration"]) == iteration]
        row: Row = {"iteration": iteration}
        for earlier in former:
            row |= earlier
        values = {**flattened(results), **self._latest}
        # NaN is an empty cell: the AP of a class without objects.
        row |= {"iteration": iteration, **{name: "" if math.isnan(value) else value for name, value in values.items()}}
        self._columns += [name for name in row if name not in self._columns]
        self._rows = [row for row in self._rows if row not in former] + [row]
        self._save()

    def _save(self) -> None:
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, self._columns, restval="")
        table.writeheader()
        table.writerows(self._rows)
        write_text(self._path, text.getvalue())


@METRIC_WRITERS.register("csv")
def build_csv_writer(cfg: CfgNode, place: RunPlace) -> CsvWriter:  # noqa: ARG001
    return CsvWriter(place.output_dir / "results.csv", start_iteration=place.start_iteration)


def _read_rows(path: Path, *, before: int) -> list[Row]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [dict(row) for row in csv.DictReader(file) if int(row["iteration"]) < before]


Line = dict[str, Any]


class JsonLinesWriter(MetricWriter):
    """Appends `{"iteration": 19, "lr": ..., ...}`; numbers that are not finite become null.

    Args:
        path: the file.
        start_iteration: lines of this iteration and later ones are removed; 0 keeps the old file as `.previous`.
    """

    def __init__(self, path: Path, *, start_iteration: int = 0) -> None:
        if start_iteration == 0:
            set_aside(path)
        elif path.exists():
            _keep_lines(path, lambda line: line is not None and line["iteration"] < start_iteration)
        self._path = path
        self._start_iteration = start_iteration
        self._file = path.open("a", encoding="utf-8")

    def write(self, iteration: int, scalars: Mapping[str, float]) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        self._file.write(json.dumps({"iteration": iteration, **finite}, allow_nan=False) + "\n")
        self._file.flush()

    def write_results(self, iteration: int, results: Results) -> None:
        values = flattened(results)
        if iteration < self._start_iteration:  # repeats the evaluation of the checkpoint that the run resumed from
            self._file.close()
            _keep_lines(self._path, lambda line: not _is_line_of(line, iteration, values))
            self._file = self._path.open("a", encoding="utf-8")
        self.write(iteration, values)

    def close(self, *, failed: bool = False) -> None:  # noqa: ARG002
        self._file.close()


@METRIC_WRITERS.register("json")
def build_json_writer(cfg: CfgNode, place: RunPlace) -> JsonLinesWriter:  # noqa: ARG001
    return JsonLinesWriter(place.output_dir / "metrics.json", start_iteration=place.start_iteration)


def _keep_lines(path: Path, is_kept: Callable[[Line | None], bool]) -> None:
    """Rewrite a file with the lines that `is_kept`; it gets None for a line that cannot be parsed."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if is_kept(_parsed(line))]
    if len(kept) < len(lines):
        write_text(path, "".join(kept))


def _is_line_of(line: Line | None, iteration: int, names: Collection[str]) -> bool:
    return line is not None and line["iteration"] == iteration and not line.keys().isdisjoint(names)


def _parsed(line: str) -> Line | None:
    try:
        values = json.loads(line)
    except ValueError:
        return None  # an incomplete line: the process was killed during the write
    return values if isinstance(values, dict) and isinstance(values.get("iteration"), int) else None
