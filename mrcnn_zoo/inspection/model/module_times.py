"""Time, output shape and silent channels of each module in a real prediction."""

import contextlib
import functools
import inspect
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mrcnn_zoo.structures.instances import InstanceTable


class SelfTimes:
    """Adds up the time between entries and exits of modules, each interval in the innermost module.

    So the time of a module is the sum over the modules below it by name, and the rest is its own.

    Args:
        device: of the model; the clock is read when it has finished.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._device = device
        self._stack: list[str] = []
        self._last = 0.0

    def enter(self, name: str) -> None:
        """Continue in a module."""
        self._add()
        self._stack.append(name)

    def leave(self, *_call: object) -> None:
        """Return to the module before; takes the arguments of `around_calls`."""
        self._add()
        self._stack.pop()

    def _add(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if self._stack:
            self.seconds[self._stack[-1]] += now - self._last
        self._last = now


def time_modules(model: nn.Module, run: Callable[[], object], *, repeats: int) -> dict[str, float]:
    """The time of every module with all modules below it, in the run of median length after one that warms up.

    Args:
        model: whose modules are timed; "" is the model itself.
        run: one prediction.
        repeats: number of timed runs, at least 1.

    Returns:
        Seconds by module name; the times of the modules directly below one add up to at most its own.
    """
    device = next(model.parameters()).device
    run()
    runs = []
    for _ in range(repeats):
        times = SelfTimes(device)
        with around_calls(model, times.enter, times.leave):
            times.enter("")
            run()
            times.leave()
        runs.append(times.seconds)
    median = sorted(runs, key=lambda seconds: sum(seconds.values()))[(repeats - 1) // 2]
    return {name: sum_below(median, name) for name, _ in model.named_modules()}


def sum_below(values: Mapping[str, float], name: str) -> float:
    """The sum of the values of a module and of all modules below it.

    Args:
        values: by module name.
        name: "" for all.
    """
    return sum(value for key, value in values.items() if not name or key == name or key.startswith(f"{name}."))


@contextlib.contextmanager
def around_calls(
    model: nn.Module, enter: Callable[[str], None], leave: Callable[[str, nn.Module, Any], None]
) -> Iterator[None]:
    """Call `enter` and `leave` around the forward pass and all public methods of each module below a model.

    Args:
        model: restored afterwards.
        enter: called with the name of a module.
        leave: called with the name, the module and the result of the call.
    """
    with contextlib.ExitStack() as stack:
        for name, module in model.named_modules():
            if not name:
                continue
            before, after = functools.partial(enter, name), functools.partial(leave, name, module)
            stack.callback(module.register_forward_pre_hook(lambda *_, before=before: before()).remove)
            stack.callback(module.register_forward_hook(lambda *call, after=after: after(call[2])).remove)
            for method in _public_methods(type(module)):
                module.__dict__[method] = _surrounded(getattr(module, method), before, after)
                stack.callback(module.__dict__.pop, method)
        yield


def _public_methods(cls: type[nn.Module]) -> tuple[str, ...]:
    """Methods of a module's class such as `predict`, which hooks of the forward pass do not see."""
    known = {*dir(nn.Module), *dir(nn.ModuleList), *dir(nn.Sequential), *dir(nn.ModuleDict)}
    names = [name for name in dir(cls) if not name.startswith("_") and name not in known]
    return tuple(name for name in names if inspect.isfunction(inspect.getattr_static(cls, name)))


def _surrounded(
    original: Callable[..., Any], before: Callable[[], None], after: Callable[[Any], None]
) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        before()
        result = original(*args, **kwargs)
        after(result)
        return result

    return call


class OutputWatcher:
    """Output shapes of modules, and the largest value of each channel where no output is negative."""

    def __init__(self) -> None:
        self.shapes: dict[str, str] = {}
        self.largest: dict[str, Tensor] = {}  # (C,) by module; only of outputs that are never negative
        self.not_finite: set[str] = set()
        self._negative: set[str] = set()

    def watch(self, name: str, module: nn.Module, output: Any) -> None:
        """Keep what is needed of one output; the shape is that of the last.

        Args:
            name: of the module.
            module: the values of sequences are those of their last module, so only the shape is kept.
            output: of any type.
        """
        self.shapes[name] = shape_text(output)
        if isinstance(module, nn.Sequential | nn.Identity):
            return
        if not isinstance(output, Tensor) or output.dim() < 2 or not output.numel() or not output.is_floating_point():
            return
        values = output.detach().float()
        if not values.isfinite().all():
            self.not_finite.add(name)
        if name in self._negative or values.min() < 0:
            self._negative.add(name)
            self.largest.pop(name, None)
            return
        largest = values.transpose(0, 1).flatten(1).amax(dim=1).cpu()
        known = self.largest.get(name)
        self.largest[name] = largest if known is None else torch.maximum(known, largest)

    def silent(self) -> dict[str, tuple[int, int]]:
        """Numbers of channels that are 0 everywhere, and of all channels, by module with such channels."""
        counts = {name: (int((values == 0).sum()), len(values)) for name, values in self.largest.items()}
        return {name: count for name, count in counts.items() if count[0]}


def watch_outputs(model: nn.Module, run: Callable[[], object]) -> OutputWatcher:
    """Run a prediction and watch the outputs of all modules.

    Args:
        model: whose modules are watched.
        run: one prediction.
    """
    watcher = OutputWatcher()
    with around_calls(model, lambda _: None, watcher.watch):
        output = run()
    watcher.watch("", model, output)
    return watcher


def shape_text(output: Any) -> str:
    """The shape of an output in words: "1 x 256 x 50 x 68", "p2: 1 x ...", "100 Detections".

    Args:
        output: of a module.
    """
    if isinstance(output, Tensor):
        return " x ".join(map(str, output.shape)) or "scalar"
    if isinstance(output, InstanceTable):
        return f"{len(output)} {type(output).__name__}"
    if isinstance(output, Mapping):
        return "\n".join(f"{name}: {shape_text(value)}" for name, value in output.items())
    if isinstance(output, Sequence) and not isinstance(output, str):
        return "\n".join(dict.fromkeys(shape_text(value) for value in output))
    return type(output).__name__
