"""Precise batch norm: statistics of the current weights, not running means over earlier ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from mrcnn_zoo import data
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.distributed.processes import mean_over_processes, rank, world_size
from mrcnn_zoo.registries import HOOKS
from mrcnn_zoo.structures import Sample
from mrcnn_zoo.training.hook import Hook, StepReport, Workspace
from mrcnn_zoo.training.run_context import derived_seed, generators_aside
from mrcnn_zoo.training.trainer import Trainer

OpenSeededBatches = Callable[[int], Iterable[list[Sample]]]  # seed -> this process's share of training batches


class PreciseBatchNorm(Hook):
    """Replaces running statistics before each evaluation by those of the current weights over many training batches.

    With an average of the weights, the statistics are those of the average.

    Source: Wu & Johnson 2021 (Rethinking "Batch" in BatchNorm), section 3.

    Args:
        open_batches: opens training batches for a seed.
        num_batches: of the estimate.
        period: iterations between two evaluations; 0 for none before the end.
    """

    def __init__(self, open_batches: OpenSeededBatches, *, num_batches: int, period: int) -> None:
        self._open_batches = open_batches
        self._num_batches = num_batches
        self._period = period
        self._estimated_iteration = 0

    def before_train(self, trainer: Trainer) -> None:
        self._estimated_iteration = trainer.iteration

    def after_step(self, trainer: Trainer, report: StepReport) -> None:  # noqa: ARG002
        if self._period > 0 and trainer.iteration % self._period == 0:
            self._estimate(trainer)

    def after_train(self, trainer: Trainer) -> None:
        if not trainer.interrupted and trainer.iteration > self._estimated_iteration:
            self._estimate(trainer)

    def _estimate(self, trainer: Trainer) -> None:
        model, average = trainer.model, trainer.average
        seed = derived_seed(trainer.plan.seed, "precise_bn")
        with nullcontext() if average is None else average.applied_to(model):
            with generators_aside(seed), _training_mode(model):
                estimate_batch_norm_statistics(model, self._open_batches(seed), num_batches=self._num_batches)
            if average is not None:
                average.take_buffers(model)
        self._estimated_iteration = trainer.iteration


class InputMoments:
    """Sums over the inputs of a batch norm, for their mean and variance.

    Args:
        norm: gets a forward hook until `stop`.
    """

    def __init__(self, norm: BatchNorm) -> None:
        self._norm = norm
        # Count, sums and sums of squares of each channel, in one tensor for a single collective.
        self._sums = torch.zeros((3, norm.num_features), dtype=torch.float64, device=norm.weight.device)
        self._handle = norm.register_forward_pre_hook(self._add_inputs)

    def stop(self) -> None:
        """Remove the forward hook."""
        self._handle.remove()

    def fill(self) -> None:
        """Set the statistics of the norm; without inputs it keeps its own."""
        count, total, squares = mean_over_processes(self._sums)  # means of sums have the same quotients
        if count[0] > 0 and self._norm.running_mean is not None and self._norm.running_var is not None:
            mean = total / count
            self._norm.running_mean.copy_(mean)
            self._norm.running_var.copy_((squares / count - mean.square()).clamp(min=0))

    def _add_inputs(self, _norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        features = inputs[0].double()
        others = [axis for axis in range(features.dim()) if axis != 1]
        count = features.new_full((features.shape[1],), features.numel() // features.shape[1])
        self._sums += torch.stack((count, features.sum(others), features.square().sum(others)))


@torch.no_grad()
def estimate_batch_norm_statistics(model: nn.Module, batches: Iterable[list[Sample]], *, num_batches: int) -> None:
    """Set the batch norms in training mode to the statistics over some batches; all else stays.

    Args:
        model: called with a list of samples; without trained batch norms nothing happens.
        batches: of this process.
        num_batches: of the estimate.
    """
    norms = [module for module in model.modules() if isinstance(module, BatchNorm) and module.training]
    if not norms:
        return
    before = {buffer: buffer.clone() for buffer in model.buffers()}  # a forward pass may change any of them
    moments = [InputMoments(norm) for norm in norms]
    try:
        for samples in itertools.islice(batches, num_batches):
            model(samples)
    finally:
        for inputs in moments:
            inputs.stop()
        for buffer, value in before.items():
            buffer.copy_(value)
    for inputs in moments:
        inputs.fill()


@contextmanager
def _training_mode(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.train()
    try:
        yield
    finally:
        model.train(was_training)


@HOOKS.register("PreciseBatchNorm")
def build_precise_batch_norm(cfg: CfgNode, workspace: Workspace) -> PreciseBatchNorm:
    """Precise batch norm of TEST.PRECISE_BN, on the training data of the run."""

    def open_batches(seed: int) -> Iterable[list[Sample]]:
        return data.build_train_loader(
            cfg,
            workspace.train_datasets,
            start_batch=0,
            rank=rank(),
            world_size=world_size(),
            seed=seed,
            is_first=False,
        )

    return PreciseBatchNorm(open_batches, num_batches=cfg.TEST.PRECISE_BN.NUM_ITER, period=cfg.TEST.EVAL_PERIOD)
