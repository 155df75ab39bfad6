"""What a run does after an elastic agent has restarted its processes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mrcnn_zoo.checkpoint import load_checkpoint
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.training import run
from mrcnn_zoo.training.preflight import resume_after_restart
from mrcnn_zoo.training.stages.stage import Stage, clear_training_folders

TinyConfig = Callable[..., CfgNode]


@pytest.fixture
def restart(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Sets the variables of an agent that may restart this process once; a call makes it the second attempt."""
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    return lambda: monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")


@pytest.mark.parametrize("resume", [False, True])
def test_a_restarted_run_resumes_whatever_was_typed(resume: bool, restart: Callable[[], None], tmp_path: Path) -> None:
    assert resume_after_restart(tmp_path, resume=resume, overwrite=False) == (resume, False)
    restart()
    assert resume_after_restart(tmp_path, resume=resume, overwrite=False) == (True, False)


def test_a_restarted_run_overwrites_until_the_old_training_is_removed(
    restart: Callable[[], None], tiny_config: TinyConfig, tmp_path: Path
) -> None:
    (tmp_path / "model_0000005.pth").touch()
    assert resume_after_restart(tmp_path, resume=False, overwrite=True) == (False, True)
    restart()
    assert resume_after_restart(tmp_path, resume=False, overwrite=True) == (False, True)
    clear_training_folders(tmp_path, [Stage("", tiny_config(f"OUTPUT_DIR={tmp_path}"))])
    assert resume_after_restart(tmp_path, resume=False, overwrite=True) == (True, False)
    assert list(tmp_path.iterdir()) == []


def test_training_goes_on_after_a_restart(
    restart: Callable[[], None], tiny_config: TinyConfig, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ("DATASETS.TEST=[]", "SOLVER.STEPS=[]", "SOLVER.WARMUP_ITERS=0", "WRITERS=[json]")
    cfg = tiny_config(*settings, "SOLVER.MAX_ITER=2")
    run(cfg, overwrite=True)
    restart()
    with caplog.at_level("INFO"):
        run(tiny_config(*settings, "SOLVER.MAX_ITER=3"), overwrite=True)
    assert "resumed after 2 iterations" in caplog.text
    assert load_checkpoint(Path(cfg.OUTPUT_DIR) / "model_final.pth")["iteration"] == 3
