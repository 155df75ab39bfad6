"""Means of step metrics, in one process and over two."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mrcnn_zoo.training.metrics import MetricAccumulator


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


def _average_in_process(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    metrics = MetricAccumulator()
    metrics.add({"loss": torch.tensor(1.0 + rank)})
    if rank == 1:
        metrics.add({"loss": torch.tensor(6.0), "mask": torch.tensor(5.0)})
    Path(folder, f"{rank}.txt").write_text(repr(metrics.pop_means()))
    dist.destroy_process_group()


def test_two_processes_get_the_mean_of_both(tmp_path: Path) -> None:
    # Steps 1 on the first process, 2 and 6 on the second; only the second has a mask loss.
    # Forked, not spawned: starting two interpreters with torch takes ten seconds.
    mp.start_processes(_average_in_process, args=(str(tmp_path),), nprocs=2, start_method="fork")
    results = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert results == ["{'loss': 3.0, 'mask': 5.0}"] * 2
