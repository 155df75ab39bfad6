"""The launcher slurm: settings, submission to commands in place of Slurm's, jobs of submitit's local executor."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.experiments.launchers.contract import LaunchOptions
from mrcnn_zoo.experiments.launchers.slurm import SlurmLauncher, build_slurm_launcher
from mrcnn_zoo.experiments.launchers.slurm_job import TrainingJob, train_options
from mrcnn_zoo.experiments.launchers.slurm_settings import read_settings
from mrcnn_zoo.experiments.records import read_run_file, read_sweep_folder, update_run_file
from support.small_models import TINY_YAML

pytest.importorskip("submitit")

SECONDS = 600.0  # at most, for a training


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time", "minutes"),
    [(90, 90), ("90", 90), ("30:00", 30), ("0:30", 1), ("12:00:00", 720), ("2-00", 2880), ("2-01:30", 2970)],
)
def test_a_time_is_read_as_sbatch_reads_it(time: object, minutes: int) -> None:
    assert read_settings({"TIME": time}).time == minutes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"PARTITON": "gpu"}, "SLURM has no field 'PARTITON'. Did you mean 'PARTITION'?"),
        ({"TIME": "soon"}, "SLURM.TIME = 'soon' must be minutes above 0"),
        ({"TIME": 0}, "SLURM.TIME = 0 must be"),
        ({"GPUS": -1}, "SLURM.GPUS = -1 must be a whole number of at least 0"),
        ({"NODES": True}, "SLURM.NODES = True must be"),
        ({"MEMORY": "16GB"}, "SLURM.MEMORY = '16GB' must be a number above 0: GB per node"),
        ({"CLUSTER": "pbs"}, "SLURM.CLUSTER = 'pbs' must be one of slurm, local"),
        ({"SETUP": [1]}, "SLURM.SETUP = [1] must be a list of lines"),
    ],
)
def test_a_wrong_setting_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_settings(given)
    assert message in str(caught.value)


@dataclass
class Node:
    node: int = 1
    raw_job_id: str = "41007"
    hostnames: tuple[str, ...] = ("a1", "a2")


def test_the_nodes_of_a_job_meet_at_its_first_one() -> None:
    assert train_options(TrainingJob(Path("run")), Node()) == []
    assert train_options(TrainingJob(Path("run"), gpus=4), Node()) == ["--num-gpus", "4"]
    options = train_options(TrainingJob(Path("run"), gpus=4, nodes=2), Node())
    assert options[2:] == ["--num-machines", "2", "--machine-rank", "1", "--dist-url", "tcp://a1:21007"]


# --- commands of Slurm ------------------------------------------------------------------------------------------------


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with commands sbatch, squeue and srun: `queue` has the ids that squeue lists, `script` what was sent."""
    commands = {
        "sbatch": f'cat "$1" > {tmp_path}/script; echo "Submitted batch job 71"',
        "squeue": f"cat {tmp_path}/queue",
        "srun": "exit 1",
        "scancel": f'echo "$@" >> {tmp_path}/cancelled',
    }
    for name, text in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "queue").write_text("71_0\n71_1\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def launcher_in(folder: Path, **settings: object) -> SlurmLauncher:
    launcher = build_slurm_launcher(LaunchOptions(folder / "sweep", settings=settings))
    launcher._queue.seconds = 0.0
    return launcher


def folders_in(folder: Path, count: int) -> list[Path]:
    folders = [folder / "sweep" / name for name in "abc"[:count]]
    for path in folders:
        path.mkdir(parents=True, exist_ok=True)
    return folders


def test_ready_runs_are_one_array(slurm: Path) -> None:
    launcher = launcher_in(
        slurm, PARTITION="gpu", TIME="1-00", GPUS=2, CPUS=8, MEMORY=1.5, MAX_PARALLEL=1, ACCOUNT="a", SETUP=["module x"]
    )
    folders = folders_in(slurm, 2)
    launcher.submit(folders)
    assert launcher.poll() == []
    assert [read_run_file(folder)["job"] for folder in folders] == ["71_0", "71_1"]
    lines = (slurm / "script").read_text().splitlines()
    expected = [
        "partition=gpu",
        "time=1440",
        "gpus-per-node=2",
        "cpus-per-task=8",
        "mem=1536MB",
        "array=0-1%1",
        "account=a",
    ]
    for option in [*expected, "ntasks-per-node=1", "nodes=1", "signal=USR2@120"]:
        assert f"#SBATCH --{option}" in lines
    assert "#SBATCH --requeue" in lines
    assert "module x" in lines
    launcher.stop(folders[1])
    assert (slurm / "cancelled").read_text() == "71_1\n"


def test_ended_jobs_are_found_by_their_record_or_their_absence(slurm: Path) -> None:
    launcher = launcher_in(slurm)
    finished, killed, never_begun = folders = folders_in(slurm, 3)
    (slurm / "queue").write_text("71_0\n71_1\n71_2\n")
    launcher.submit(folders)
    assert launcher.poll() == []
    update_run_file(finished, {"status": "finished"})
    assert launcher.poll() == [finished]
    update_run_file(killed, {"status": "running", "started": 1.0})
    (slurm / "queue").write_text("")
    assert [folder for _ in range(2) for folder in launcher.poll()] == [killed, never_begun]
    assert read_run_file(killed)["status"] == "interrupted"
    state = read_run_file(never_begun)
    assert state["status"] == "failed"
    assert "job 71_2 ended before its training began" in state["error"]


def test_a_queued_run_is_not_submitted_again(slurm: Path) -> None:
    folders = folders_in(slurm, 2)
    first = launcher_in(slurm)
    first.submit(folders)
    assert first.poll() == []
    first.interrupt()  # leaves the jobs
    assert first.poll() == folders
    assert not (slurm / "cancelled").exists()
    (slurm / "script").unlink()
    second = launcher_in(slurm)
    second.submit(folders)
    assert second.poll() == []
    assert not (slurm / "script").exists()
    (slurm / "queue").write_text("71_1\n")  # the first was cancelled meanwhile
    third = launcher_in(slurm)
    third.submit(folders)
    third.poll()
    assert "array" not in (slurm / "script").read_text()
    assert [read_run_file(folder)["job"] for folder in folders] == ["71", "71_1"]


def test_a_machine_without_slurm_and_a_refused_submission_are_reported(
    slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (slurm / "sbatch").write_text("#!/bin/sh\necho 'invalid partition specified: gpuu' >&2; exit 1\n")
    launcher = launcher_in(slurm, PARTITION="gpuu")
    launcher.submit(folders_in(slurm, 1))
    with pytest.raises(UserError, match=r"SLURM: the jobs cannot be submitted: .*invalid partition specified: gpuu"):
        launcher.poll()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="sbatch and srun are not found"):
        launcher_in(slurm)


# --- real jobs --------------------------------------------------------------------------------------------------------


def children(process: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    content: dict[str, torch.Tensor] = torch.load(folder / "model_final.pth", weights_only=False)["model"]
    return content


@pytest.mark.slow
def test_an_interrupted_job_is_queued_again_and_ends_bit_equal(tmp_path: Path) -> None:
    text = f"BASE: {TINY_YAML}\nSLURM: {{CLUSTER: local, MAX_PARALLEL: 1}}\nVARIANTS: {{a: {{}}, b: {{FROM: a}}}}\n"
    (tmp_path / "s.yaml").write_text(text)
    command = [sys.executable, "-m", "mrcnn_zoo", "sweep", "run", "s.yaml", "SOLVER.MAX_ITER=8"]

    def start(name: str, launcher: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, "--output", name, "--launcher", launcher], cwd=tmp_path)

    assert start("undisturbed", "local").wait() == 0
    process = start("disturbed", "slurm")
    run = tmp_path / "disturbed" / "a" / "seed_0"
    wait_for((run / "last_checkpoint").exists)
    job = int(read_run_file(run)["job"])
    (task,) = children(job)
    process.kill()  # the jobs do not need the command
    process.wait()
    os.kill(task, signal.SIGTERM)  # as Slurm on a preemption
    os.kill(task, signal.SIGUSR2)
    assert start("disturbed", "slurm").wait() == 0
    assert read_run_file(run)["job"] == str(job)
    log = (run / "console.log").read_text()
    assert log.count("SIGTERM: finishing the current step, then saving") == 1
    iterations = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    assert [row["iteration"] for row in iterations if "total_loss" in row] == list(range(8))
    record = read_sweep_folder(tmp_path / "disturbed")
    assert [entry.status for entry in record.runs] == ["finished", "finished"]
    for name in ("a", "b"):
        expected = weights(tmp_path / "undisturbed" / name / "seed_0")
        found = weights(tmp_path / "disturbed" / name / "seed_0")
        assert all(torch.equal(expected[key], found[key]) for key in expected)
