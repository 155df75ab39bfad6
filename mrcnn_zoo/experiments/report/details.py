"""Tables of what the variants change, their time and memory, errors and all runs, for a report."""

from collections.abc import Iterable

from mrcnn_zoo.experiments.records import FAILED, FINISHED
from mrcnn_zoo.experiments.report.model import Run, Section
from mrcnn_zoo.experiments.report.tables import number_cell
from mrcnn_zoo.experiments.speed import Speed
from mrcnn_zoo.inspection.html_page import Cell, Table

MIB_PER_GIB = 1024
NOT_MEASURED = "not measured"


def detail_tables(section: Section) -> list[Table]:
    """Changes, time and memory, errors and all runs of a sweep, empty ones omitted.

    Args:
        section: the sweep.
    """
    tables = [changes_table(section), speed_table(section), failed_table(section), runs_table(section)]
    return [table for table in tables if table.rows]


def speed_table(section: Section) -> Table:
    """Parameters, images per second and peak memory; one row per variant, none where nothing was measured.

    Args:
        section: the sweep.
    """
    headers = (
        "variant",
        "parameters",
        "training: images/s",
        "ms/image",
        "peak GiB",
        "inference: images/s",
        "ms/image",
        "peak GiB",
    )
    rows = []
    for variant in section.variants if section.speeds else ():
        speed = section.speeds.get(variant, Speed())
        reason = speed.error or NOT_MEASURED
        cells = (
            number_cell(speed.parameters, reason, digits=0),
            *_rate_cells(speed.train_images_per_second, speed.train_memory_mib, reason),
            *_rate_cells(speed.images_per_second, speed.memory_mib, reason),
        )
        rows.append((Cell(variant), *cells))
    return Table("Time and memory", headers, tuple(rows), caption=section.speed_text)


def _rate_cells(rate: float | None, memory_mib: float | None, reason: str) -> tuple[Cell, Cell, Cell]:
    return (
        number_cell(rate, reason),
        number_cell(None if rate is None else 1000 / rate, reason, digits=0),
        number_cell(None if memory_mib is None else memory_mib / MIB_PER_GIB, reason),
    )


def changes_table(section: Section) -> Table:
    """What each variant changes in the base config.

    Args:
        section: the sweep.
    """
    rows = tuple(
        (Cell(variant), Cell("; ".join(section.changes.get(variant, ())) or "nothing")) for variant in section.variants
    )
    return Table("What the variants change", ("variant", "changes"), rows, names=2)


def failed_table(section: Section) -> Table:
    """Failed runs with their errors; without rows where none has failed.

    Args:
        section: the sweep.
    """
    rows = (
        (Cell(run.variant), Cell(run.label), Cell(" ".join(run.error.split()) or "no error is recorded"))
        for run in section.runs
        if run.status == FAILED
    )
    return Table("Failed runs", ("variant", "run", "error"), tuple(rows), names=3)


def runs_table(section: Section) -> Table:
    """Every run with its status and metrics.

    Args:
        section: the sweep.
    """
    rows = tuple(
        (Cell(run.variant), Cell(run.label), Cell(run.status), *_run_cells(run, section.metrics))
        for run in section.runs
    )
    return Table("All runs", ("variant", "run", "status", *section.metrics), rows, names=3, is_long=True)


def _run_cells(run: Run, metrics: Iterable[str]) -> list[Cell]:
    reason = f"the run is {run.status}" if run.status != FINISHED else "not in its results"
    return [number_cell(run.metrics.get(metric), reason) for metric in metrics]
