"""Starting, restarting and stopping processes."""

import multiprocessing
import os
from pathlib import Path

import pytest
import torch

from mrcnn_zoo.distributed import launch as launching
from mrcnn_zoo.distributed.launch import ProcessLayout, launch
from mrcnn_zoo.distributed.processes import join_processes, leave_processes
from mrcnn_zoo.errors import NonFiniteLossError, UserError
from support import launched

TWO = ProcessLayout(processes_per_machine=2)


@pytest.fixture(autouse=True)
def importable_support(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `support` importable in new processes."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)


def test_single_process_runs_in_the_current_process() -> None:
    assert launch(lambda status: status, [7], ProcessLayout()) == 7


@pytest.mark.slow
def test_cpu_processes_join_regardless_of_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert launch(launched.count_processes, [str(tmp_path)], TWO) == 0
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)] == ["[0, 1] [1.0, 5.0]"] * 2


def test_crash_of_one_process_stops_the_other(caplog: pytest.LogCaptureFixture) -> None:
    assert launch(launched.crash_second, [], TWO) == 1
    trace, summary = caplog.messages
    assert trace.endswith("RuntimeError: failed in the test")
    assert summary == "process 1 failed (exit status 1); the others were ended"
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_user_error_of_all_processes_is_raised_once_without_restart(
    processes: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    layout = ProcessLayout(processes_per_machine=processes, max_restarts=3)
    with pytest.raises(UserError, match=r"^SOLVER.X = 1 is wrong$"):
        launch(launched.raise_user_error, [str(tmp_path)], layout)
    assert (tmp_path / "0.txt").read_text() == "started\n"
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_non_finite_loss_of_one_process_stops_the_other_without_restart() -> None:
    with pytest.raises(NonFiniteLossError, match=r"^the loss is not finite in iteration 3$"):
        launch(launched.diverge_in_second, [], ProcessLayout(processes_per_machine=2, max_restarts=3))
    assert multiprocessing.active_children() == []


def test_killed_process_is_restarted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert launch(launched.die_once, [str(tmp_path)], ProcessLayout(max_restarts=1)) == 0
    assert (tmp_path / "attempt").read_text() == "1"
    assert caplog.messages == ["process 0 failed (killed by SIGKILL); restart 1 of 1 from the last checkpoint"]


def test_sigterm_is_forwarded_to_processes_that_save_and_exit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    status = launch(launched.save_on_sigterm, [str(tmp_path)], ProcessLayout(max_restarts=3))
    assert status == launched.TERMINATED
    assert (tmp_path / "saved").exists()
    assert caplog.messages == []


@pytest.mark.slow
def test_processes_ignoring_sigterm_are_killed_without_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "SAVE_SECONDS", 1)
    assert launch(launched.ignore_sigterm, [], ProcessLayout(max_restarts=3)) == launched.TERMINATED
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (ProcessLayout(processes_per_machine=0), "--num-gpus 0"),
        (ProcessLayout(num_machines=2), "need --dist-url with the address"),
        (ProcessLayout(num_machines=2, url="10.0.0.1:29500"), "--dist-url 10.0.0.1:29500 must be the address"),
        (ProcessLayout(num_machines=2, url="tcp://10.0.0.1"), "--dist-url tcp://10.0.0.1 must be the address"),
        (ProcessLayout(num_machines=2, machine_rank=2, url="tcp://10.0.0.1:1"), "--machine-rank 2"),
        (ProcessLayout(processes_per_machine=2, device="cuda:1"), r"MODEL\.DEVICE = cuda:1 .* 2 processes"),
    ],
)
def test_invalid_layout_raises(layout: ProcessLayout, message: str) -> None:
    with pytest.raises(UserError, match=message):
        launch(lambda: 0, [], layout)


def test_more_processes_than_gpus_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="this machine has 1"):
        launch(lambda: 0, [], ProcessLayout(processes_per_machine=2, device="cuda"))


@pytest.mark.parametrize(("device_type", "chosen"), [("cpu", []), ("cuda", [3])])
def test_only_gpu_processes_select_a_gpu(
    device_type: str, chosen: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **__: None)
    join_processes(f"file://{tmp_path}/rendezvous", rank=7, world_size=8, local_rank=3, device_type=device_type)
    leave_processes()
    assert taken == chosen


def test_torchrun_process_without_gpu_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", 1), ("LOCAL_RANK", 1), ("WORLD_SIZE", 2), ("MASTER_ADDR", "::1"), ("MASTER_PORT", 1)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="process 1 of this machine has no GPU: there are 1 here"):
        launch(lambda: 0, [], ProcessLayout(device="cuda"))
