"""Time and memory of the variants of a sweep, measured one after the other with nothing else running.

The times of the runs themselves are no measurement: they share the machine with others.
"""

import json
import logging
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrcnn_zoo.config.trust import code_modules
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.experiments.records import RUNNING, SweepRecord
from mrcnn_zoo.experiments.runs import RunSpec, expand
from mrcnn_zoo.output_files import check_output_file, write_json

if TYPE_CHECKING:
    from mrcnn_zoo.benchmark.models import ModelPlan

SPEED_FILE = "speed.json"  # in the folder of the sweep
TASKS = ("train", "inference")
MAX_BATCHES = 4  # different ones; more iterations repeat them
ITERATIONS = 20
IDLE_LOAD = 0.5  # load average above which the machine is busy
ALONE = "one variant after the other, each in a new process"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Speed:
    """Measurements of one variant; None where one failed.

    Args:
        parameters: number of weights.
        train_images_per_second: forward, losses, backward and SGD, without data loading.
        train_memory_mib: peak of the training steps.
        images_per_second: of inference, one image per batch.
        memory_mib: peak of inference.
        error: why a number is missing.
    """

    parameters: int | None = None
    train_images_per_second: float | None = None
    train_memory_mib: float | None = None
    images_per_second: float | None = None
    memory_mib: float | None = None
    error: str = ""


Measure = Callable[["ModelPlan"], Mapping[str, Any]]


