"""Starting processes, and ending them."""

import multiprocessing
import sys
from pathlib import Path

import pytest
import torch

from mrcnn_zoo.distributed.launch import ProcessLayout, launch
from mrcnn_zoo.distributed.processes import join_processes, leave_processes
from mrcnn_zoo.errors import UserError

HERE = Path(__file__).parent


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch):
    """The module with functions that new processes can import."""
    monkeypatch.syspath_prepend(HERE)
    import foreign_hooks

    yield foreign_hooks
    sys.modules.pop("foreign_hooks", None)


def test_one_process_is_this_one() -> None:
    assert launch(lambda status: status, [7], ProcessLayout()) == 7


def test_processes_know_each_other(work, tmp_path: Path) -> None:
    assert launch(work.count_processes, [str(tmp_path)], ProcessLayout(processes_per_machine=2)) == 0
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)] == ["[0, 1] [1.0, 5.0]"] * 2


def test_crash_of_one_process_ends_the_other(
    work, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert launch(work.crash_second, [], ProcessLayout(processes_per_machine=2)) == 1
    assert "this process fails on purpose" in capfd.readouterr().err
    assert "process 1 failed (exit status 1); the others were ended" in caplog.text
    assert multiprocessing.active_children() == []


def test_mistake_found_by_all_processes_is_raised_once(work, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"^SOLVER.X = 1 is wrong$"):
        launch(work.mistake, [], ProcessLayout(processes_per_machine=2))
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (ProcessLayout(processes_per_machine=0), "--num-gpus 0"),
        (ProcessLayout(num_machines=2), "--dist-url"),
        (ProcessLayout(num_machines=2, machine_rank=2, url="tcp://10.0.0.1:1"), "--machine-rank 2"),
        (ProcessLayout(processes_per_machine=2, device="cuda:1"), r"MODEL\.DEVICE = cuda:1 .* 2 processes"),
    ],
)
def test_impossible_layouts_are_refused(layout: ProcessLayout, message: str) -> None:
    with pytest.raises(UserError, match=message):
        launch(lambda: 0, [], layout)


def test_more_processes_than_gpus_are_refused_on_gpus_only(
    work, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="this machine has 1"):
        launch(lambda: 0, [], ProcessLayout(processes_per_machine=2, device="cuda"))
    layout = ProcessLayout(processes_per_machine=2, device="cpu")
    assert launch(work.count_processes, [str(tmp_path)], layout) == 0


@pytest.mark.parametrize(("device_type", "chosen"), [("cpu", []), ("cuda", [3])])
def test_a_gpu_is_taken_by_processes_on_gpus_only(
    device_type: str, chosen: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **__: None)
    join_processes(f"file://{tmp_path}/meeting", rank=7, world_size=8, local_rank=3, device_type=device_type)
    leave_processes()
    assert taken == chosen


def test_a_process_of_torchrun_without_a_gpu_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", 1), ("LOCAL_RANK", 1), ("WORLD_SIZE", 2), ("MASTER_ADDR", "::1"), ("MASTER_PORT", 1)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="process 1 of this machine has no GPU: there are 1 here"):
        launch(lambda: 0, [], ProcessLayout(device="cuda"))
