"""Memory and time of a training, measured by single steps on this machine."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode, changed_config
from mrcnn_zoo.data.loading.mapper import Mapper, build_train_mapper
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.errors import counted
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.structures import Sample
from mrcnn_zoo.training.build import set_class_counts
from mrcnn_zoo.training.optimizer import build_optimizer
from mrcnn_zoo.training.step import Precision, build_precision

MAX_SECONDS = 6.0  # expected for a step; a slower one is computed from one image, or from smaller images
SMALL_FACTORS = (0.25, 0.5)  # sides of the smaller images, of those of the config
TIMED_STEPS, MAX_TIMED_SECONDS = 3, 2.0  # steps of which the fastest counts; one alone if it takes longer
DIRECT_SIDE = 320  # pixels, longer side up to which the config's size is measured at once
LOADED = 9  # images whose loading is timed
SEED = 0


@dataclass(frozen=True)
class Step:
    """A training step of some images.

    Args:
        images: number of them.
        pixels: of all together.
        seconds: forward, backward and optimizer.
        activation_bytes: kept for the backward pass.
    """

    images: int
    pixels: int
    seconds: float
    activation_bytes: float

    def times(self, factor: float) -> "Step":
        """The step of so many times as many images, each like those.

        Args:
            factor: at least 1.
        """
        whole = round(self.images * factor), round(self.pixels * factor)
        return Step(*whole, self.seconds * factor, self.activation_bytes * factor)


@dataclass(frozen=True)
class Estimate:
    """Memory and time of a training step.

    Args:
        parameters: of the model.
        trained: of them.
        weights_bytes: of the model, its buffers included.
        gradient_bytes: of the gradients.
        optimizer_bytes: of the state of the optimizer.
        step: of a whole batch.
        measured: how it was determined.
        loading_seconds: per image in one process.
        device: of the measurement.
        input_size: (height, width) of the config's input.
    """

    parameters: int
    trained: int
    weights_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    step: Step
    measured: str
    loading_seconds: float
    device: str
    input_size: tuple[int, int]

    @property
    def kept_bytes(self) -> int:
        """Of weights, gradients and optimizer."""
        return self.weights_bytes + self.gradient_bytes + self.optimizer_bytes


@contextmanager
def count_saved_bytes(kept: Iterable[Tensor]) -> Iterator[list[int]]:
    """Count the bytes of the tensors that autograd keeps for the backward pass; each storage once.

    Args:
        kept: tensors that do not count, such as the parameters.

    Yields:
        a list of one number, the sum.
    """
    total = [0]
    seen = {tensor.untyped_storage().data_ptr() for tensor in kept}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total[0] += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total


def build_estimate(cfg: CfgNode, dataset: Dataset, records: Sequence[ImageRecord]) -> Estimate:
    """Measure training steps with random weights: a batch of the config if that takes a few seconds, else less.

    Args:
        cfg: of the training.
        dataset: the training data.
        records: of readable images with objects, at least one.
    """
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model = build_model(cfg).train()
        set_class_counts(model, [dataset])
        stepper = _Stepper(model, build_optimizer(cfg, model), build_precision(cfg, next(model.parameters()).device))
        samples, loading = _timed_samples(build_train_mapper(cfg, dataset), records)
        record, sample = samples[len(samples) // 2]
        size = int(sample.image.shape[-2]), int(sample.image.shape[-1])
        step, measured = None, ""
        if max(size) > DIRECT_SIDE:
            mappers = [_smaller_mapper(cfg, dataset, size, factor) for factor in SMALL_FACTORS]
            steps = [stepper([mapper(record, np.random.default_rng(SEED))]) for mapper in mappers]
            step, measured = extrapolated(steps, size[0] * size[1]), "computed from steps of two smaller images"
        if step is None or step.seconds <= MAX_SECONDS:
            step, measured = stepper([sample]), "measured in a step of one image"
        count = cfg.SOLVER.IMS_PER_BATCH
        if step.seconds * count <= MAX_SECONDS:
            chosen = [samples[number * len(samples) // count][1] for number in range(count)]
            step, measured = stepper(chosen), f"measured in a step of {counted(count, 'image')}"
        else:
            step = step.times(count / step.images)
    return stepper.estimate(step, measured=measured, loading_seconds=loading, input_size=size)


def extrapolated(steps: Sequence[Step], pixels: int) -> Step:
    """The step of a larger image, on the line through two smaller ones: the heads cost the same for each size.

    Args:
        steps: of two sizes, the smaller first.
        pixels: of the larger image.
    """
    small, large = steps
    factor = (pixels - large.pixels) / max(large.pixels - small.pixels, 1)
    return Step(
        large.images,
        pixels,
        max(large.seconds, large.seconds + factor * (large.seconds - small.seconds)),
        max(
            large.activation_bytes, large.activation_bytes + factor * (large.activation_bytes - small.activation_bytes)
        ),
    )


def _timed_samples(mapper: Mapper, records: Sequence[ImageRecord]) -> tuple[list[tuple[ImageRecord, Sample]], float]:
    """Samples ordered by size, and the median of the seconds of each."""
    samples, seconds = [], []
    for record in records[:: max(1, len(records) // LOADED)][:LOADED]:
        start = time.perf_counter()
        samples.append((record, mapper(record, np.random.default_rng(SEED))))
        seconds.append(time.perf_counter() - start)
    samples.sort(key=lambda pair: pair[1].image.shape[-1] * pair[1].image.shape[-2])
    return samples, float(np.median(seconds))


def _smaller_mapper(cfg: CfgNode, dataset: Dataset, size: tuple[int, int], factor: float) -> Mapper:
    lengths = {
        "INPUT.MIN_SIZE_TRAIN": [max(1, round(min(size) * factor))],
        "INPUT.MAX_SIZE_TRAIN": max(1, round(max(size) * factor)),
        "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
    }
    return build_train_mapper(changed_config(cfg, lengths), dataset)


class _Stepper:
    """Takes training steps of a model."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, precision: Precision) -> None:
        self.model, self.optimizer, self.precision = model, optimizer, precision

    def __call__(self, samples: list[Sample]) -> Step:
        """The bytes of a first step, which allocates and chooses kernels, and the time of the fastest later one."""
        with count_saved_bytes([*self.model.parameters(), *self.model.buffers()]) as saved:
            self._take(samples)
        seconds = [self._take(samples)]
        while len(seconds) < TIMED_STEPS and sum(seconds) < MAX_TIMED_SECONDS:
            seconds.append(self._take(samples))
        pixels = sum(int(sample.image.shape[-1] * sample.image.shape[-2]) for sample in samples)
        return Step(len(samples), pixels, min(seconds), saved[0])

    def _take(self, samples: list[Sample]) -> float:
        """Take a step; returns its seconds."""
        start = _now()
        self.optimizer.zero_grad(set_to_none=True)
        with self.precision.autocast():
            loss = self.model.losses(samples).total()  # type: ignore[operator]
        if loss.requires_grad:
            self.precision.backward(loss)
            self.optimizer.step()
        return _now() - start

    def estimate(self, step: Step, *, measured: str, loading_seconds: float, input_size: tuple[int, int]) -> Estimate:
        """The numbers of the model and the optimizer beside those of a step."""
        parameters = list(self.model.parameters())
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        states = [state for states in self.optimizer.state.values() for state in states.values()]
        return Estimate(
            parameters=sum(parameter.numel() for parameter in parameters),
            trained=sum(parameter.numel() for parameter in trained),
            weights_bytes=_num_bytes([*parameters, *self.model.buffers()]),
            gradient_bytes=_num_bytes(trained),
            optimizer_bytes=_num_bytes([state for state in states if isinstance(state, Tensor)]),
            step=step,
            measured=measured,
            loading_seconds=loading_seconds,
            device=str(parameters[0].device),
            input_size=input_size,
        )


def _now() -> float:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def _num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
