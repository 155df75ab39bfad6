"""Losses and gradients reduced over the processes of a run."""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mrcnn_zoo.distributed.processes import gather_over_processes, world_size
from mrcnn_zoo.structures import LossSum, TrainingOutput
from mrcnn_zoo.structures.outputs import divided_losses

Value = TypeVar("Value")


logger = logging.getLogger(__name__)


class LossReduction:
    """Divides the losses of a forward pass by their counts over all processes: one collective for all of them.

    Every process must return the same losses; one without items returns a sum and a count of 0. A loss that only some
    processes return in the first pass counts as 0 on the others.
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()  # in the order of the summed counts, the same on every process

    def __call__(self, output: TrainingOutput, *, num_images: int) -> TrainingOutput:
        """The losses as scalars; their mean over the processes equals that of one process with the global batch.

        Args:
            output: of this process.
            num_images: of this process; the count of a loss that is a mean over images.

        Raises:
            RuntimeError: a loss that no process has returned in the first pass.
        """
        if world_size() == 1 or not output.sums:
            return TrainingOutput(output.losses, output.metrics)
        counts = self._counts_of_all(output.sums, num_images)
        by_count = {
            name: loss if loss.count is not None else replace(loss, value=loss.value * num_images)
            for name, loss in output.sums.items()
        }
        means = divided_losses(by_count, counts)
        # DDP averages the gradients over the processes; the factor turns the mean into the sum.
        return TrainingOutput({name: mean * world_size() for name, mean in means.items()}, output.metrics)

    @torch.no_grad()
    def _counts_of_all(self, sums: Mapping[str, LossSum], num_images: int) -> dict[str, Tensor]:
        if not self._names:
            names = [name for names in gather_over_processes(list(sums)) for name in names]
            self._names = tuple(sorted(set(names)))
        unknown = sums.keys() - set(self._names)
        if unknown:
            raise RuntimeError(
                f"{', '.join(sorted(unknown))}: no process returned this loss in the first step. With several "
                "processes a loss must be returned in every step, without items as LossSum(zero, 0)."
            )
        device = next(iter(sums.values())).value.device
        counts = torch.stack([_count(sums.get(name), num_images, device) for name in self._names])
        dist.all_reduce(counts)
        return dict(zip(self._names, counts.unbind(), strict=True))


def _count(loss: LossSum | None, num_images: int, device: torch.device) -> Tensor:
    count = 0.0 if loss is None else num_images if loss.count is None else loss.count
    return torch.as_tensor(count, dtype=torch.float32, device=device)


def with_averaged_gradients(model: nn.Module) -> nn.Module:
    """The model, wrapped to average gradients during backward; itself where there is one process.

    Unused parameters are searched for in each step: those of an FPN level without a reader, but also of a module that
    only some images pass through, on some of the processes.

    Args:
        model: on its device, with the same parameters on every process.
    """
    if world_size() == 1:
        return model
    warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified", category=UserWarning)
    # The model moves samples to its device, so the wrapper has none.
    wrapped = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True, find_unused_parameters=True)
    wrapped.broadcast_buffers = False  # training does not read them; `share_buffers` comes before what does
    return wrapped


def share_buffers(model: nn.Module) -> None:
    """Copy the buffers of process 0 to all others: batch statistics differ, as each process has its own images.

    Args:
        model: the same on every process.
    """
    if world_size() == 1:
        return
    for buffer in model.buffers():
        dist.broadcast(buffer, src=0)
