"""Means of step metrics, in one process and over two."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from mrcnn_zoo.training.hook import StepReport
from mrcnn_zoo.training.hooks.metrics import MetricAccumulator, WriteMetrics
from support.processes import run_in_processes


def test_means_since_the_last_call() -> None:
    metrics = MetricAccumulator()
    metrics.add({"loss": torch.tensor(1.0)})
    metrics.add({"loss": torch.tensor(4.0)})
    assert metrics.pop_means() == {"loss": 2.5}
    metrics.add({"loss": torch.tensor(7.0)})
    assert metrics.pop_means() == {"loss": 7.0}


def test_nothing_added_gives_no_means() -> None:
    assert MetricAccumulator().pop_means() == {}


def test_a_name_is_averaged_over_the_steps_that_gave_it() -> None:
    metrics = MetricAccumulator()
    metrics.add({"loss": torch.tensor(2.0), "accuracy": torch.tensor(0.5)})
    metrics.add({"loss": torch.tensor(4.0)})
    assert metrics.pop_means() == {"loss": 3.0, "accuracy": 0.5}


def test_values_keep_no_graph() -> None:
    weight = torch.ones(1, requires_grad=True)
    metrics = MetricAccumulator()
    metrics.add({"loss": (weight * 3).sum()})
    assert not any(value.requires_grad for values in metrics._values.values() for value in values)
    assert metrics.pop_means() == {"loss": 3.0}


def test_half_precision_sums_do_not_overflow() -> None:
    metrics = MetricAccumulator()
    for _ in range(3):
        metrics.add({"loss": torch.tensor(60000.0, dtype=torch.float16)})
    assert metrics.pop_means()["loss"] == pytest.approx(60000.0, rel=1e-3)


def test_not_a_number_stays_visible() -> None:
    metrics = MetricAccumulator()
    metrics.add({"loss": torch.tensor(float("nan"))})
    assert math.isnan(metrics.pop_means()["loss"])


def _average_in_process(rank: int) -> dict[str, float]:
    metrics = MetricAccumulator()
    metrics.add({"loss": torch.tensor(1.0 + rank)})
    if rank == 1:
        metrics.add({"loss": torch.tensor(6.0), "mask": torch.tensor(5.0)})
    return metrics.pop_means()


def test_two_processes_get_the_mean_of_both(tmp_path: Path) -> None:
    # Steps 1 on the first process, 2 and 6 on the second; only the second has a mask loss.
    assert run_in_processes(_average_in_process, folder=tmp_path) == [{"loss": 3.0, "mask": 5.0}] * 2


def _resume_in_process(rank: int) -> tuple[dict[str, float], int, dict[str, Any]]:
    report = StepReport(
        iteration=0,
        metrics={"loss": torch.tensor(1.0 + rank)},
        learning_rate=0.1,
        num_images=1,
        seconds=1,
        data_seconds=0,
    )
    hook = WriteMetrics([], period=5)
    hook.after_step(SimpleNamespace(iteration=1), report)  # type: ignore[arg-type]
    boxes = [hook.state_dict()]
    dist.broadcast_object_list(boxes, src=0)  # as a checkpoint, which the first process writes
    resumed = WriteMetrics([], period=5)
    resumed.load_state_dict(boxes[0])
    resumed._means.add({"loss": torch.tensor(6.0)})
    return resumed._means.pop_means(), len(resumed._reports), boxes[0]


def test_the_values_of_all_processes_are_kept(tmp_path: Path) -> None:
    # Steps 1 and 6 on the first process, 2 and 6 on the second.
    results = run_in_processes(_resume_in_process, folder=tmp_path)
    assert [result[:2] for result in results] == [({"loss": 3.75}, 1)] * 2
    hook = WriteMetrics([], period=5)  # of a single process, which takes over from both
    hook.load_state_dict(results[0][2])
    assert hook._means.pop_means() == {"loss": 1.5}


def test_a_checkpoint_without_values_begins_with_none() -> None:
    hook = WriteMetrics([], period=5)
    hook.load_state_dict({})
    assert hook._means.pop_means() == {}
