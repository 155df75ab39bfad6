"""The command `sweep` with a shell script in the place of the trainings."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mrcnn_zoo.cli.main import run_command
from mrcnn_zoo.experiments import scheduler, search
from support.shell_launcher import SCRIPT
from support.small_models import TINY_YAML


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Callable[..., int]:
    """Runs `sweep ACTION` in a temporary folder on a text with the fields of a sweep; returns the exit status.

    The test module has ACTION, and the script TRAIN.
    """
    monkeypatch.chdir(tmp_path)
    for module in (scheduler, search):
        monkeypatch.setattr(module, "SECONDS_BETWEEN_POLLS", 0.01)
    (tmp_path / SCRIPT).write_text(request.module.TRAIN)

    def run(text: str, *options: str) -> int:
        (tmp_path / "s.yaml").write_text(f"BASE: {TINY_YAML}\nOUTPUT_DIR: {tmp_path}/out\n{text}\n")
        launcher = ("--launcher", "support.shell_launcher:build")
        return run_command("sweep", [request.module.ACTION, "s.yaml", *launcher, *options])

    return run
