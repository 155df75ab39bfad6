"""Writes checkpoints: periodic, final, and when training is interrupted."""

import logging

from mrcnn_zoo.checkpoint import Checkpointer
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.distributed.processes import is_main_process
from mrcnn_zoo.registries import HOOKS
from mrcnn_zoo.training.hook import Hook, Results, StepReport, Workspace
from mrcnn_zoo.training.trainer import Trainer

logger = logging.getLogger(__name__)

FINAL_NAME = "model_final"


class SaveCheckpoints(Hook):
    """Saves every few iterations, at the end as `model_final`, and at once when training is interrupted.

    Args:
        checkpointer: of the run's folder.
        period: iterations between two checkpoints; 0 saves only at the end.
        keep: periodic checkpoints that are kept; 0 keeps all.
    """

    def __init__(self, checkpointer: Checkpointer, *, period: int, keep: int = 0) -> None:
        self._checkpointer = checkpointer
        self._period = period
        self._keep = keep
        self._saved_iteration = 0

    def before_train(self, trainer: Trainer) -> None:
        self._saved_iteration = trainer.iteration

    def after_step(self, trainer: Trainer, report: StepReport) -> None:  # noqa: ARG002
        if self._period > 0 and trainer.iteration % self._period == 0:
            self._save(trainer, periodic_name(trainer.iteration))
            if is_main_process():
                self._checkpointer.prune(self._keep)

    def after_train(self, trainer: Trainer) -> None:
        if not trainer.interrupted:
            self._save(trainer, FINAL_NAME)
        elif trainer.iteration > self._saved_iteration:
            self._save(trainer, periodic_name(trainer.iteration))

    def _save(self, trainer: Trainer, name: str) -> None:
        state = trainer.state_dict()
        self._saved_iteration = trainer.iteration
        if not is_main_process():
            return
        path = self._checkpointer.save(name, state)
        logger.info("saved %s", path)


class SaveLastEvaluation(Hook):
    """Saves `model_final` again if the last evaluation came after it, with the results and what hooks keep of them.

    Without it a longer training would continue as if that evaluation, perhaps the best, had not happened.

    Args:
        checkpointer: of the run's folder.
    """

    def __init__(self, checkpointer: Checkpointer) -> None:
        self._checkpointer = checkpointer
        self._is_saved = True  # the last evaluation is part of the checkpoints that follow

    def after_step(self, trainer: Trainer, report: StepReport) -> None:  # noqa: ARG002
        self._is_saved = True

    def after_evaluation(self, trainer: Trainer, results: Results) -> None:  # noqa: ARG002
        self._is_saved = False

    def after_train(self, trainer: Trainer) -> None:
        if self._is_saved or trainer.interrupted:
            return
        state = trainer.state_dict()
        if is_main_process():
            self._checkpointer.save(FINAL_NAME, state)


def periodic_name(iteration: int) -> str:
    """Name of a checkpoint: the number of its last step, counted from 0.

    Args:
        iteration: finished steps.
    """
    return f"model_{iteration - 1:07d}"


@HOOKS.register("SaveCheckpoints")
def build_save_checkpoints(cfg: CfgNode, workspace: Workspace) -> SaveCheckpoints:
    return SaveCheckpoints(
        workspace.checkpointer, period=cfg.SOLVER.CHECKPOINT_PERIOD, keep=cfg.SOLVER.KEEP_CHECKPOINTS
    )


@HOOKS.register("SaveLastEvaluation")
def build_save_last_evaluation(cfg: CfgNode, workspace: Workspace) -> SaveLastEvaluation:  # noqa: ARG001
    return SaveLastEvaluation(workspace.checkpointer)
