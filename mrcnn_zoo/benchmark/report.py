"""Benchmark reports as tables and JSON."""

import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from mrcnn_zoo.benchmark.measure import Timing, paired_ratio


@dataclass(frozen=True)
class Row:
    """Measurements of one candidate."""

    name: str
    seconds_median: float  # per image
    seconds_min: float  # per image
    images_per_second: float  # at the median
    produced: float  # per image
    peak_memory_mib: float | None = None


@dataclass(frozen=True)
class BenchmarkReport:
    """Measurements of a task with its settings."""

    task: str
    settings: dict[str, Any]
    rows: tuple[Row, ...]
    ratios: dict[str, float]  # of two candidates; below 1 where the first is better
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """Settings, table, ratios and notes."""
        settings = "\n".join(f"  {name}: {value}" for name, value in (self.settings | environment()).items())
        has_memory = any(row.peak_memory_mib is not None for row in self.rows)
        headers = ["", "s / image (median)", "(min)", "images / s", "produced / image"]
        cells = [
            [row.name, row.seconds_median, row.seconds_min, row.images_per_second, row.produced]
            + ([row.peak_memory_mib] if has_memory else [])
            for row in self.rows
        ]
        table = tabulate(cells, headers + (["peak memory (MiB)"] if has_memory else []), floatfmt=".4g")
        parts = [f"{self.task}\n{settings}", table]
        if self.ratios:
            parts.append("\n".join(f"{name}: {value:.3f}" for name, value in self.ratios.items()))
        return "\n\n".join([*parts, "\n".join(f"* {note}" for note in self.notes)])

    def write(self, path: Path) -> None:
        """Write the report as JSON.

        Args:
            path: of the file, whose folder is created if needed.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self) | {"environment": environment()}, indent=2) + "\n")


def make_rows(timings: list[Timing], *, num_images: int, memory: dict[str, float] | None = None) -> tuple[Row, ...]:
    """Rows of a report, per image.

    Args:
        timings: of rounds of `num_images` images.
        num_images: per round, at least 1.
        memory: peak memory in MiB by candidate.
    """
    return tuple(
        Row(
            name=timing.name,
            seconds_median=timing.median / num_images,
            seconds_min=timing.minimum / num_images,
            images_per_second=num_images / timing.median,
            produced=timing.produced / num_images,
            peak_memory_mib=(memory or {}).get(timing.name),
        )
        for timing in timings
    )


def make_ratios(timings: list[Timing], rows: tuple[Row, ...]) -> dict[str, float]:
    """Ratios of the first to the second candidate; empty for one candidate.

    Args:
        timings: of the candidates.
        rows: of the same candidates.
    """
    if len(rows) < 2:
        return {}
    pair = f"{rows[0].name} / {rows[1].name}"
    ratios = {
        f"seconds (median of the rounds' ratios), {pair}": paired_ratio(timings[0], timings[1]),
        f"seconds (fastest rounds), {pair}": timings[0].minimum / timings[1].minimum,
    }
    mine, other = rows[0].peak_memory_mib, rows[1].peak_memory_mib
    if mine and other:
        ratios[f"peak memory, {pair}"] = mine / other
    return ratios


def environment() -> dict[str, Any]:
    """Versions and processor of this machine."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {"torch": torch.__version__, "python": platform.python_version(), "processor": device}
