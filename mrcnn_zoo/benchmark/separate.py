"""Models timed in a process each, interleaved: the allocator's setting and the threads hold for a whole process."""

import multiprocessing
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from mrcnn_zoo.benchmark.inputs import build_batches
from mrcnn_zoo.benchmark.measure import Timing, peak_resident_mib, resident_mib
from mrcnn_zoo.benchmark.models import (
    OURS,
    TORCHVISION,
    WEIGHTS_NOTE,
    ModelJob,
    ModelPlan,
    Steps,
    build_models,
    settings_of,
    start_steps,
)
from mrcnn_zoo.benchmark.report import BenchmarkReport, make_rows
from mrcnn_zoo.config import changed_config
from mrcnn_zoo.config.loading import config_from_text
from mrcnn_zoo.config.values import read_overrides
from mrcnn_zoo.errors import UserError

PROCESSES_NOTE = (
    "Each candidate runs in a process of its own; the processes take turns, in alternating order. Peak memory is that "
    "of the process, without the memory in use before the model is built."
)
WARMUP_ROUNDS = 2  # compiled models measure their kernels in the first


@dataclass(frozen=True)
class Entrant:
    """A candidate in a process of its own; picklable.

    Args:
        name: in the report.
        start: loads the inputs in the new process; what it returns builds the rest and makes the steps of a round.
        clock: seconds; time.process_time for work of one thread that other processes shall not disturb.
    """

    name: str
    start: Callable[[], Callable[[], Steps]]
    clock: Callable[[], float] = time.perf_counter


def benchmark_in_processes(plan: ModelPlan, variants: Sequence[Sequence[str]]) -> BenchmarkReport:
    """Seconds, images per second and peak memory; every variant beside the plain config and torchvision's model.

    torchvision's model is measured twice, with the allocator of the plan and with the default of the C library.

    Args:
        plan: what to measure.
        variants: overrides of the config, each list for a further candidate of ours.

    Raises:
        UserError: the dataset cannot be loaded, an override is wrong, or torchvision's model does not support a
            setting.
        RuntimeError: a process failed; with its traceback.
    """
    cfg = config_from_text(plan.config_text, trust=plan.trust)
    is_training = plan.task == "train"
    batches = build_batches(
        cfg, plan.images, num_batches=plan.num_batches, batch_size=plan.batch_size, is_training=is_training
    )
    models = build_models(cfg, batches[0], is_against_torchvision=plan.is_against_torchvision)
    with tempfile.TemporaryDirectory() as folder:
        files = {name: str(Path(folder) / f"{name}.pth") for name in models}
        for name, model in models.items():
            torch.save(model.state_dict(), files[name])
        settings = settings_of(plan, batches, models)
        del models
        entrants = _entrants(plan, variants, files)
        timings, memory = time_in_turns(entrants, repeats=plan.repeats)
    return BenchmarkReport(
        task=plan.task,
        settings=settings,
        rows=make_rows(timings, num_images=plan.num_batches * plan.batch_size, memory=memory),
        ratios=_ratios(timings, memory),
        notes=(WEIGHTS_NOTE, PROCESSES_NOTE),
    )


def _entrants(plan: ModelPlan, variants: Sequence[Sequence[str]], files: dict[str, str]) -> list[Entrant]:
    entrants = [_entrant(OURS, ModelJob(plan, OURS, files[OURS]))]
    for overrides in variants:
        changes = {".".join(item.path): item.value for item in read_overrides(overrides)}
        cfg = changed_config(config_from_text(plan.config_text, trust=plan.trust), changes, source="--variant")
        own_plan = replace(plan, config_text=cfg.dump())
        entrants.append(_entrant(f"{OURS} {' '.join(overrides)}", ModelJob(own_plan, OURS, files[OURS])))
    if plan.is_against_torchvision:
        entrants.append(_entrant(TORCHVISION, ModelJob(plan, TORCHVISION, files[TORCHVISION])))
        if plan.keeps_memory:
            plain = replace(plan, keeps_memory=False)
            entrants.append(
                _entrant(f"{TORCHVISION}, default allocator", ModelJob(plain, TORCHVISION, files[TORCHVISION]))
            )
    return entrants


