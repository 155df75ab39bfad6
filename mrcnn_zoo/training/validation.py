"""The losses of a model on data that it is not trained on, beside the results of an evaluation."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.inference.predictor import inference
from mrcnn_zoo.structures import Sample, TrainingOutput
from mrcnn_zoo.training.distributed import gather_over_processes
from mrcnn_zoo.training.randomness import generators_aside

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
    """Whether a task of the results holds losses rather than metrics."""
    return task.rpartition("/")[2] == VALIDATION_TASK
