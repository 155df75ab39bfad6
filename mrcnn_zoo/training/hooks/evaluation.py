"""Measures the model every few iterations and at the end."""

from collections.abc import Callable
from typing import Any

from torch import nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.registries import HOOKS
from mrcnn_zoo.training.hook import Hook, Results, StepReport
from mrcnn_zoo.training.trainer import Trainer
from mrcnn_zoo.training.validation import measure, measure_losses
from mrcnn_zoo.training.workspace import Workspace


class Evaluate(Hook):
    """Evaluates the averaged weights where there are such, else the present ones, and announces the results.

    Args:
        measure: of a model, gives results by task and metric; leaves the model as it was.
        period: iterations between two evaluations; 0 evaluates only at the end.
    """

    def __init__(self, measure: Callable[[nn.Module], Results], *, period: int) -> None:
        self._measure = measure
        self._period = period
        self._evaluated_iteration = 0

    def before_train(self, trainer: Trainer) -> None:
        # The checkpoint of an iteration is written before its evaluation. If the run ended in between, this is due.
        if self._is_due(trainer.iteration):
            self._evaluate(trainer)

    def after_step(self, trainer: Trainer, report: StepReport) -> None:  # noqa: ARG002
        if self._is_due(trainer.iteration):
            self._evaluate(trainer)

    def after_train(self, trainer: Trainer) -> None:
        if not trainer.interrupted and trainer.iteration > self._evaluated_iteration:
            self._evaluate(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"evaluated_iteration": self._evaluated_iteration}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._evaluated_iteration = state.get("evaluated_iteration", 0)

    def _is_due(self, iteration: int) -> bool:
        is_time = self._period > 0 and iteration > 0 and iteration % self._period == 0
        return is_time and iteration > self._evaluated_iteration

    def _evaluate(self, trainer: Trainer) -> None:
        with trainer.weights_to_evaluate():
            results = self._measure(trainer.model)
        self._evaluated_iteration = trainer.iteration
        trainer.announce(results)


@HOOKS.register("Evaluate")
def build_evaluate(cfg: CfgNode, workspace: Workspace) -> Evaluate:
    datasets = workspace.test_datasets

    def measure_all(model: nn.Module) -> Results:
        results = measure(model, cfg, datasets, output_dir=workspace.output_dir)
        return results | (measure_losses(model, cfg, datasets) if cfg.TEST.VAL_LOSS else {})

    return Evaluate(measure_all, period=cfg.TEST.EVAL_PERIOD)