def _entrant(name: str, job: ModelJob) -> Entrant:
    return Entrant(name, partial(start_steps, job))


def time_in_turns(entrants: Sequence[Entrant], *, repeats: int) -> tuple[list[Timing], dict[str, float]]:
    """Seconds of every round, and peak memory in MiB by name.

    Args:
        entrants: with names that differ.
        repeats: measured rounds; the order alternates.

    Raises:
        UserError: raised in a process.
        RuntimeError: a process failed; with its traceback.
    """
    context = multiprocessing.get_context("spawn")
    processes, pipes = [], []
    try:
        for entrant in entrants:  # one after the other: they do not disturb each other's warm-up
            pipe, of_process = context.Pipe()
            process = context.Process(target=_serve, args=(entrant, of_process), daemon=True)
            process.start()
            of_process.close()
            processes.append(process)
            pipes.append(pipe)
            _answer(pipe, entrant.name)
        seconds: list[list[float]] = [[] for _ in entrants]
        produced = [0] * len(entrants)
        for number in range(repeats):
            order = range(len(entrants)) if number % 2 == 0 else reversed(range(len(entrants)))
            for place in order:
                pipes[place].send("round")
                elapsed, produced[place] = _answer(pipes[place], entrants[place].name)
                seconds[place].append(elapsed)
        memory = {}
        for entrant, pipe in zip(entrants, pipes, strict=True):
            pipe.send("end")
            memory[entrant.name] = _answer(pipe, entrant.name)[0]
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.join(timeout=10)
            process.kill()
    names = [entrant.name for entrant in entrants]
    return [Timing(*row) for row in zip(names, map(tuple, seconds), produced, strict=True)], memory


def _answer(pipe: Connection, name: str) -> tuple[float, int]:
    try:
        answer = pipe.recv()
    except EOFError:
        raise RuntimeError(f"the process of {name} ended without an answer; was it out of memory?") from None
    if isinstance(answer, UserError):
        raise answer
    if isinstance(answer, str):
        raise RuntimeError(f"the process of {name} failed:\n{answer}")
    return answer


def _serve(entrant: Entrant, pipe: Connection) -> None:
    """Answer each "round" with its seconds and instances, and the end with the peak memory in MiB."""
    try:
        start, clock = entrant.start(), entrant.clock
        before = resident_mib()
        steps = start()
        for _ in range(WARMUP_ROUNDS):
            for step in steps:
                step()
        pipe.send((0.0, 0))
        while pipe.recv() == "round":
            begin = clock()
            produced = sum(step() for step in steps)
            pipe.send((clock() - begin, produced))
        pipe.send((peak_resident_mib() - before, 0))
    except EOFError:  # the parent stopped
        return
    except UserError as error:
        pipe.send(error)
    except BaseException:  # sent to the parent, which raises it
        pipe.send(traceback.format_exc())


def _ratios(timings: Sequence[Timing], memory: dict[str, float]) -> dict[str, float]:
    """Each candidate relative to the first and to torchvision: median, smallest and largest ratio of the rounds."""
    ratios: dict[str, float] = {}
    references = [timings[0], *(timing for timing in timings if timing.name == TORCHVISION)]
    for reference in references:
        for timing in timings:
            if timing is reference or (reference is timings[0] and timing.name.startswith(TORCHVISION)):
                continue
            ratios |= ratios_of_rounds(timing, reference, memory)
    return ratios


def ratios_of_rounds(timing: Timing, reference: Timing, memory: dict[str, float]) -> dict[str, float]:
    """How many times as fast a candidate is as another: median, smallest and largest ratio of the rounds; and memory.

    Args:
        timing: of the candidate.
        reference: of the other, in the same rounds.
        memory: peak in MiB by name.
    """
    rounds = [a / b for a, b in zip(reference.seconds, timing.seconds, strict=True)]
    pair = f"{timing.name}, times as fast as {reference.name}"
    ratios = {f"{pair} (median of the rounds)": statistics.median(rounds)}
    ratios |= {f"{pair} (slowest round)": min(rounds), f"{pair} (fastest round)": max(rounds)}
    if memory[reference.name] > 0:
        ratios[f"peak memory, {timing.name} / {reference.name}"] = memory[timing.name] / memory[reference.name]
    return ratios
