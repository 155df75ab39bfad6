"""Records in the log file which parameters the loss does not reach."""

import logging

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import counted
from mrcnn_zoo.registries import HOOKS
from mrcnn_zoo.structures import Sample, TrainingOutput
from mrcnn_zoo.training.hook import Hook
from mrcnn_zoo.training.logs import log_to_files
from mrcnn_zoo.training.nonfinite import shortened
from mrcnn_zoo.training.trainer import Trainer
from mrcnn_zoo.training.workspace import Workspace

logger = logging.getLogger(__name__)


class ReportUnusedParameters(Hook):
    """Looks once, at the first step of a sitting."""

    def __init__(self) -> None:
        self._has_looked = False

    def after_backward(self, trainer: Trainer, batches: list[list[Sample]], outputs: list[TrainingOutput]) -> None:  # noqa: ARG002
        if self._has_looked:
            return
        self._has_looked = True
        names = trainer.updater.names_without_gradient(trainer.model)
        if names:
            # In the log file alone: a backbone may well compute a map that no head reads.
            log_to_files(
                logger,
                f"no loss depends on {counted(len(names), 'parameter')} of the model, which stay as they are: "
                f"{shortened(names)}",
            )


@HOOKS.register("ReportUnusedParameters")
def build_report_unused_parameters(cfg: CfgNode, workspace: Workspace) -> ReportUnusedParameters:  # noqa: ARG001
    return ReportUnusedParameters()
