"""What a model is worth in the middle of its training: test results, and losses on the test sets."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data import build_test_loader
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.evaluation import evaluate
from mrcnn_zoo.evaluation.evaluator import evaluated_part, inference
from mrcnn_zoo.ops.processes import alone, rank, world_size
from mrcnn_zoo.structures import Sample, TrainingOutput
from mrcnn_zoo.training.distributed import gather_over_processes
from mrcnn_zoo.training.randomness import generators_aside

VALIDATION_SEED = 0  # the regions that a loss samples are the same at every evaluation
VALIDATION_TASK = "val"

Results = dict[str, dict[str, float]]


def validation_losses(model: nn.Module, loader: Iterable[list[Sample]]) -> dict[str, float]:
    """Mean losses over the images of all processes, and their sum as `total_loss`; the model stays as it is.

    Args:
        model: with `losses(samples)`; computed in evaluation mode, so that batch norm keeps its statistics.
        loader: batches with targets, this process's share.
    """
    outputs: list[TrainingOutput] = []
    counts: list[int] = []
    # The processes' shares may differ in length: none may wait for another inside a batch.
    with generators_aside(VALIDATION_SEED), inference(model), alone():
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


def measure(model: nn.Module, cfg: CfgNode, datasets: Sequence[Dataset], *, output_dir: Path) -> Results:
    """Results of every test set; with several, tasks are called `<dataset>/<task>` and files lie in a folder each."""
    if len(datasets) == 1:
        return evaluate(model, datasets[0], cfg, output_dir=output_dir)
    results: Results = {}
    for dataset in datasets:
        found = evaluate(model, dataset, cfg, output_dir=output_dir / dataset.name)
        results |= {f"{dataset.name}/{task}": metrics for task, metrics in found.items()}
    return results


def measure_losses(model: nn.Module, cfg: CfgNode, datasets: Sequence[Dataset]) -> Results:
    """Validation losses of every test set, as the task `val`, or `<dataset>/val` with several."""
    results: Results = {}
    for dataset in datasets:
        part = evaluated_part(dataset, cfg)
        loader = build_test_loader(cfg, part, rank=rank(), world_size=world_size(), with_targets=True)
        task = VALIDATION_TASK if len(datasets) == 1 else f"{dataset.name}/{VALIDATION_TASK}"
        results[task] = validation_losses(model, loader)
    return results


def is_validation_task(task: str) -> bool:
    """Whether a task of the results holds losses rather than metrics."""
    return task.rpartition("/")[2] == VALIDATION_TASK
