"""Seconds, interleaved between candidates, and peak memory, of inference and training steps."""

import multiprocessing
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops import rle
from mrcnn_zoo.structures import Sample


@dataclass(frozen=True)
class Contestant:
    """Somebody whose steps are measured.

    Args:
        name: in the report.
        steps: the pieces of work of one round; each returns how many things it produced (instances, images).
        before: called before each step, outside the measured time.
    """

    name: str
    steps: Sequence[Callable[[], int]]
    before: Callable[[], None] | None = None


@dataclass(frozen=True)
class Timing:
    """Seconds of one contestant, one number a round."""

    name: str
    seconds: tuple[float, ...]
    produced: int  # in one round

    @property
    def median(self) -> float:
        """Seconds of a typical round."""
        return statistics.median(self.seconds)

    @property
    def minimum(self) -> float:
        """Seconds of the fastest round: the one that other programs disturbed least."""
        return min(self.seconds)


def time_in_turns(contestants: Sequence[Contestant], *, repeats: int, warmup: int = 1) -> list[Timing]:
    """Run every contestant's steps, taking turns step by step; who begins changes from round to round.

    Args:
        contestants: with equally many steps.
        repeats: rounds that count, at least 1.
        warmup: rounds before them.
    """
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    produced: dict[str, int] = {}
    for round_number in range(warmup + repeats):
        order = contestants if round_number % 2 == 0 else contestants[::-1]
        elapsed = dict.fromkeys(seconds, 0.0)
        produced = dict.fromkeys(seconds, 0)
        for number in range(len(contestants[0].steps)):
            for contestant in order:
                if contestant.before is not None:
                    contestant.before()
                start = _now()
                produced[contestant.name] += contestant.steps[number]()
                elapsed[contestant.name] += _now() - start
        if round_number >= warmup:
            for name, value in elapsed.items():
                seconds[name].append(value)
    return [Timing(name, tuple(values), produced[name]) for name, values in seconds.items()]


def paired_ratio(one: Timing, other: Timing) -> float:
    """The median over the rounds of one's seconds by the other's; below 1 where `one` is faster."""
    return statistics.median(a / b for a, b in zip(one.seconds, other.seconds, strict=True))


def _now() -> float:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


MEBIBYTE = 2**20
STATUS_FILE = Path("/proc/self/status")

Prepare = Callable[[Any], Callable[[], None]]


def peak_memory_mib(prepare: Prepare, job: Any) -> float:
    """MiB that a piece of work needs at its highest, on top of what was there before it began.

    Args:
        prepare: a function of a module; called in a new process with the job, it returns the work. What it allocates,
            such as the inputs, does not count; what the work allocates, such as the model, does.
        job: picklable.

    Returns:
        Of tensors on the GPU where the work uses CUDA, else of the resident set of the process.

    Raises:
        RuntimeError: the work failed; with its traceback.
        UserError: as the work raised it.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(prepare, job, sender), daemon=True)
    process.start()
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(
            f"the process that measures memory ended with code {process.exitcode}; was it out of memory?"
        ) from None
    process.join()
    if isinstance(answer, UserError):
        raise answer
    if isinstance(answer, str):
        raise RuntimeError(f"the work whose memory is measured failed:\n{answer}")
    return answer


def _measure(prepare: Prepare, job: Any, sender: Connection) -> None:
    try:
        work = prepare(job)
        before = resident_mib()
        work()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            sender.send(torch.cuda.max_memory_allocated() / MEBIBYTE)
        else:
            sender.send(peak_resident_mib() - before)
    except UserError as error:
        sender.send(error)
    except BaseException:  # told to the parent, which raises it
        sender.send(traceback.format_exc())


def resident_mib() -> float:
    """MiB of this process in memory now; its peak where the system does not tell."""
    return _status("VmRSS:") or _largest_resident_mib()


def peak_resident_mib() -> float:
    """MiB of this process at its highest.

    Not getrusage where it can be helped: on Linux a new process may inherit the figure of the one that started it.
    """
    return _status("VmHWM:") or _largest_resident_mib()


def _status(label: str) -> float:
    if not STATUS_FILE.exists():
        return 0.0
    line = next((line for line in STATUS_FILE.read_text().splitlines() if line.startswith(label)), "0 0")
    return int(line.split()[1]) / 1024


def _largest_resident_mib() -> float:
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MEBIBYTE


LEARNING_RATE = 1e-9  # the optimizer does all its work, and the weights stay what they are
MOMENTUM = 0.9
MASK_THRESHOLD = 0.5

Steps = list[Callable[[], int]]  # one a batch; each returns the number of instances it found or was trained on
TorchvisionInput = tuple[list[Tensor], list[dict[str, Tensor]]]  # images, targets


def our_steps(model: nn.Module, batches: Sequence[list[Sample]], *, task: str, mask_form: str) -> Steps:
    """Steps of our model.

    Args:
        model: with `losses(samples)` and `predict(samples)`.
        batches: one step each.
        task: "inference" or "train".
        mask_form: "bitmap" or "rle".
    """
    if task == "train":
        optimizer = _training_mode(model)
        return [partial(_our_training_step, model, optimizer, batch) for batch in batches]
    model.eval()
    return [partial(_our_inference, model, batch, mask_form) for batch in batches]


def torchvision_steps(model: nn.Module, inputs: Sequence[TorchvisionInput], *, task: str, mask_form: str) -> Steps:
    """Steps of torchvision's model; arguments as for `our_steps`."""
    if task == "train":
        optimizer = _training_mode(model)
        return [partial(_torchvision_training_step, model, optimizer, *batch) for batch in inputs]
    model.eval()
    return [partial(_torchvision_inference, model, images, mask_form) for images, _ in inputs]


