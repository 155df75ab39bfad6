"""Checkpoint files are written atomically and read without running code."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch

from mrcnn_zoo.checkpoint import Checkpointer, load_checkpoint
from mrcnn_zoo.errors import UserError

STATE = {"model": {"weight": torch.arange(6.0).reshape(2, 3)}, "iteration": 4, "names": ["cat", "dog"], "ema": {}}


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file of this process can grow beyond `limit` bytes: the kernel refuses the write, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- saving -----------------------------------------------------------------------------------------------------------


def test_saved_state_is_read_back(tmp_path: Path) -> None:
    path = Checkpointer(tmp_path / "new").save("model_0000004", STATE)
    state = load_checkpoint(path)
    assert torch.equal(state["model"]["weight"], STATE["model"]["weight"])
    assert {name: value for name, value in state.items() if name != "model"} == {
        "iteration": 4,
        "names": ["cat", "dog"],
        "ema": {},
    }


def test_last_checkpoint_names_the_file_as_detectron2_does(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save("model_0000004", STATE)
    path = checkpointer.save("model_0000009", STATE)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000009.pth"
    assert checkpointer.last_path() == path


def test_save_best_does_not_change_last_checkpoint(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path)
    path = checkpointer.save("model_0000004", STATE)
    assert checkpointer.save_best(STATE).name == "model_best.pth"
    assert checkpointer.last_path() == path


def test_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path / "missing")
    assert not checkpointer.has_checkpoint()
    with pytest.raises(UserError, match="nothing to resume from"):
        checkpointer.last_path()


def test_missing_last_checkpoint_is_named(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save("model_0000004", STATE).unlink()
    checkpointer.save_best(STATE)
    with pytest.raises(UserError, match=r"names model_0000004\.pth, which is not there.*model_best\.pth"):
        checkpointer.last_path()


def test_pruning_keeps_the_newest_periodic_and_all_others(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path)
    for name in ("model_0000004", "model_0000009", "model_0000014", "model_final"):
        checkpointer.save(name, STATE)
    checkpointer.save_best(STATE)
    checkpointer.prune(1)
    assert files_in(tmp_path) == ["last_checkpoint", "model_0000014.pth", "model_best.pth", "model_final.pth"]


def test_pruning_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save("model_0000009", STATE)
    checkpointer.save("model_0000004", STATE)
    checkpointer.prune(1)
    assert files_in(tmp_path) == ["last_checkpoint", "model_0000004.pth", "model_0000009.pth"]


def test_pruning_to_zero_keeps_all(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path)
    for name in ("model_0000004", "model_0000009"):
        checkpointer.save(name, STATE)
    checkpointer.prune(0)
    assert len(files_in(tmp_path)) == 3


def test_full_disk_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path)
    path = checkpointer.save("model_final", STATE)
    before = path.read_bytes()
    with full_disk(20_000), pytest.raises(UserError, match=r"cannot write .*model_final\.pth: File too large"):
        checkpointer.save("model_final", {"model": {"weight": torch.zeros(100_000)}})
    assert path.read_bytes() == before
    assert files_in(tmp_path) == ["last_checkpoint", "model_final.pth"]


def test_full_disk_does_not_change_last_checkpoint(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save("model_0000004", STATE)
    with full_disk(20_000), pytest.raises(UserError):
        checkpointer.save("model_0000009", {"model": {"weight": torch.zeros(100_000)}})
    assert checkpointer.last_path().name == "model_0000004.pth"


def test_interrupted_save_keeps_the_old_file_and_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpointer = Checkpointer(tmp_path)
    path = checkpointer.save("model_final", STATE)
    before = path.read_bytes()

    def write_half(_: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", write_half)
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save("model_final", {"iteration": 9})
    assert path.read_bytes() == before
    assert files_in(tmp_path) == ["last_checkpoint", "model_final.pth"]


def test_unfinished_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".model_0000004.pth.unfinished").write_bytes(b"half")
    Checkpointer(tmp_path).save("model_0000009", STATE)
    assert files_in(tmp_path) == ["last_checkpoint", "model_0000009.pth"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Path("x"), r"state\['outer'\]\[1\] is a pathlib"),
        (np.float64(1.0), r"state\['outer'\]\[1\] is a numpy\.float64"),
        ({3: {1, 2}}, r"state\['outer'\]\[1\]\[3\] is a builtins\.set"),
    ],
)
def test_state_with_other_types_is_not_saved(value: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=message):
        Checkpointer(tmp_path).save("model_final", {"outer": [0, value]})
    assert files_in(tmp_path) == []


def test_state_of_an_optimizer_is_plain(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter], lr=torch.tensor(0.1))
    parameter.grad = torch.ones(2)
    optimizer.step()
    path = Checkpointer(tmp_path).save("model_final", {"optimizer": optimizer.state_dict()})
    optimizer.load_state_dict(load_checkpoint(path)["optimizer"])  # raises nothing


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 1, 10, 100, 0.5, -10])
def test_checkpoint_cut_short_is_a_clear_error(kept: float, tmp_path: Path) -> None:
    path = Checkpointer(tmp_path).save("model_final", STATE)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(UserError, match=r"model_final\.pth .* is cut short or not a PyTorch file"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [b"hello", b"<!DOCTYPE html><html></html>", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_another_kind_of_file_is_a_clear_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is cut short or not a PyTorch file"):
        load_checkpoint(path)


class RunsCommand:
    """Unpickling it with Python's unpickler creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    path, marker = tmp_path / "model.pth", tmp_path / "marker"
    torch.save({"model": RunsCommand(marker)}, path)
    with pytest.raises(UserError, match=r"is refused: reading it would run posix\.system"):
        load_checkpoint(path)
    assert not marker.exists()


def test_pickled_module_is_refused_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(torch.nn.Linear(1, 1), path)
    with pytest.raises(UserError, match=r"torch\.nn\.modules\.linear\.Linear.*state_dict"):
        load_checkpoint(path)


def test_content_other_than_a_dict_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save([torch.zeros(1)], path)
    with pytest.raises(UserError, match="holds a list"):
        load_checkpoint(path)


def test_missing_file_suggests_those_beside_it(tmp_path: Path) -> None:
    Checkpointer(tmp_path).save("model_final", STATE)
    with pytest.raises(UserError, match=r"model_finl\.pth does not exist\. Did you mean 'model_final\.pth'\?"):
        load_checkpoint(tmp_path / "model_finl.pth")
