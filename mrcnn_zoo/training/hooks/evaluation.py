"""Evaluates the model during training: test sets and validation losses."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data import Dataset, EvalLoader, build_eval_loader
from mrcnn_zoo.data.classes import in_classes
from mrcnn_zoo.data.paths import folder_name
from mrcnn_zoo.distributed.processes import gather_over_processes, rank, world_size
from mrcnn_zoo.evaluation.class_mapping import predicts_classes, with_classes_of
from mrcnn_zoo.evaluation.evaluator import run_evaluation
from mrcnn_zoo.evaluation.preflight import build_reported_topics
from mrcnn_zoo.inference.image_detector import inference
from mrcnn_zoo.registries import HOOKS
from mrcnn_zoo.structures import Sample, TrainingOutput
from mrcnn_zoo.training.hook import Hook, Results, StepReport, Workspace
from mrcnn_zoo.training.run_context import generators_aside
from mrcnn_zoo.training.trainer import Trainer

VALIDATION_SEED = 0  # the regions that a loss samples are the same at every evaluation
VALIDATION_TASK = "val"


def validation_losses(model: nn.Module, loader: Iterable[list[Sample]]) -> dict[str, float]:
    """Mean losses over the images of all processes, and their sum as `total_loss`; the model stays as it is.

    Args:
        model: with `losses(samples)`; computed in evaluation mode, so that batch norm keeps its statistics.
        loader: batches with targets, this process's share.
    """
    outputs: list[TrainingOutput] = []
    counts: list[int] = []
    # The processes' shares may differ in length: each divides its losses by its own counts, without a collective.
    with generators_aside(VALIDATION_SEED), inference(model):
        for samples in loader:
            outputs.append(model.losses(samples))  # type: ignore[operator]
            counts.append(len(samples))
    sums: dict[str, float] = {}
    for output, count in zip(outputs, counts, strict=True):
        for name, loss in {"total_loss": output.total(), **output.losses}.items():
            sums[name] = sums.get(name, 0.0) + float(loss) * count
    shares = gather_over_processes((sums, sum(counts)))
    total = sum(count for _, count in shares)
    return {name: sum(share.get(name, 0.0) for share, _ in shares) / total for name in shares[0][0]} if total else {}


def results_by_dataset(
    results: Mapping[str, Mapping[str, float]], datasets: Sequence[Dataset]
) -> dict[str, dict[str, Any]]:
    """Results of "<dataset>/<task>" as `evaluate_datasets` returns them, without validation losses.

    Args:
        results: by task; where there are several datasets, with the name of one before it.
        datasets: that were evaluated on.
    """
    results = {task: metrics for task, metrics in results.items() if not is_validation_task(task)}
    if len(datasets) == 1:
        return {task: dict(metrics) for task, metrics in results.items()}
    nested: dict[str, dict[str, Any]] = {dataset.name: {} for dataset in datasets}
    for name, metrics in results.items():
        dataset_name, _, task = name.rpartition("/")
        nested[dataset_name][task] = dict(metrics)
    return nested


def is_validation_task(task: str) -> bool:
    """Whether a task of the results holds losses rather than metrics.

    Args:
        task: e.g. "val" or "<dataset>/val".
    """
    return task.rpartition("/")[2] == VALIDATION_TASK


Measure = Callable[[nn.Module, Results], Results]


class Evaluate(Hook):
    """Evaluates the averaged weights, or the current ones where there is no average.

    Args:
        measure: maps a model and the previous results to results by task and metric; leaves the model unchanged.
        period: iterations between two evaluations; 0 evaluates only at the end.
        datasets: names of the test sets; results of others, in a checkpoint, do not count.
        score_thresholds: by class name; `measure` replaces its content by those of the first test set.
    """

    def __init__(
        self,
        measure: Measure,
        *,
        period: int,
        datasets: Sequence[str] = (),
        score_thresholds: Mapping[str, float] | None = None,
    ) -> None:
        self._measure = measure
        self._period = period
        self._datasets = list(datasets)
        self._score_thresholds = {} if score_thresholds is None else score_thresholds
        self._evaluated_iteration = 0

    def before_train(self, trainer: Trainer) -> None:
        # The checkpoint of an iteration is written before its evaluation, which is missing if the run ended in between.
        if self._is_due(trainer.iteration):
            self._evaluate(trainer)

    def after_step(self, trainer: Trainer, report: StepReport) -> None:  # noqa: ARG002
        if self._is_due(trainer.iteration):
            self._evaluate(trainer)

    def after_train(self, trainer: Trainer) -> None:
        trains_nothing = trainer.iteration == 0
        if not trainer.interrupted and (trainer.iteration > self._evaluated_iteration or trains_nothing):
            self._evaluate(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"evaluated_iteration": self._evaluated_iteration, "datasets": self._datasets}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state.get("datasets", self._datasets) == self._datasets:
            self._evaluated_iteration = state.get("evaluated_iteration", 0)

    def _is_due(self, iteration: int) -> bool:
        is_time = self._period > 0 and iteration > 0 and iteration % self._period == 0
        return is_time and iteration > self._evaluated_iteration

    def _evaluate(self, trainer: Trainer) -> None:
        with trainer.weights_to_evaluate():
            results = self._measure(trainer.model, trainer.results)
        self._evaluated_iteration = trainer.iteration
        trainer.score_thresholds = {}
        if self._score_thresholds:
            stored = {"dataset": self._datasets[0], "iteration": trainer.iteration}
            trainer.score_thresholds = stored | {"by_class": dict(self._score_thresholds)}
        trainer.announce(results)


@HOOKS.register("Evaluate")
def build_evaluate(cfg: CfgNode, workspace: Workspace) -> Evaluate:
    """Measures every test set; with several, tasks are called `<dataset>/<task>`, and each has a folder."""
    is_alone = len(workspace.test_datasets) == 1
    training = workspace.train_datasets[0]
    labelled: dict[str, Dataset] = {}  # test sets with the classes of the model, by name
    thresholds: dict[str, float] = {}  # of the first test set
    reported = build_reported_topics(cfg, workspace.test_datasets)  # limits are logged once per run

    def measure(model: nn.Module, previous: Results) -> Results:
        results: dict[str, Mapping[str, float]] = {}
        for dataset in workspace.test_datasets:
            folder = workspace.output_dir if is_alone else workspace.output_dir / folder_name(dataset.name)
            detector = with_classes_of(dataset, model, training.class_names)
            prefix = "" if is_alone else f"{dataset.name}/"
            before = {task.removeprefix(prefix): dict(m) for task, m in previous.items() if task.startswith(prefix)}
            evaluation = run_evaluation(detector, dataset, cfg, output_dir=folder, logged=reported, previous=before)
            found = evaluation.results
            if dataset is workspace.test_datasets[0]:
                thresholds.clear()
                thresholds.update(evaluation.score_thresholds)
            if cfg.TEST.VAL_LOSS:
                if dataset.name not in labelled:
                    is_classified = predicts_classes(model)
                    labelled[dataset.name] = in_classes(dataset, training.class_names) if is_classified else dataset
                batches = _labelled_batches(cfg, labelled[dataset.name])
                found = found | {VALIDATION_TASK: validation_losses(model, batches)}
            results |= found if is_alone else {f"{dataset.name}/{task}": metrics for task, metrics in found.items()}
        return results

    names = [dataset.name for dataset in workspace.test_datasets]
    return Evaluate(measure, period=cfg.TEST.EVAL_PERIOD, datasets=names, score_thresholds=thresholds)


def _labelled_batches(cfg: CfgNode, dataset: Dataset) -> EvalLoader:
    """This process's share of a test set, with targets."""
    return build_eval_loader(cfg, dataset, rank=rank(), world_size=world_size(), with_targets=True)
