"""The time of each stage of a detector during an evaluation, without waiting for the device.

    with StageTimer(detector) as timer:
        for samples in timer.loaded(loader):
            detector.predict(samples)
    timer.seconds()

On the CPU a stage takes the time of its call. On CUDA, events are queued with its work and read at the end, so that the
host waits no more than without the timer.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ContextDecorator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import nn
from typing_extensions import Self

from mrcnn_zoo.output_files import write_json

STAGE_TIMES_FILE = "stage_times.json"  # in inference/
LOADING, REST = "loading images", "rest of the model"
# Attribute of the detector, its method, and the name of the stage. Those that a detector does not have are left out.
STAGES = (
    ("backbone", "forward", "backbone"),
    ("proposal_generator", "predict", "proposals"),
    ("roi_heads", "detect_boxes", "box head"),
    ("", "predict_all", "heads"),
    ("selection", "select", "selection"),
)
BRANCH_OF = ("roi_heads", "branches")

Item = TypeVar("Item")
Mark = float | torch.cuda.Event


class StageTimer:
    """Measures the calls of the stages while it is entered; their methods are replaced for that time.

    Args:
        detector: whose `predict` is called; a wrapper has the model as `detector`.
    """

    def __init__(self, detector: nn.Module) -> None:
        self._detector = detector
        parameter = next(detector.parameters(), None)
        self._device = torch.device("cpu") if parameter is None else parameter.device
        self._marks: dict[str, list[tuple[Mark, Mark]]] = defaultdict(list)
        self._loading = 0.0
        self._replaced: list[tuple[Any, str]] = []

    def __enter__(self) -> Self:
        self._replace(self._detector, "predict", "")
        model = self._detector
        while isinstance(getattr(model, "detector", None), nn.Module):
            model = model.detector  # type: ignore[assignment]
        for attribute, method, name in STAGES:
            self._replace(getattr(model, attribute, None) if attribute else model, method, name)
        for branch in getattr(getattr(model, BRANCH_OF[0], None), BRANCH_OF[1], ()):
            names = {id(module): name for name, module in model.named_modules()}
            self._replace(branch, "predict", names.get(id(branch), type(branch).__name__).rpartition(".")[2])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for owner, method in self._replaced:
            vars(owner).pop(method, None)
        self._replaced.clear()

    def loaded(self, batches: Iterable[Item]) -> Iterator[Item]:
        """The batches; the time until each is there is that of loading.

        Args:
            batches: of images.
        """
        iterator = iter(batches)
        while True:
            start = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._loading += time.perf_counter() - start
            yield batch

    def seconds(self) -> dict[str, float]:
        """The seconds of loading, of each stage, and of the rest of the calls of `predict`."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        sums = {name: sum(map(_seconds_between, marks)) for name, marks in self._marks.items()}
        total = sums.pop("", 0.0)
        return {LOADING: self._loading, **sums, REST: max(0.0, total - sum(sums.values()))}

    def save(self, folder: Path, num_images: int) -> None:
        """Write `stage_times.json` with the seconds per image.

        Args:
            folder: of the file.
            num_images: of this process.
        """
        seconds = {name: value / max(1, num_images) for name, value in self.seconds().items()}
        content = {"device": str(self._device), "num_images": num_images, "seconds_per_image": seconds}
        write_json(folder / STAGE_TIMES_FILE, content, indent=1)

    def _replace(self, owner: Any, method: str, name: str) -> None:
        function = getattr(owner, method, None)
        if function is not None and method not in vars(owner):
            setattr(owner, method, _TimedCalls(self._mark, self._marks[name])(function))
            self._replaced.append((owner, method))

    def _mark(self) -> Mark:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


class _TimedCalls(ContextDecorator):
    """Decorates a method: the marks before and after each call are kept."""

    def __init__(self, mark: Callable[[], Mark], marks: list[tuple[Mark, Mark]]) -> None:
        self._mark = mark
        self._marks = marks
        self._starts: list[Mark] = []

    def __enter__(self) -> Self:
        self._starts.append(self._mark())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._marks.append((self._starts.pop(), self._mark()))


def _seconds_between(marks: tuple[Mark, Mark]) -> float:
    start, end = marks
    if isinstance(start, torch.cuda.Event):
        return float(start.elapsed_time(end)) / 1000  # type: ignore[arg-type]
    return float(end) - start  # type: ignore[arg-type]
