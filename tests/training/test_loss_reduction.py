"""Losses of two processes, divided by the counts of both, equal those of one process with all items."""

import pytest
import torch

from mrcnn_zoo.modeling.detectors.retinanet_outputs import RunningCount
from mrcnn_zoo.structures import LossSum, TrainingOutput
from mrcnn_zoo.training.reduction import LossReduction
from support.processes import run_in_processes

# Items of (rank 0, rank 1): the mean over all is not the mean of the means.
ITEMS = ([3.0, 6.0, 9.0], [1.0])
IMAGES = (2, 1)


def output_of(rank: int, running: RunningCount) -> TrainingOutput:
    values = torch.tensor(ITEMS[rank])
    losses: dict[str, LossSum | torch.Tensor] = {
        "by_count": LossSum(values.sum(), torch.tensor(len(values))),
        "by_running_mean": LossSum(values.sum(), len(values), running),
        "also_by_running_mean": LossSum(2 * values.sum(), len(values), running),
        "nothing": LossSum(torch.zeros(()), 0),
        "plain": torch.tensor(5.0 + 3 * rank),
    }
    if rank == 1:
        losses["on_one_process"] = LossSum(torch.tensor(8.0), 4)
    return TrainingOutput(losses)


def reduce_in_process(rank: int) -> dict:
    running, reduction = RunningCount(), LossReduction()
    reduced = reduction(output_of(rank, running), num_images=IMAGES[rank])
    message = ""
    if rank == 0:
        try:
            reduction(TrainingOutput({"new": torch.zeros(())}), num_images=1)
        except RuntimeError as error:
            message = str(error)
    return {"losses": reduced.losses, "running": running.value, "message": message}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return run_in_processes(reduce_in_process, folder=tmp_path_factory.mktemp("reduction"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("by_count", 19 / 4),
        ("by_running_mean", 19 / (0.9 * 100 + 0.1 * 4)),
        ("also_by_running_mean", 38 / (0.9 * 100 + 0.1 * 4)),
        ("nothing", 0.0),
        ("plain", (5.0 * 2 + 8.0 * 1) / 3),  # means over images, of two images and of one
        ("on_one_process", 8 / 4),
    ],
)
def test_mean_over_processes_is_the_loss_of_all_items(parts: list[dict], name: str, expected: float) -> None:
    # Gradients are averaged over processes; one that lacks a loss has a gradient of 0 for it.
    values = [part["losses"][name].item() if name in part["losses"] else 0.0 for part in parts]
    assert sum(values) / 2 == pytest.approx(expected)


def test_a_running_mean_moves_once_per_forward_pass_and_alike_on_all_processes(parts: list[dict]) -> None:
    assert [part["running"].item() for part in parts] == pytest.approx([0.9 * 100 + 0.1 * 4] * 2)


def test_a_loss_that_appears_later_is_named(parts: list[dict]) -> None:
    assert parts[0]["message"].startswith("new: no process returned this loss in the first step.")


def test_one_process_divides_by_its_own_counts() -> None:
    reduced = LossReduction()(output_of(0, RunningCount()), num_images=2)
    assert reduced.losses["by_count"].item() == pytest.approx(6.0)
    assert reduced.losses["plain"].item() == 5.0
    assert reduced.total().item() == pytest.approx(6 + 5 + (18 + 36) / (0.9 * 100 + 0.3))
