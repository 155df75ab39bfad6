"""Training in several processes: joining them, agreeing, gathering, and gradients averaged over them."""

import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops.processes import rank, world_size
from mrcnn_zoo.structures import LossSum, TrainingOutput
from mrcnn_zoo.structures.outputs import divided_losses

Value = TypeVar("Value")

# Evaluation on one process may take long while the others wait for it.
PATIENCE = timedelta(hours=2)

logger = logging.getLogger(__name__)


def is_main_process() -> bool:
    """Whether this process writes files and prints."""
    return rank() == 0


def is_started_by_torchrun() -> bool:
    """Whether torchrun, or a scheduler that speaks like it, has told this process who it is."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def join_from_environment(*, device_type: str) -> None:
    """Join the processes that torchrun started; see `join_processes`."""
    join_processes(
        "env://",
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        local_rank=int(os.environ.get("LOCAL_RANK", os.environ["RANK"])),
        device_type=device_type,
    )


def join_processes(url: str, *, rank: int, world_size: int, local_rank: int, device_type: str) -> None:
    """Meet the other processes at `url`: gloo between CPUs, NCCL between GPUs.

    Args:
        url: e.g. "tcp://127.0.0.1:29500", "file:///tmp/meeting" or "env://".
        rank: of this process among all machines.
        world_size: of all machines.
        local_rank: of this process on this machine; picks its GPU.
        device_type: "cuda" or "cpu", what the models run on.

    Raises:
        UserError: this machine has no GPU of that number.
    """
    backend = "gloo"
    if device_type == "cuda":
        gpus = torch.cuda.device_count()
        if local_rank >= gpus:
            raise UserError(
                f"process {local_rank} of this machine has no GPU: there are {gpus} here. Start as many processes as "
                "there are GPUs, or run them on the CPU: MODEL.DEVICE cpu."
            )
        torch.cuda.set_device(local_rank)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, init_method=url, rank=rank, world_size=world_size, timeout=PATIENCE)


def leave_processes() -> None:
    """Say good-bye to the other processes, if there were any."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def maximum_over_processes(values: list[float]) -> list[float]:
    """The largest of each value over all processes; the values themselves when there is one process."""
    if world_size() == 1:
        return values
    largest = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest.tolist()


def gather_over_processes(value: Value) -> list[Value]:
    """The value of every process, by rank, on every process."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def wait_for_all() -> None:
    """Return when every process has come here."""
    if world_size() > 1:
        gather_over_processes(None)


class LossReduction:
    """Divides the losses of a forward pass by their counts over all processes: one collective for all of them.

    Every process must return the same losses; one without items returns a sum and a count of 0. A loss that only some
    processes return in the first pass is taken as such a sum on the others.
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()  # in the order in which counts are added up, the same on every process

    def __call__(self, output: TrainingOutput, *, num_images: int) -> TrainingOutput:
        """The losses as scalars, whose mean over the processes is what one process with the whole batch has.

        Args:
            output: of this process.
            num_images: of this process; what a loss counts that is a mean over images.

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
        # The gradients are averaged over the processes, and should be added up.
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
    """The model, wrapped so that backward averages the gradients meanwhile; itself when there is one process.

    Parameters that a loss does not depend on are searched for in each step: those of an FPN level that nothing looks
    at, but also of a module that only some images pass through, on some of the processes.

    Args:
        model: on its device, with the same parameters on every process.
    """
    if world_size() == 1:
        return model
    warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified", category=UserWarning)
    # Samples are moved by the model itself, so the wrapper has no device.
    wrapped = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True, find_unused_parameters=True)
    wrapped.broadcast_buffers = False  # training does not read them; `share_buffers` comes before what does
    return wrapped


def share_buffers(model: nn.Module) -> None:
    """Give every process the buffers of process 0: each has gathered the batch statistics of its own images."""
    if world_size() == 1:
        return
    for buffer in model.buffers():
        dist.broadcast(buffer, src=0)
