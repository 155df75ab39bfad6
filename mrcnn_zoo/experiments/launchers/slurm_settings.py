"""Settings of the launcher slurm: the section SLURM of a sweep's file, and `--slurm NAME=VALUE`."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mrcnn_zoo.config.keys import is_number
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registry import did_you_mean

SECTION = "SLURM"
CLUSTERS = ("slurm", "local")
TIME = re.compile(r"(\d+-)?\d+(:\d+){0,2}")
DAY, HOUR = 24 * 60, 60  # minutes


@dataclass(frozen=True)
class SlurmSettings:
    """What each job of a sweep requests.

    Args:
        cluster: "slurm"; "local" for processes of this machine, to try a sweep or this launcher.
        partition: of the cluster; empty for its default.
        account: that is charged; empty for the default.
        qos: quality of service; empty for the default.
        constraint: on the nodes; empty for none.
        time: minutes after which a job is interrupted and queued again.
        nodes: per run.
        gpus: per node, one process each.
        cpus: per node.
        memory: GB per node; 0 for the default of the partition.
        max_parallel: jobs of an array at the same time.
        requeues: after a time limit, at most; those after a preemption are not counted.
        setup: lines of the job's shell script before the training.
        options: others of sbatch, by long name.
    """

    cluster: str = "slurm"
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    time: int = DAY
    nodes: int = 1
    gpus: int = 0
    cpus: int = 4
    memory: float = 0
    max_parallel: int = 256
    requeues: int = 100
    setup: tuple[str, ...] = ()
    options: Mapping[str, Any] | None = None


def read_settings(given: Mapping[str, Any], *, jobs: int = 0) -> SlurmSettings:
    """The checked settings of a launcher.

    Args:
        given: by upper-case name.
        jobs: `--jobs`, which counts before MAX_PARALLEL; 0 for none.

    Raises:
        UserError: naming the field, its value, and what it takes.
    """
    fields: dict[str, Any] = {}
    for name, value in given.items():
        if name not in READERS:
            raise UserError(
                f"{SECTION} has no field {name!r}.{did_you_mean(name, READERS)} It has {', '.join(READERS)}."
            )
        read, words = READERS[name]
        fields[name.lower()] = found = read(value)
        if found is None:
            raise UserError(f"{SECTION}.{name} = {value!r} must be {words}.")
    return SlurmSettings(**(fields | ({"max_parallel": jobs} if jobs else {})))


def _text(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip() else None


def _cluster(value: Any) -> str | None:
    return value if value in CLUSTERS else None


def _count(least: int) -> Callable[[Any], int | None]:
    def read(value: Any) -> int | None:
        return value if isinstance(value, int) and not isinstance(value, bool) and value >= least else None

    return read


def _memory(value: Any) -> float | None:
    return float(value) if is_number(value) and value > 0 else None


def _minutes(value: Any) -> int | None:
    """Minutes of a number, or of a text as sbatch takes it: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if value > 0 else None
    if not isinstance(value, str) or not TIME.fullmatch(value.strip()):
        return None
    days, _, rest = value.strip().rpartition("-")
    units = [int(part) for part in rest.split(":")]
    hours_first = bool(days) or len(units) == 3
    hours, minutes, seconds = (units if hours_first else [0, *units]) + [0] * (3 - len(units) - (not hours_first))
    return int(days or 0) * DAY + hours * HOUR + minutes + (seconds > 0) or None


def _lines(value: Any) -> tuple[str, ...] | None:
    lines = [value] if isinstance(value, str) else value
    return tuple(lines) if isinstance(lines, list) and all(isinstance(line, str) for line in lines) else None


def _mapping(value: Any) -> Mapping[str, Any] | None:
    return value if isinstance(value, Mapping) else None


READERS: dict[str, tuple[Callable[[Any], Any], str]] = {  # of each field, and what it takes
    "CLUSTER": (_cluster, f"one of {', '.join(CLUSTERS)}"),
    "PARTITION": (_text, "a name"),
    "ACCOUNT": (_text, "a name"),
    "QOS": (_text, "a name"),
    "CONSTRAINT": (_text, "a text"),
    "TIME": (_minutes, 'minutes above 0, or a text such as "12:00:00" or "2-00:00" (days-hours:minutes)'),
    "NODES": (_count(1), "a whole number of at least 1"),
    "GPUS": (_count(0), "a whole number of at least 0: GPUs per node"),
    "CPUS": (_count(1), "a whole number of at least 1: cores per node"),
    "MEMORY": (_memory, "a number above 0: GB per node"),
    "MAX_PARALLEL": (_count(1), "a whole number of at least 1"),
    "REQUEUES": (_count(0), "a whole number of at least 0"),
    "SETUP": (_lines, "a list of lines of a shell script"),
    "OPTIONS": (_mapping, "a mapping of options of sbatch, e.g. {exclude: node7}"),
}
