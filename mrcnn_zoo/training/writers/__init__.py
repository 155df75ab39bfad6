"""Registered writers of the metrics, results and pictures of a run."""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.distributed.processes import is_main_process
from mrcnn_zoo.registries import METRIC_WRITERS
from mrcnn_zoo.training.writers import console, files, trackers
from mrcnn_zoo.training.writers.contract import MetricWriter, RunPlace, StageOfRun

__all__ = [
    "MetricWriter",
    "RunPlace",
    "StageOfRun",
    "build_writers",
    "closing",
    "console",
    "files",
    "trackers",
]


def build_writers(
    cfg: CfgNode,
    output_dir: str | Path,
    *,
    start_iteration: int = 0,
    max_iterations: int = 0,
    start_seconds: float = 0.0,
    max_seconds: float = 0.0,
    stage: StageOfRun | None = None,
) -> list[MetricWriter]:
    """The writers that WRITERS names; none on processes other than the first.

    Args:
        cfg: WRITERS, and each writer's own keys.
        output_dir: created when missing.
        start_iteration: first iteration of this session, 0 for a fresh run. Earlier entries in the folder of this
            iteration and later ones are dropped; a fresh run keeps the files of an earlier one as `.previous`.
        max_iterations: the length of the whole training; 0 when unknown.
        start_seconds: of training before this run.
        max_seconds: the time budget of the whole training; 0 when it has none.
        stage: that the writers are for, in a run of several.
    """
    if not is_main_process():
        return []
    place = RunPlace(
        Path(output_dir),
        start_iteration=start_iteration,
        max_iterations=max_iterations,
        start_seconds=start_seconds,
        max_seconds=max_seconds,
        stage=stage,
    )
    place.output_dir.mkdir(parents=True, exist_ok=True)
    # All names are resolved before the first writer opens a file: a typo must leave no files.
    builders = [METRIC_WRITERS.get(name) for name in dict.fromkeys(cfg.WRITERS)]
    return [builder(cfg, place) for builder in builders]


@contextlib.contextmanager
def closing(writers: Sequence[MetricWriter]) -> Iterator[None]:
    """Close every writer after the block, also when another one raises, with `failed` after an exception.

    Args:
        writers: the list may grow inside the block only before this call.
    """
    with contextlib.ExitStack() as stack:
        for writer in writers:
            stack.push(partial(_close, writer))
        yield


def _close(
    writer: MetricWriter,
    kind: type[BaseException] | None,
    error: BaseException | None,  # noqa: ARG001
    trace: TracebackType | None,  # noqa: ARG001
) -> None:
    writer.close(failed=kind is not None)
