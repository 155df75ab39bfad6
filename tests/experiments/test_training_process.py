"""Trainings in processes: lock, states, errors, signals; the local launcher. Shell commands replace the training."""

import errno
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mrcnn_zoo.experiments.launchers import contract
from mrcnn_zoo.experiments.launchers.contract import TrainingProcess
from mrcnn_zoo.experiments.launchers.local import LocalLauncher
from mrcnn_zoo.experiments.locks import FolderLock, is_locked, owner_of
from mrcnn_zoo.experiments.records import read_run, read_run_file, update_run_file
from mrcnn_zoo.experiments.runs import RunKey
from support.shell_launcher import ShellLauncher

KEY = RunKey("a", 0)
SECONDS = 20.0


def shell(folder: Path, command: str) -> TrainingProcess:
    folder.mkdir(exist_ok=True)
    return TrainingProcess(folder, prefix=("/bin/sh", "-c", command))


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def ended(folder: Path, command: str) -> tuple[str, str]:
    """The status and the error after a command."""
    process = shell(folder, command)
    assert process.start()
    wait_for(process.poll)
    record = read_run(KEY, folder)
    return record.status, record.error


@pytest.mark.parametrize(
    ("command", "status", "error"),
    [
        ("exit 0", "finished", ""),
        ("exit 130", "interrupted", ""),
        ("exit 143", "interrupted", ""),
        ("kill -TERM $$", "interrupted", ""),
        ("exit 3", "failed", "exit status 3"),
        ("echo one; echo; echo two >&2; exit 1", "failed", "one\ntwo"),
        ("echo before; echo 'error: a key'; echo '  is wrong'; exit 2", "failed", "error: a key\n  is wrong"),
        ("kill -KILL $$", "failed", "ended by SIGKILL, perhaps because memory ran out\n"),
    ],
)
def test_the_state_of_an_ended_training(command: str, status: str, error: str, tmp_path: Path) -> None:
    assert ended(tmp_path / "run", command) == (status, error)
    assert read_run_file(tmp_path / "run")["seconds"] > 0


def test_the_command_trains_the_config_of_the_run_and_resumes(tmp_path: Path) -> None:
    assert (
        ended(tmp_path / "run", 'echo "$@" >&2; exit 1')[1]
        == f"mrcnn_zoo train --config-file {tmp_path}/run/run.yaml --resume"
    )


def test_a_folder_is_trained_in_by_one_process_at_a_time(tmp_path: Path) -> None:
    first, second = (shell(tmp_path / "run", f"read line < {tmp_path}/go") for _ in range(2))
    os.mkfifo(tmp_path / "go")
    assert first.start()
    assert not second.start()
    assert read_run(KEY, tmp_path / "run").status == "running"
    (tmp_path / "go").write_text("go\n")
    wait_for(first.poll)
    assert read_run(KEY, tmp_path / "run").status == "finished"
    assert second.start()
    second.kill()  # by a second Ctrl-C: it has not failed
    wait_for(second.poll)
    record = read_run(KEY, tmp_path / "run")
    assert (record.status, record.error) == ("interrupted", "")


def test_the_lock_is_kept_by_the_training_when_its_starter_is_killed(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path / "run.lock")
    assert lock.acquire()
    child = subprocess.Popen(["sleep", "60"], pass_fds=(lock.file_descriptor,))
    lock.release()  # the kernel does this to a killed process
    assert is_locked(tmp_path / "run.lock")
    assert not FolderLock(tmp_path / "run.lock").acquire()
    assert owner_of(tmp_path / "run.lock").startswith(f"process {os.getpid()} on ")
    child.kill()
    child.wait()
    assert not is_locked(tmp_path / "run.lock")


def test_a_running_state_without_a_process_is_interrupted(tmp_path: Path) -> None:
    update_run_file(tmp_path, {"status": "running"})
    assert read_run(KEY, tmp_path).status == "interrupted"


def launched(launcher: LocalLauncher, folders: list[Path]) -> list[Path]:
    """The folders in the order in which their trainings end."""
    found: list[Path] = []
    launcher.submit(folders)
    wait_for(lambda: found.extend(launcher.poll()) or len(found) >= len(folders))
    return found


def test_jobs_share_cores_and_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    launcher = ShellLauncher(jobs=2, cores=5, gpus=["3", "7"])
    launcher.command = 'echo "$OMP_NUM_THREADS $CUDA_VISIBLE_DEVICES"; exit 1'
    launched(launcher, [tmp_path / "a", tmp_path / "b"])
    assert [read_run_file(tmp_path / name)["error"] for name in "ab"] == ["2 3", "2 7"]
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    launched(launcher, [tmp_path / "c"])
    assert read_run_file(tmp_path / "c")["error"] == "9 3"


def test_as_many_trainings_run_as_there_are_jobs(tmp_path: Path) -> None:
    launcher = ShellLauncher(jobs=2, cores=2)
    launcher.command = f"echo begun >> {{folder}}/begun; read line < {tmp_path}/go; exit 0"
    os.mkfifo(tmp_path / "go")
    folders = [tmp_path / name for name in "abc"]
    launcher.submit(folders)
    assert launcher.poll() == []
    wait_for(lambda: (folders[0] / "begun").exists() and (folders[1] / "begun").exists())
    assert launcher.poll() == []
    assert not folders[2].exists()
    launcher.interrupt()
    assert folders[2] in launcher.poll()  # never began
    launcher.kill()
    wait_for(lambda: launcher.poll() or not is_locked(folders[0] / "run.lock"))


def test_a_training_whose_state_cannot_be_written_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = shell(tmp_path / "run", "exec sleep 60")

    def full_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "run.json")

    with monkeypatch.context() as changed:
        changed.setattr(contract, "update_run_file", full_disk)
        with pytest.raises(OSError, match="No space left"):
            process.start()
    wait_for(process.poll)
    assert read_run(KEY, tmp_path / "run").status == "interrupted"


def test_a_full_disk_does_not_prevent_a_lock(tmp_path: Path) -> None:
    first, second = FolderLock(Path("/dev/full")), FolderLock(tmp_path / "run.lock")
    assert first.acquire()  # writes fail with ENOSPC
    assert second.acquire()
    first.release()
    second.release()


def test_a_run_that_an_earlier_sweep_still_trains_is_waited_for(tmp_path: Path) -> None:
    orphan = shell(tmp_path / "a", f"read line < {tmp_path}/go")
    os.mkfifo(tmp_path / "go")
    assert orphan.start()
    launcher = ShellLauncher(jobs=1, cores=1)
    launcher.submit([tmp_path / "a"])
    assert launcher.poll() == []
    assert launcher.poll() == []
    orphan.kill()
    wait_for(orphan.poll)
    assert read_run(KEY, tmp_path / "a").status == "interrupted"
    wait_for(launcher.poll)
    assert read_run(KEY, tmp_path / "a").status == "finished"
