"""results.csv: one row an evaluation."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.registries import METRIC_WRITERS
from mrcnn_zoo.training.writers.contract import MetricWriter, Results, RunPlace, flattened, set_aside

Row = dict[str, str | float]


class CsvWriter(MetricWriter):
    """A table of evaluations, each with the training metrics last seen before it.

    The file is rewritten with each row: there are few, and a column that appears late must reach the header.

    Args:
        path: the file.
        start_iteration: rows of this iteration and later ones are removed; all are set aside when it is 0.
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
        # A run that resumed may repeat the evaluation of its checkpoint: the row is there, with metrics unseen since.
        former = [row for row in self._rows if int(row["iteration"]) == iteration]
        row: Row = {"iteration": iteration}
        for earlier in former:
            row |= earlier
        values = {**flattened(results), **self._latest}
        # A cell stays empty where there is no number: without objects of a class there is no AP.
        row |= {"iteration": iteration, **{name: "" if math.isnan(value) else value for name, value in values.items()}}
        self._columns += [name for name in row if name not in self._columns]
        self._rows = [row for row in self._rows if row not in former] + [row]
        self._save()

    def _save(self) -> None:
        unfinished = self._path.with_suffix(".tmp")
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, self._columns, restval="")
            table.writeheader()
            table.writerows(self._rows)
        unfinished.replace(self._path)


@METRIC_WRITERS.register("csv")
def build_csv_writer(cfg: CfgNode, place: RunPlace) -> CsvWriter:  # noqa: ARG001
    return CsvWriter(place.output_dir / "results.csv", start_iteration=place.start_iteration)


def _read_rows(path: Path, *, before: int) -> list[Row]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [dict(row) for row in csv.DictReader(file) if int(row["iteration"]) < before]
