"""Measures the model every few iterations and at the end."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data import Dataset, TestLoader, build_test_loader
from mrcnn_zoo.data.classes import in_classes
from mrcnn_zoo.data.paths import folder_name
from mrcnn_zoo.evaluation import evaluate
from mrcnn_zoo.evaluation.class_mapping import predicts_classes, with_classes_of
from mrcnn_zoo.evaluation.evaluator import build_said_topics
from mrcnn_zoo.ops.processes import rank, world_size
from mrcnn_zoo.registries import HOOKS
from mrcnn_zoo.training.hook import Hook, Results, StepReport
from mrcnn_zoo.training.trainer import Trainer
from mrcnn_zoo.training.validation import VALIDATION_TASK, validation_losses
from mrcnn_zoo.training.workspace import Workspace

Measure = Callable[[nn.Module, Results], Results]


class Evaluate(Hook):
    """Evaluates the averaged weights where there are such, else the present ones, and announces the results.

    Args:
        measure: of a model and the results before, gives results by task and metric; leaves the model as it was.
        period: iterations between two evaluations; 0 evaluates only at the end.
    """

    def __init__(self, measure: Measure, *, period: int) -> None:
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
            results = self._measure(trainer.model, trainer.results)
        self._evaluated_iteration = trainer.iteration
        trainer.announce(results)


@HOOKS.register("Evaluate")
def build_evaluate(cfg: CfgNode, workspace: Workspace) -> Evaluate:
    """Measures every test set; with several, tasks are called `<dataset>/<task>` and files lie in a folder each."""
    is_alone = len(workspace.test_datasets) == 1
    training = workspace.train_datasets[0]
    labelled: dict[str, Dataset] = {}  # test sets with the classes of the model, by name
    said = build_said_topics(
        cfg, workspace.test_datasets
    )  # limits that were logged: once per run, not at each evaluation

    def measure(model: nn.Module, previous: Results) -> Results:
        results: dict[str, Mapping[str, float]] = {}
        for dataset in workspace.test_datasets:
            folder = workspace.output_dir if is_alone else workspace.output_dir / folder_name(dataset.name)
            detector = with_classes_of(dataset, model, training.class_names)
            prefix = "" if is_alone else f"{dataset.name}/"
            before = {task.removeprefix(prefix): dict(m) for task, m in previous.items() if task.startswith(prefix)}
            found = evaluate(detector, dataset, cfg, output_dir=folder, said=said, previous=before)
            if cfg.TEST.VAL_LOSS:
                if dataset.name not in labelled:
                    is_classified = predicts_classes(model)
                    labelled[dataset.name] = in_classes(dataset, training.class_names) if is_classified else dataset
                batches = _labelled_batches(cfg, labelled[dataset.name])
                found = found | {VALIDATION_TASK: validation_losses(model, batches)}
            results |= found if is_alone else {f"{dataset.name}/{task}": metrics for task, metrics in found.items()}
        return results

    return Evaluate(measure, period=cfg.TEST.EVAL_PERIOD)


def _labelled_batches(cfg: CfgNode, dataset: Dataset) -> TestLoader:
    """This process's share of a test set, with targets."""
    return build_test_loader(cfg, dataset, rank=rank(), world_size=world_size(), with_targets=True)