def measure_in_process(plan: "ModelPlan") -> Mapping[str, Any]:
    """The benchmark of one variant in a new process, as in the JSON of `mrcnn-zoo benchmark`.

    Args:
        plan: what is measured.

    Raises:
        UserError: the variant cannot be measured.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(run_benchmark, plan).result()
        except BrokenProcessPool as error:
            raise UserError(
                "its process was killed, perhaps because memory ran out; a smaller SOLVER.IMS_PER_BATCH needs less."
            ) from error


def run_benchmark(plan: "ModelPlan") -> dict[str, Any]:
    """Benchmark a variant in this process.

    Args:
        plan: what is measured.
    """
    from mrcnn_zoo.benchmark.models import benchmark_models
    from mrcnn_zoo.benchmark.report import environment

    report = benchmark_models(plan)
    settings = {name: report.settings[name] for name in ("batch_size", "num_threads", "image sizes", "parameters")}
    return asdict(report.rows[0]) | settings | {"environment": environment()}


def measure_sweep(
    record: SweepRecord,
    *,
    only: Sequence[str] = (),
    iterations: int = ITERATIONS,
    num_threads: int = 0,
    measure: Measure = measure_in_process,
) -> Path:
    """Measure the variants of a sweep and write speed.json after each; other variants in the file stay.

    Args:
        record: of the sweep's folder.
        only: names of variants; empty for all.
        iterations: measured ones per variant and task.
        num_threads: of torch; 0 for its default.
        measure: makes one measurement.

    Returns:
        The written file.

    Raises:
        UserError: an unknown variant, a config that cannot be loaded, or a file that cannot be written.
    """
    names = [record.sweep.variant(name).name for name in only] or [variant.name for variant in record.sweep.variants]
    specs: dict[str, RunSpec] = {}
    for spec in sorted(expand(record.sweep), key=lambda spec: -spec.key.fraction):
        specs.setdefault(spec.key.variant, spec)
    path = check_output_file(record.folder / SPEED_FILE, option="the file")
    measured = _read_file(record.folder)
    _warn_if_not_alone(record)
    for place, name in enumerate(names, start=1):
        logger.info("measuring %s (%d of %d)", name, place, len(names))
        load = _load_average()
        tasks = {task: _attempt(_plan(specs[name], task, iterations, num_threads), measure) for task in TASKS}
        date = datetime.now().astimezone().isoformat(timespec="seconds")
        measured[name] = {"date": date, "load_average": load, "iterations": iterations, **tasks}
        write_json(path, measured, indent=1)
    return path


def _plan(spec: RunSpec, task: str, iterations: int, num_threads: int) -> "ModelPlan":
    from mrcnn_zoo.benchmark.models import ModelPlan

    if task == "train" and isinstance(spec.cfg.SOLVER.IMS_PER_BATCH, str):
        raise UserError(f"SOLVER.IMS_PER_BATCH = {spec.cfg.SOLVER.IMS_PER_BATCH}: give a number to measure the speed.")
    num_batches = min(MAX_BATCHES, iterations)
    return ModelPlan(
        config_text=spec.cfg.dump(),
        trust=code_modules(spec.cfg),
        task=task,
        num_batches=num_batches,
        batch_size=spec.cfg.SOLVER.IMS_PER_BATCH if task == "train" else 1,
        repeats=-(-iterations // num_batches),
        num_threads=num_threads,
    )


def _attempt(plan: "ModelPlan", measure: Measure) -> Mapping[str, Any]:
    try:
        return measure(plan)
    except (UserError, RuntimeError) as error:
        text = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        logger.warning("%s: not measured: %s", plan.task, text)
        return {"error": text}


def _warn_if_not_alone(record: SweepRecord) -> None:
    running = sum(run.status == RUNNING for run in record.runs)
    if running:
        logger.warning("%s of this sweep is being trained: the times are too long.", counted(running, "run"))
    elif _load_average() > IDLE_LOAD:
        logger.warning(
            "the machine is busy (load average %.1f in the last minute): the times may be too long.", _load_average()
        )


def _load_average() -> float:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0


def read_speeds(folder: Path) -> tuple[dict[str, Speed], str]:
    """The measurements of a sweep by variant, and where and how they were made.

    Args:
        folder: of the sweep.

    Raises:
        UserError: speed.json cannot be read.
    """
    measured = _read_file(folder)
    if not measured:
        return {}, f"not measured; mrcnn-zoo sweep measure {folder} measures them, with nothing else running."
    return {name: _speed_of(content) for name, content in measured.items()}, _description(list(measured.values()))


def _read_file(folder: Path) -> dict[str, Any]:
    path = folder / SPEED_FILE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}). Remove it and measure again.") from error
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
        raise UserError(f"{path} is not a file of measured variants. Remove it and measure again.")
    return content


def _speed_of(content: Mapping[str, Any]) -> Speed:
    train, inference = (content.get(task, {}) for task in TASKS)
    errors = (f"{task}: {content[task]['error']}" for task in TASKS if "error" in content.get(task, {}))
    return Speed(
        parameters=train.get("parameters", inference.get("parameters")),
        train_images_per_second=train.get("images_per_second"),
        train_memory_mib=train.get("peak_memory_mib"),
        images_per_second=inference.get("images_per_second"),
        memory_mib=inference.get("peak_memory_mib"),
        error="; ".join(errors),
    )


def _description(variants: Sequence[Mapping[str, Any]]) -> str:
    """When and where the variants were measured, with what differed between them."""
    tasks = [content[task] for content in variants for task in TASKS if "environment" in content.get(task, {})]
    dates = sorted({content["date"][:10] for content in variants if "date" in content})
    facts = {
        "processor": [task["environment"]["processor"] for task in tasks],
        "torch": [task["environment"]["torch"] for task in tasks],
        "threads": [task["num_threads"] for task in tasks],
        "images per training step": [content["train"].get("batch_size") for content in variants if "train" in content],
        "iterations": [content.get("iterations") for content in variants],
        "load average before": [content.get("load_average") for content in variants],
    }
    known = {name: sorted({str(value) for value in values if value is not None}) for name, values in facts.items()}
    text = "; ".join(f"{name} {' or '.join(values)}" for name, values in known.items() if values)
    return f"Measured {' to '.join(dict.fromkeys([dates[0], dates[-1]])) if dates else ''}, {ALONE}: {text}."
