"""Gradients of two processes with a model that does not use all of its modules in every step."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mrcnn_zoo.distributed.processes import rank
from mrcnn_zoo.structures import Sample, TrainingOutput
from mrcnn_zoo.training.hook import Hook
from mrcnn_zoo.training.trainer import Trainer
from support.processes import run_in_processes
from support.tiny_trainer import make_trainer

# For each step and each process whether its images, one per pass, go through the module `sometimes`.
PATHS = (
    ((True, True), (True, True)),
    ((True, False), (False, False)),
    ((False, False), (False, False)),
    ((False, False), (True, True)),
    ((False, True), (True, False)),
)
Gradients = dict[str, Tensor | None]


class Conditional(nn.Module):
    """Fits a number per image; some images go through a second layer."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.sometimes = (nn.Linear(3, 1, bias=False) for _ in range(2))

    def forward(self, samples: list[Sample]) -> TrainingOutput:
        (sample,) = samples
        pixels = sample.image.float().mean(dim=(1, 2)) / 255
        found = self.always(pixels)
        if sample.file_name == "sometimes":
            found = found + self.sometimes(pixels)
        return TrainingOutput(losses={"loss": (found - 1).square().mean()})


def sample(step: int, process: int, number: int) -> Sample:
    generator = torch.Generator().manual_seed(100 * step + 10 * process + number)
    pixels = torch.randint(0, 256, (3, 4, 4), generator=generator, dtype=torch.uint8)
    name = "sometimes" if PATHS[step][process][number] else "always"
    return Sample(image=pixels, image_id=0, original_size=(4, 4), file_name=name)


class KeepGradients(Hook):
    def __init__(self) -> None:
        self.steps: list[tuple[dict[str, Tensor], Gradients]] = []

    def after_backward(self, trainer: Trainer, batches: Any, outputs: Any) -> None:  # noqa: ARG002
        weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        gradients = {n: None if p.grad is None else p.grad.clone() for n, p in trainer.model.named_parameters()}
        self.steps.append((weights, gradients))


def train_a_part(process: int, folder: Path, passes: int) -> list[tuple[dict[str, Tensor], Gradients]]:
    def batches(start: int) -> Any:
        for number in range(start, len(PATHS) * passes):
            yield [sample(number // passes, rank(), number % passes)]

    kept = KeepGradients()
    settings = {"budget": len(PATHS), "open_batches": batches, "accumulate_steps": passes, "hooks": {"kept": kept}}
    make_trainer(folder=folder / str(process), model=Conditional(), **settings).train()
    return kept.steps


def expected_gradients(weights: dict[str, Tensor], step: int, passes: int) -> Gradients:
    model = Conditional()
    model.load_state_dict(weights)
    losses = [model([sample(step, process, n)]).total() for process in range(2) for n in range(passes)]
    torch.stack(losses).mean().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("passes", [1, 2])
def test_a_module_that_only_some_images_pass_through_is_trained(tmp_path: Path, passes: int) -> None:
    first, second = run_in_processes(train_a_part, tmp_path, passes, folder=tmp_path)
    assert len(first) == len(PATHS)
    for step, ((weights, gradients), (other_weights, other_gradients)) in enumerate(zip(first, second, strict=True)):
        torch.testing.assert_close(weights, other_weights, rtol=0, atol=0)
        torch.testing.assert_close(gradients, other_gradients, rtol=0, atol=0)
        torch.testing.assert_close(gradients, expected_gradients(weights, step, passes))
    assert first[2][1]["sometimes.weight"] is None  # no process has used it, so that it stays as it is
