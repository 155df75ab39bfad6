# ruff: noqa: ARG001, ARG002 - hooks and builders have fixed signatures
"""Hooks that tests name in a config as `foreign_hooks:...`, with this folder on the path: faults at fixed moments."""

import os
import signal
from pathlib import Path
from typing import Any

import torch

from mrcnn_zoo.distributed.processes import rank, world_size
from mrcnn_zoo.structures import Sample, TrainingOutput
from mrcnn_zoo.training.hook import Hook
from mrcnn_zoo.training.trainer import Trainer


class At(Hook):
    """Calls a function after a step, or after the backward pass of one."""

    def __init__(self, iteration: int, action: Any) -> None:
        self.iteration = iteration
        self.action = action

    def after_step(self, trainer: Trainer, report: Any) -> None:
        if trainer.iteration == self.iteration:
            self.action()


def kill_after_7(cfg: Any, workspace: Any) -> Hook:
    """SIGKILL: nothing can be saved any more."""
    return At(7, lambda: os.kill(os.getpid(), signal.SIGKILL))


def kill_second_once_after_7(cfg: Any, workspace: Any) -> Hook:
    """SIGKILL for the second process, but not after a restart."""
    is_first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    return At(7, lambda: os.kill(os.getpid(), signal.SIGKILL) if is_first and rank() == 1 else None)


def kill_launcher_0_after_4(cfg: Any, workspace: Any) -> Hook:
    """SIGKILL for the launcher of the first process."""
    return At(4, lambda: os.kill(os.getppid(), signal.SIGKILL) if rank() == 0 else None)


def kill_launcher_1_after_4(cfg: Any, workspace: Any) -> Hook:
    """SIGKILL for the launcher of the second process."""
    return At(4, lambda: os.kill(os.getppid(), signal.SIGKILL) if rank() == 1 else None)


def terminate_group_after_4(cfg: Any, workspace: Any) -> Hook:
    """SIGTERM for this process and its loader processes, as a batch scheduler sends it."""
    return At(4, lambda: os.killpg(os.getpgid(0), signal.SIGTERM))


def interrupt_second_after_2(cfg: Any, workspace: Any) -> Hook:
    """SIGINT for the second process alone."""
    return At(2, lambda: os.kill(os.getpid(), signal.SIGINT) if rank() == 1 else None)


class SaveGradients(Hook):
    """Keeps the gradients of each step, as the first process has them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def after_backward(self, trainer: Trainer, batches: list[list[Sample]], outputs: list[TrainingOutput]) -> None:
        if rank() == 0:
            gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
            torch.save(gradients, self.folder / f"gradients_{trainer.iteration}.pt")


def save_gradients(cfg: Any, workspace: Any) -> Hook:
    """Into the output folder."""
    return SaveGradients(workspace.output_dir)


class PoisonWeights(Hook):
    """Makes a weight infinite in one process before a step, so that its losses are not numbers."""

    def before_step(self, trainer: Trainer, batches: list[list[Sample]]) -> None:
        if trainer.iteration == 3 and rank() == world_size() - 1:
            with torch.no_grad():
                trainer.model.roi_heads.mask_head.predictor.weight.fill_(float("nan"))


def poison_weights(cfg: Any, workspace: Any) -> Hook:
    """In the last process, at iteration 3."""
    return PoisonWeights()


class OnceAt(Hook):
    """Calls each function after its step, unless a file in the folder records that it has been called."""

    def __init__(self, folder: Path, actions: dict[int, Any]) -> None:
        self.folder = folder
        self.actions = actions

    def after_step(self, trainer: Trainer, report: Any) -> None:
        mark = self.folder / f"step_{trainer.iteration}"
        if trainer.iteration in self.actions and not mark.exists():
            mark.touch()
            self.actions[trainer.iteration]()


def faults_of_second_run(cfg: Any, workspace: Any) -> Hook:
    """In a sweep, where FAULTS is a folder: the run of seed 1 crashes, is killed, and outlives its killed sweep."""
    folder = os.environ.get("FAULTS", "")
    actions = {
        4: lambda: 1 // 0,
        7: lambda: os.kill(os.getpid(), signal.SIGKILL),
        8: lambda: os.kill(os.getppid(), signal.SIGKILL),
    }
    return OnceAt(Path(folder), actions if folder and cfg.SEED == 1 else {})
