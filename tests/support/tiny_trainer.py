# ruff: noqa: ARG002, ARG005 - hooks and builders have fixed signatures
"""A model of three weights and its trainer, small enough for results computed by hand."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mrcnn_zoo.checkpoint import Checkpointer
from mrcnn_zoo.structures import Sample, TrainingOutput
from mrcnn_zoo.training.hook import Hook
from mrcnn_zoo.training.hooks.checkpoints import SaveCheckpoints
from mrcnn_zoo.training.lr_schedule import LRSchedule, MultiStepDecay, Warmup
from mrcnn_zoo.training.run_context import seed_everything
from mrcnn_zoo.training.step import Precision, Updater
from mrcnn_zoo.training.stopping import IterationBudget
from mrcnn_zoo.training.trainer import Trainer, TrainingPlan

SEED = 7


class TinyModel(nn.Module):
    """Linear regression of the image id on the channel means, with noise from torch's global generator."""

    def __init__(self, *, noise: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1, bias=False)
        self.noise = noise

    def forward(self, samples: list[Sample]) -> TrainingOutput:
        return self.losses(samples)

    def losses(self, samples: list[Sample]) -> TrainingOutput:
        means = torch.stack([sample.image.float().mean(dim=(1, 2)) / 255 for sample in samples])
        expected = torch.tensor([float(sample.image_id) for sample in samples])
        errors = self.linear(means).squeeze(1) - expected + self.noise * torch.rand(len(samples))
        return TrainingOutput(
            losses={"loss_square": errors.square().mean(), "loss_absolute": errors.abs().mean()},
            metrics={"largest_error": errors.detach().abs().max()},
        )


def sample_number(number: int) -> Sample:
    """A 4 x 4 image with pixels and id determined by the number."""
    pixels = torch.randint(0, 256, (3, 4, 4), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
    return Sample(image=pixels, image_id=number % 5, original_size=(4, 4), file_name=f"image_{number}.png")


def batches_from(start: int, *, size: int = 2) -> Iterator[list[Sample]]:
    """Infinite batches; batch b has the samples b * size, ..., b * size + size - 1."""
    number = start
    while True:
        yield [sample_number(number * size + row) for row in range(size)]
        number += 1


@dataclass
class Recorder(Hook):
    """Records total loss, learning rate and file names of each step."""

    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    names: list[list[str]] = field(default_factory=list)
    on_step: Callable[[Trainer], None] = lambda trainer: None

    def before_step(self, trainer: Trainer, batches: list[list[Sample]]) -> None:
        self.names.append([sample.file_name for samples in batches for sample in samples])

    def after_step(self, trainer: Trainer, report: Any) -> None:
        self.losses.append(float(report.metrics["total_loss"]))
        self.rates.append(report.learning_rate)
        self.on_step(trainer)


def make_trainer(
    *,
    folder: Path,
    budget: Any = 10,
    hooks: dict[str, Hook] | None = None,
    accumulate_steps: int = 1,
    momentum: float = 0.9,
    noise: float = 0.0,
    model: nn.Module | None = None,
    open_batches: Callable[[int], Any] = batches_from,
    checkpoint_period: int = 0,
    **updater_parts: Any,
) -> Trainer:
    """A new trainer of the tiny model with fixed initial weights and checkpoints in `folder`."""
    seed_everything(SEED)
    model = model or TinyModel(noise=noise)
    groups = [{"params": list(model.parameters()), "lr": 0.1, "initial_lr": 0.1}]
    saving = SaveCheckpoints(Checkpointer(folder), period=checkpoint_period)
    return Trainer(
        model,
        open_batches,
        updater=Updater(
            torch.optim.SGD(groups, lr=0.1, momentum=momentum), **{"precision": Precision("cpu"), **updater_parts}
        ),
        plan=TrainingPlan(
            budget=IterationBudget(budget) if isinstance(budget, int) else budget,
            schedule=LRSchedule(
                MultiStepDecay((6,), length=10, gamma=0.5), warmup=Warmup(fraction=0.2, start=0.5), length=10
            ),
            seed=SEED,
            accumulate_steps=accumulate_steps,
        ),
        hooks={"SaveCheckpoints": saving, **(hooks or {})},
        provenance={"config": "SEED: 7\n", "class_names": ["one"]},
    )
