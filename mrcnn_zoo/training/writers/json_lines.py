"""metrics.json: one JSON object a line, as Detectron2 writes it."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.registries import METRIC_WRITERS
from mrcnn_zoo.training.writers.contract import MetricWriter, Results, RunPlace, flattened, set_aside


class JsonLinesWriter(MetricWriter):
    """Appends `{"iteration": 19, "lr": ..., ...}`; numbers that are not finite become null.

    Args:
        path: the file.
        start_iteration: lines of this iteration and later ones are removed first; all are set aside when it is 0.
    """

    def __init__(self, path: Path, *, start_iteration: int = 0) -> None:
        if start_iteration == 0:
            set_aside(path)
        elif path.exists():
            _drop_lines(path, from_iteration=start_iteration)
        self._file = path.open("a", encoding="utf-8")

    def write(self, iteration: int, scalars: Mapping[str, float]) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        self._file.write(json.dumps({"iteration": iteration, **finite}, allow_nan=False) + "\n")
        self._file.flush()

    def write_results(self, iteration: int, results: Results) -> None:
        self.write(iteration, flattened(results))

    def close(self) -> None:
        self._file.close()


@METRIC_WRITERS.register("json")
def build_json_writer(cfg: CfgNode, place: RunPlace) -> JsonLinesWriter:  # noqa: ARG001
    return JsonLinesWriter(place.output_dir / "metrics.json", start_iteration=place.start_iteration)


def _drop_lines(path: Path, *, from_iteration: int) -> None:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if _is_before(line, from_iteration)]
    if len(kept) < len(lines):
        trimmed = path.with_suffix(".tmp")
        trimmed.write_text("".join(kept), encoding="utf-8")
        trimmed.replace(path)


def _is_before(line: str, iteration: int) -> bool:
    try:
        return json.loads(line)["iteration"] < iteration
    except (ValueError, KeyError, TypeError):
        return False  # the half line of a run that was killed while it wrote