def torchvision_inputs(batch: list[Sample]) -> TorchvisionInput:
    """Images as float tensors and targets with full-image masks, which torchvision's models are trained with."""
    targets: list[dict[str, Tensor]] = []
    for sample in batch:
        if sample.targets is None:
            continue
        columns = {"boxes": sample.targets.boxes, "labels": sample.targets.classes + 1}
        if sample.targets.masks is not None:
            columns["masks"] = sample.targets.masks.bitmaps().to(torch.uint8)
        has_area = (columns["boxes"][:, 2:] > columns["boxes"][:, :2]).all(dim=1)  # it refuses others
        targets.append({name: column[has_area] for name, column in columns.items()})
    return [sample.image.float() for sample in batch], targets


def _training_mode(model: nn.Module) -> torch.optim.Optimizer:
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.SGD(trained, lr=LEARNING_RATE, momentum=MOMENTUM)


def _our_training_step(model: Any, optimizer: torch.optim.Optimizer, batch: list[Sample]) -> int:
    optimizer.zero_grad()
    model.losses(batch).total().backward()
    optimizer.step()
    return sum(len(sample.targets) for sample in batch if sample.targets is not None)


def _torchvision_training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: list[Tensor], targets: list[dict[str, Tensor]]
) -> int:
    device = next(model.parameters()).device
    images = [image.to(device) for image in images]
    moved = [{name: column.to(device) for name, column in target.items()} for target in targets]
    optimizer.zero_grad()
    sum(model(images, moved).values()).backward()
    optimizer.step()
    return sum(len(target["boxes"]) for target in targets)


def _our_inference(model: Any, batch: list[Sample], mask_form: str) -> int:
    with torch.no_grad():
        detections = model.predict(batch)
        for table in detections:
            if table.masks is not None:
                table.masks.rles() if mask_form == "rle" else table.masks.bitmaps()
    return sum(len(table) for table in detections)


def _torchvision_inference(model: nn.Module, images: list[Tensor], mask_form: str) -> int:
    device = next(model.parameters()).device
    with torch.no_grad():
        detections = model([image.to(device) for image in images])
        for table in detections:
            if "masks" in table:
                bitmaps = table["masks"][:, 0] > MASK_THRESHOLD
                if mask_form == "rle":
                    [rle.encode(bitmap) for bitmap in bitmaps.cpu().numpy()]
    return sum(len(table["boxes"]) for table in detections)
